"""Values of the options of `prepare`, read from text. Each reader raises ArgumentTypeError or SettingError."""

from __future__ import annotations

import math
import re
from argparse import ArgumentTypeError
from collections.abc import Callable
from datetime import date
from pathlib import Path

from recbole_cora.errors import SettingError
from recbole_cora.settings.reading import parse_arguments


def path(text: str) -> Path:
    """Return a path without NUL characters."""
    if "\0" in text:
        raise ArgumentTypeError(f"{text!r} is not a path: it has a NUL character")
    return Path(text)


def name(text: str) -> str:
    """Return a dataset's name."""
    if not re.fullmatch(r"\w[\w.-]*", text):
        raise SettingError(f"the dataset's name is {text!r}; give a --name= of letters, digits, '-', '_' and '.'")
    if not _is_text(text):
        raise SettingError(f"the dataset's name is {text!r}, which --dataset= would not read as text; add a letter")
    return text


def name_of(file: Path) -> str:
    """Return the name of a dataset whose ratings file has this name.

    `my ratings.csv.gz` gives `my-ratings`, and `2024.csv` gives `data-2024`.
    """
    text = re.sub(r"[^\w-]+", "-", file.name.split(".")[0]).strip("-")
    return name(text if not text or _is_text(text) else f"data-{text}")


def _is_text(text: str) -> bool:
    """Return whether `run --dataset=` reads this as text, and not as a number or another value."""
    return isinstance(parse_arguments([f"--dataset={text}"])["dataset"], str)


def count(text: str) -> int:
    """Return a whole number of at least 0."""
    try:
        number = int(text)
        if number < 0:
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 0") from None
    return number


def positive(text: str) -> int:
    """Return a whole number of at least 1."""
    if (number := count(text)) < 1:
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return number


def one_of(*words: str) -> Callable[[str], str]:
    """Return a reader of one of these words."""

    def read(text: str) -> str:
        if text not in words:
            raise ArgumentTypeError(f"{text!r} is neither {' nor '.join(map(repr, words))}")
        return text

    return read


def finite(text: str) -> float:
    """Return a finite number."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ArgumentTypeError(f"{text!r} is not a finite number")
    return number


def shares(text: str) -> tuple[float, float, float]:
    """Return three shares above 0."""
    try:
        train, valid, test = (finite(part) for part in text.split(","))
        if min(train, valid, test) <= 0:
            raise ValueError
    except (ValueError, ArgumentTypeError):
        raise ArgumentTypeError(f"{text!r} is not three shares above 0, such as 0.8,0.1,0.1") from None
    return train, valid, test


def windows(text: str) -> tuple[str, ...]:
    """Return four ISO dates in order."""
    days = tuple(text.split(","))
    try:
        if len(days) != 4 or sorted(map(date.fromisoformat, days)) != [date.fromisoformat(d) for d in days]:
            raise ValueError
    except ValueError:
        raise ArgumentTypeError(
            f"{text!r} is not four dates in order, such as 2001-06-01,2002-04-01,2002-09-01,2003-02-01"
        ) from None
    return days
