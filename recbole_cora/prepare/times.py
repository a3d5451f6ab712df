"""Find how a time column is written, and turn its cells into Unix seconds: numbers, ISO dates, or a date pattern."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from recbole_cora.data.protocol import Array
from recbole_cora.errors import DataError, SettingError

#: Units of a number by the name that `--time-format=` takes: how many make a second, and from which number on they
#: are recognised. In 1973 a time in milliseconds passed 1e11; seconds stay below 4.2e9 until the year 2100.
UNITS = {"s": (1.0, 0.0), "ms": (1e3, 1e11), "us": (1e6, 1e14), "ns": (1e9, 1e17)}
_UNIT_NAMES = {"s": "Unix seconds", "ms": "Unix milliseconds", "us": "Unix microseconds", "ns": "Unix nanoseconds"}
#: Fourteen digits, 20201231235959, lie between milliseconds and microseconds.
_DIGITS = ("%Y%m%d%H%M%S", 19_700_101_000_000, 21_001_231_235_959)
_DAY_FIRST = ("%d.%m.%Y", "%d.%m.%y", "%d/%m/%Y", "%d-%m-%Y", "%d/%m/%y")
_MONTH_FIRST = ("%m/%d/%Y", "%m-%d-%Y", "%m/%d/%y")
_OTHERS = ("%Y/%m/%d", "%Y.%m.%d", "%d %b %Y", "%d %B %Y", "%b %d, %Y", "%B %d, %Y", "%d-%b-%Y")
_CLOCKS = ("", " %H:%M", " %H:%M:%S", ", %H:%M", ", %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_WHOLE = ("%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z")
#: The share of cells that must be readable for a way of writing to be taken.
_ENOUGH = 0.5


@dataclass(frozen=True)
class TimeFormat:
    """How a time column is written.

    Attributes:
        unit: a key of UNITS, for numbers.
        pattern: strptime's pattern of a date; None: numbers of this unit and ISO dates.
    """

    unit: str = "s"
    pattern: str | None = None

    def __str__(self) -> str:
        if self.pattern is None:
            return _UNIT_NAMES[self.unit]
        day_first = self.pattern.startswith("%d")
        order = ", day first" if day_first else ", month first" if self.pattern.startswith("%m") else ""
        return f"dates as {self.pattern}{order}"

    def numbers(self, cells: Sequence[str]) -> Array:
        """Return the cells that are numbers as Unix seconds; nan for all others."""
        return numbers(cells) / UNITS[self.unit][0]

    def dates(self, cells: Sequence[str]) -> Array:
        """Return the cells that are dates as Unix seconds (UTC if they name no zone); nan for all others."""
        return _seconds(cells, self.pattern or "ISO8601")


def read_format(text: str) -> TimeFormat:
    """Return the format that `--time-format=` names.

    Raises:
        SettingError: the text is neither a unit, nor iso, nor a pattern.
    """
    if text in UNITS or text == "iso":
        return TimeFormat(unit="s" if text == "iso" else text)
    if "%" not in text:
        raise SettingError(
            f"{text!r} is no way to write a time; expected a pattern such as %d.%m.%Y or '%m/%d/%Y %H:%M', iso, or one "
            f"of {', '.join(UNITS)}"
        )
    return TimeFormat(pattern=text)


def find_format(cells: Sequence[str], where: str) -> TimeFormat:
    """Return how these cells of a time column are written.

    Args:
        where: names the column in an error message.

    Raises:
        DataError: most cells are no time, or their dates can be read with the day first and with the month first.
    """
    cells = [cell.strip() for cell in cells if cell.strip()]
    if not cells:
        return TimeFormat()
    values = numbers(cells)
    if np.isfinite(values).mean() >= _ENOUGH:
        middle = float(np.nanmedian(values))
        if _DIGITS[1] <= middle <= _DIGITS[2]:
            return TimeFormat(pattern=_DIGITS[0])
        return TimeFormat(next(unit for unit, (_, least) in reversed(UNITS.items()) if middle >= least or unit == "s"))
    if _share(cells, "ISO8601") >= _ENOUGH:
        return TimeFormat()
    return TimeFormat(pattern=_pattern(cells, where))


def _pattern(cells: Sequence[str], where: str) -> str:
    days = (*_DAY_FIRST, *_MONTH_FIRST, *_OTHERS)
    patterns = [*map("".join, product(days, _CLOCKS)), *_WHOLE]
    start = cells[:20]
    shares = {pattern: _share(cells, pattern) for pattern in patterns if _share(start, pattern) > 0}
    best = max(shares.values(), default=0.0)
    if best < _ENOUGH:
        raise DataError(
            f"{where} is no time that is recognised ({cells[0]!r}); name another column by --time-column=, or say how "
            "it is written by --time-format=, such as %d.%m.%Y"
        )
    fitting = [pattern for pattern, share in shares.items() if share == best]
    if len(fitting) > 1 and fitting[-1].startswith("%m"):
        raise DataError(
            f"{where} has dates such as {cells[0]!r}, in which day and month cannot be told apart; add "
            f"'--time-format={fitting[0]}' or '--time-format={fitting[-1]}'"
        )
    return fitting[0]


def numbers(cells: Sequence[str]) -> Array:
    """Return the cells as floats; nan where one is not a number."""
    return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(np.float64, copy=True)


def _share(cells: Sequence[str], pattern: str) -> float:
    """Return the share of cells that are dates of this pattern."""
    return float(np.isfinite(_seconds(cells, pattern)).mean())


def _seconds(cells: Sequence[str], pattern: str) -> Array:
    try:
        times = pd.to_datetime(pd.Series(cells, dtype=object), errors="coerce", utc=True, format=pattern)
    except ValueError as error:  # the pattern itself
        raise SettingError(f"--time-format: {pattern!r} is no pattern of strptime ({error})") from None
    seconds: Array = (times - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy(np.float64)
    return seconds
