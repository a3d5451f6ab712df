"""Raw ratings and items in compact columns. Each reader returns them, and the recipe takes them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd

from recbole_cora.data.protocol import Array
from recbole_cora.errors import DataError
from recbole_cora.prepare.problems import FileProblems
from recbole_cora.prepare.times import TimeFormat, numbers

#: The largest plausible timestamp, in Unix seconds: the start of the year 2100.
_LAST_SECOND = 4_102_444_800
_CHUNK = 50_000
_SECONDS = TimeFormat()
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_SPACE = re.compile(r"\s")

T = TypeVar("T")


@dataclass
class Raw:
    """R ratings in the order of the file, and the table of items.

    Attributes:
        user, item: codes [R], indices into `user_tokens` and `item_tokens`, numbered by first appearance.
        rating: [R].
        time: Unix seconds [R].
        line: line numbers in the file [R].
        items: text columns, `title` first, indexed by item token; None without an item file.
        item_types: RecBole's type of each of these columns.
        files: the files that were read.
        problems: the problems of the ratings file.
        notes: what the reader found in the files, one line each, for the screen.
        has_times: False if `time` is only the order of the rows in the file.
    """

    user: Array
    item: Array
    rating: Array
    time: Array
    line: Array
    user_tokens: list[str]
    item_tokens: list[str]
    items: pd.DataFrame | None
    item_types: dict[str, str]
    files: list[Path]
    problems: FileProblems
    notes: list[str] = field(default_factory=list)
    has_times: bool = True


class RatingColumns:
    """Collects ratings chunk by chunk. Rows that cannot be ratings are counted and left out.

    Args:
        problems: the problems of the ratings file.
        least, most: the range of valid ratings.
        time: how times are written.
    """

    def __init__(
        self, problems: FileProblems, least: float = -np.inf, most: float = np.inf, time: TimeFormat = _SECONDS
    ) -> None:
        self._problems, self._least, self._most, self._time = problems, least, most, time
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._chunks: list[tuple[Array, ...]] = []

    def add(
        self, line: Array, user: Sequence[str], item: Sequence[str], rating: Sequence[str], time: Sequence[str]
    ) -> None:
        """Add the rows of one chunk: line numbers, tokens, and `rating` and `time` as text."""
        ratings, seconds = numbers(rating), self._seconds(line, time)
        with np.errstate(invalid="ignore"):
            wrong = (
                ("no user or item", [not u.strip() or not i.strip() for u, i in zip(user, item, strict=True)], user),
                ("id that is no text", [*map(_is_no_text, user, item)], user),
                ("rating is no number", ~np.isfinite(ratings), rating),
                ("rating out of range", (ratings < self._least) | (ratings > self._most), rating),
                ("timestamp is no number and no date", np.isnan(seconds), time),
                (
                    "timestamp out of range (Unix seconds from 1970 to 2100 are expected)",
                    (seconds < 0) | (seconds > _LAST_SECOND),
                    time,
                ),
            )
        good = np.ones(len(line), dtype=bool)
        for kind, flags, cells in wrong:
            bad = good & np.asarray(flags, dtype=bool)
            if bad.any():
                first = int(np.argmax(bad))
                self._problems.add(kind, int(line[first]), cells[first], int(bad.sum()))
                good &= ~bad
        keep = np.flatnonzero(good)
        users, items = _codes(user, keep, self._users), _codes(item, keep, self._items)
        self._chunks.append((users, items, ratings[keep], seconds[keep], line[keep]))

    def finish(self, items: pd.DataFrame | None, item_types: dict[str, str], files: list[Path]) -> Raw:
        """Return all rows. Raises DataError if there are none, or more bad rows than good ones."""
        rows = sum(len(chunk[0]) for chunk in self._chunks)
        if rows == 0 or self._problems.left_out > rows:
            raise DataError(
                f"{self._problems.path} has {rows:,} usable rows ({self._problems}): is it empty, or the wrong file?"
            )
        user, item, rating, time, line = (np.concatenate(column) for column in zip(*self._chunks, strict=True))
        users, tokens = self._tokens(self._users, user, line), self._tokens(self._items, item, line)
        return Raw(user, item, rating, time, line, users, tokens, items, item_types, files, self._problems)

    def _tokens(self, codes_by_token: dict[str, int], codes: Array, line: Array) -> list[str]:
        """Return the tokens in order of their codes, each as one word. `codes` and `line` cover all rows."""
        spaced_codes = [code for token, code in codes_by_token.items() if _SPACE.search(token)]
        if spaced_codes:
            rows = np.isin(codes, spaced_codes)
            first = int(np.argmax(rows))
            example = next(token for token, code in codes_by_token.items() if code == codes[first])
            kind = "id with spaces, which become %20"
            self._problems.add(kind, int(line[first]), example, int(rows.sum()), kept=True)
        return [one_word(token) for token in codes_by_token]

    def _seconds(self, line: Array, time: Sequence[str]) -> Array:
        """Return Unix seconds of the cells; nan for a cell that is no time."""
        if self._time.pattern is not None:
            return self._time.dates(time)
        seconds = self._time.numbers(time)
        days = np.zeros(len(seconds), dtype=bool)
        if self._time.unit == "s":
            days = (seconds >= 19700101) & (seconds <= 21001231) & (seconds % 100 <= 31) & (seconds % 10000 <= 1231)
        if days.any():  # as seconds, they would all lie between August 17 and September 1, 1970
            first = int(np.argmax(days))
            kind = "timestamp of eight digits, read as a date"
            self._problems.add(kind, int(line[first]), time[first], int(days.sum()), kept=True)
        dates = np.flatnonzero(~np.isfinite(seconds) | days).tolist()
        if dates:
            seconds[dates] = self._time.dates([time[place] for place in dates])
        return seconds


class ItemTable:
    """Collects an item file: for each item token a title and other cells.

    Args:
        columns: the names of the other cells. A name that is already taken, such as `title`, gets a number.
    """

    def __init__(self, problems: FileProblems, columns: Sequence[str]) -> None:
        self._problems = problems
        names = ["item_id", "title"]
        for column in columns:
            name = "_".join(column.replace(":", " ").split()).lower() or "unnamed"
            unique, number = name, len(names)
            while unique in names:
                unique, number = f"{name}_{number}", number + 1
            names.append(unique)
        self._names = names[1:]
        self._rows: dict[str, list[str]] = {}

    def add(self, line: int, token: str, title: str, *others: str) -> None:
        """Add one item; a second one with the same token is a problem and is left out."""
        cells = [one_line(cell) for cell in (title, *others)]
        if cells[0] != title.strip():
            self._problems.add("title with tabs, newlines or bytes that are no text", line, title, kept=True)
        word = one_word(token)
        if word in self._rows:
            self._problems.add("item named before", line, token)
        else:
            self._rows[word] = cells

    def finish(self) -> pd.DataFrame:
        """Return the table by item token. Raises DataError if there is no item."""
        if not self._rows:
            raise DataError(f"{self._problems.path} names no item ({self._problems}): is it empty, or the wrong file?")
        return pd.DataFrame.from_dict(self._rows, orient="index", columns=self._names)


def in_chunks(rows: Iterator[T]) -> Iterator[list[T]]:
    """Yield the rows in lists, none of them empty."""
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def one_line(text: str) -> str:
    """Return a text as a cell of an atomic file. White space becomes one space, and an unreadable byte becomes `?`."""
    return " ".join(_NO_TEXT.sub("?", text).split())


def one_word(token: str) -> str:
    """Return an id as one word, because a space separates the ids of `item_id_list`."""
    return _SPACE.sub(lambda space: f"%{ord(space[0]):02X}", _NO_TEXT.sub("?", token))


def _is_no_text(user: str, item: str) -> bool:
    return _NO_TEXT.search(user) is not None or _NO_TEXT.search(item) is not None


def _codes(tokens: Sequence[str], keep: Array, codes: dict[str, int]) -> Array:
    """Return the codes of the tokens at the indices `keep`; a new token gets the next code and enters `codes`."""
    return np.fromiter((codes.setdefault(tokens[place], len(codes)) for place in keep), np.int32, len(keep))
