"""A space of settings: a YAML that says of each setting how it is drawn."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_cora.errors import SettingError, nearest
from recbole_cora.settings.reading import PROPERTIES, read_yaml
from recbole_cora.settings.resolve import Settings

DRAWS = ("choice", "uniform", "loguniform", "randint")


@dataclass(frozen=True)
class Draw:
    """How one setting is drawn: one of DRAWS, and its choices or its [low, high]."""

    kind: str
    values: list[Any]


def read_space(path: str | None) -> dict[str, Draw]:
    """A space by setting, from a file, or `properties/space.yaml`.

    Raises:
        SettingError: no such file, an unknown way to draw, bounds that are none.
    """
    file = Path(path) if path else PROPERTIES / "space.yaml"
    space = {key: _draw(file, key, entry) for key, entry in read_yaml(file).items()}
    if not space:
        raise SettingError(
            f"{file} names no setting; expected lines such as 'learning_rate: {{choice: [0.01, 0.001]}}'"
        )
    return space


def _draw(file: Path, key: str, entry: Any) -> Draw:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SettingError(f"{file}: {key} is {entry!r}; expected one of {', '.join(DRAWS)}, as {{choice: [a, b]}}")
    ((kind, values),) = entry.items()
    if kind not in DRAWS:
        raise SettingError(
            f"{file}: {key} is drawn by '{kind}'{nearest(str(kind), DRAWS)}; expected {', '.join(DRAWS)}"
        )
    if not isinstance(values, list) or not values:
        raise SettingError(f"{file}: {key} has {values!r}; expected a list such as [0.01, 0.001]")
    if kind != "choice":
        types = int if kind == "randint" else (int, float)
        numbers = all(
            isinstance(value, types) and not isinstance(value, bool) and math.isfinite(value) for value in values
        )
        if len(values) != 2 or not numbers or values[0] >= values[1] or (kind == "loguniform" and values[0] <= 0):
            kinds = " above 0" if kind == "loguniform" else " in whole numbers" if kind == "randint" else ""
            raise SettingError(f"{file}: {key} has {values!r}; expected [low, high]{kinds}, low first")
    return Draw(kind, values)


def wrong_draws(space: dict[str, Draw], settings: Settings) -> list[str]:
    """Say which settings of a space do not exist, and which values or bounds are outside a setting's range."""
    problems = []
    for key, draw in space.items():
        if key not in settings:
            problems.append(f"the space names an unknown setting '{key}'{nearest(key, settings)}")
            continue
        values = [*draw.values[:-1], draw.values[-1] - 1] if draw.kind == "randint" else draw.values
        for value in values:
            try:
                settings.declared[key].read(value)
            except ValueError as error:
                problems.append(f"the space cannot be searched: {error}")
    return problems


def draw_all(space: dict[str, Draw], search: str, count: int, seed: int) -> dict[str, dict[str, Any]]:
    """The settings of every trial, by its name, where none depends on another's outcome. No two are alike.

    Args:
        search: "grid": every combination of choices; "random": `count` draws, or fewer where there are no more.

    Raises:
        SettingError: a grid of something else than choices.
    """
    if search == "grid":
        for key, draw in space.items():
            if draw.kind != "choice":
                raise SettingError(f"--search=grid takes choices; {key} is drawn by {draw.kind}")
        rows = list(itertools.product(*(draw.values for draw in space.values())))
    else:
        random = np.random.default_rng(seed)
        rows, drawn = [], set()
        for _ in range(100 * count):
            row = tuple(_one(draw, random) for draw in space.values())
            # Choices may be lists, which no set holds; equal ones have one place.
            places = tuple(
                draw.values.index(value) if draw.kind == "choice" else value
                for draw, value in zip(space.values(), row, strict=True)
            )
            if places not in drawn:
                drawn.add(places)
                rows.append(row)
            if len(rows) == count:
                break
    return {f"trial-{n:03d}": dict(zip(space, row, strict=True)) for n, row in enumerate(rows, start=1)}


def _one(draw: Draw, random: np.random.Generator) -> Any:
    if draw.kind == "choice":
        return draw.values[int(random.integers(len(draw.values)))]
    low, high = draw.values
    if draw.kind == "randint":
        return int(random.integers(low, high))
    if draw.kind == "loguniform":
        return float(np.exp(random.uniform(np.log(low), np.log(high))))
    return float(random.uniform(low, high))
