"""The search space: a YAML file that names settings and how each is drawn."""

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
    """How one setting is drawn.

    Attributes:
        kind: one of DRAWS.
        values: the choices, or [low, high].
    """

    kind: str
    values: list[Any]


def read_space(path: str | None) -> dict[str, Draw]:
    """Return how each setting is drawn, from a YAML file; None reads `properties/space.yaml`.

    Raises:
        SettingError: the file cannot be read, or has an unknown kind of draw or impossible bounds.
    """
    file = Path(path) if path else PROPERTIES / "space.yaml"
    space = {key: _draw(file, key, entry) for key, entry in read_yaml(file).items()}
    if not space:
        raise SettingError(
            f"{file} names no setting; expected lines such as 'learning_rate: {{choice: [0.01, 0.001]}}'"
        )
    return space


def _draw(file: Path, key: str, entry: object) -> Draw:
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SettingError(f"{file}: {key} is {entry!r}; expected one of {', '.join(DRAWS)}, like {{choice: [a, b]}}")
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
    """Return what is wrong with a space: unknown settings, and values or bounds outside a setting's range."""
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


def draw_all(space: dict[str, Draw], method: str, count: int, seed: int) -> dict[str, dict[str, object]]:
    """Return the settings of every trial by its name, no two the same.

    Args:
        method: "grid" takes every combination of choices; "random" makes `count` draws, or fewer if the space has no
            more.

    Raises:
        SettingError: a setting of the grid is not drawn by choice.
    """
    if method == "grid":
        for key, draw in space.items():
            if draw.kind != "choice":
                raise SettingError(f"--search=grid takes choices; {key} is drawn by {draw.kind}")
        rows = list(itertools.product(*(draw.values for draw in space.values())))
    else:
        random = np.random.default_rng(seed)
        rows, unique = [], set()
        for _ in range(100 * count):
            row = tuple(_draw_value(draw, random) for draw in space.values())
            # A choice may be a list, which is not hashable; equal choices share the index of the first.
            identity = tuple(
                draw.values.index(value) if draw.kind == "choice" else value
                for draw, value in zip(space.values(), row, strict=True)
            )
            if identity not in unique:
                unique.add(identity)
                rows.append(row)
            if len(rows) == count:
                break
    return {f"trial-{n:03d}": dict(zip(space, row, strict=True)) for n, row in enumerate(rows, start=1)}


def _draw_value(draw: Draw, random: np.random.Generator) -> object:
    if draw.kind == "choice":
        return draw.values[int(random.integers(len(draw.values)))]
    low, high = draw.values
    if draw.kind == "randint":
        return int(random.integers(low, high))
    if draw.kind == "loguniform":
        return float(np.exp(random.uniform(np.log(low), np.log(high))))
    return float(random.uniform(low, high))
