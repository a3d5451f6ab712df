"""A space of settings: a YAML that says of each setting how it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_cora.errors import SettingError, nearest
from recbole_cora.settings import PROPERTIES, read_yaml

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
        numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        if len(values) != 2 or not numbers or values[0] >= values[1] or (kind == "loguniform" and values[0] <= 0):
            above = " above 0" if kind == "loguniform" else ""
            raise SettingError(f"{file}: {key} has {values!r}; expected [low, high]{above}, low first")
    return Draw(kind, values)
