"""Ratings and items as they come, in compact columns: what every reader gives and every recipe takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from recbole_cora.data.protocol import Array
from recbole_cora.errors import DataError
from recbole_cora.prepare.problems import FileProblems

#: Timestamps that can be meant: 1970 to 2100, in Unix seconds.
_LAST_SECOND = 4_102_444_800
_CHUNK = 50_000
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
_SPACE = re.compile(r"\s")

T = TypeVar("T")


@dataclass
class Raw:
    """R rated rows in the order of the file, and what is known of items.

    Attributes:
        user, item: codes [R] by first appearance among the rows that are read, into `user_tokens`, `item_tokens`.
        rating: [R]; time: Unix seconds [R]; line: where it stands in the file [R].
        items: text columns by item token (the index): `title`, and more; None where no item file was given.
        item_types: RecBole's type of each of these columns.
        files: what was read.
        problems: of the ratings file.
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


class RatingColumns:
    """Collects rated rows chunk by chunk; what cannot be a rating is counted, not kept.

    Args:
        problems: of the ratings file.
        least, most: ratings that can be meant.
    """

    def __init__(self, problems: FileProblems, least: float = -np.inf, most: float = np.inf) -> None:
        self._problems, self._least, self._most = problems, least, most
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._chunks: list[tuple[Array, ...]] = []

    def add(self, line: Array, user: Sequence[str], item: Sequence[str], rating: Any, time: Any) -> None:
        """Rows of one chunk: line numbers, tokens, and `rating` and `time` as text."""
        ratings, seconds = _numbers(rating), self._seconds(line, time)
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
        """All rows. Raises DataError where there are none, or more bad rows than good ones."""
        rows = sum(len(chunk[0]) for chunk in self._chunks)
        if rows == 0 or self._problems.left_out > rows:
            raise DataError(
                f"{self._problems.path} has {rows:,} usable rows ({self._problems}): is it empty, or another file?"
            )
        user, item, rating, time, line = (np.concatenate(column) for column in zip(*self._chunks, strict=True))
        users, tokens = self._tokens(self._users, user, line), self._tokens(self._items, item, line)
        return Raw(user, item, rating, time, line, users, tokens, items, item_types, files, self._problems)

    def _tokens(self, known: dict[str, int], codes: Array, line: Array) -> list[str]:
        """The tokens by code, each one word."""
        spaced = [code for token, code in known.items() if _SPACE.search(token)]
        if spaced:
            rows = np.isin(codes, spaced)
            first = int(np.argmax(rows))
            example = next(token for token, code in known.items() if code == codes[first])
            kind = "id with spaces, which become %20"
            self._problems.add(kind, int(line[first]), example, int(rows.sum()), kept=True)
        return [one_word(token) for token in known]

    def _seconds(self, line: Array, time: Sequence[str]) -> Array:
        """Unix seconds of numbers and of ISO dates (UTC where they name no zone); nan for anything else."""
        seconds = _numbers(time)
        days = (seconds >= 19700101) & (seconds <= 21001231) & (seconds % 100 <= 31) & (seconds % 10000 <= 1231)
        if days.any():  # as seconds they would all lie in autumn 1970
            first = int(np.argmax(days))
            kind = "timestamp of eight digits, read as a date"
            self._problems.add(kind, int(line[first]), time[first], int(days.sum()), kept=True)
        dates = np.flatnonzero(~np.isfinite(seconds) | days)
        if len(dates):
            cells = pd.Series([time[place] for place in dates], dtype=object)
            read = pd.to_datetime(cells, errors="coerce", utc=True, format="ISO8601")
            seconds[dates] = (read - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy()
        return seconds


class ItemTable:
    """Collects what an item file says: one title and more cells by item token.

    Args:
        columns: names of the other cells; made unlike each other and `title` and `item_id`.
    """

    def __init__(self, problems: FileProblems, columns: Sequence[str]) -> None:
        self._problems = problems
        names = ["item_id", "title"]
        for column in columns:
            name = "_".join(column.replace(":", " ").split()).lower() or "unnamed"
            names.append(name if name not in names else f"{name}_{len(names)}")
        self._names = names[1:]
        self._rows: dict[str, list[str]] = {}

    def add(self, line: int, token: str, title: str, *others: str) -> None:
        """One item; of two with the same token the first is taken."""
        cells = [one_line(cell) for cell in (title, *others)]
        if cells[0] != title.strip():
            self._problems.add("title with tabs, newlines or bytes that are no text", line, title, kept=True)
        if token in self._rows:
            self._problems.add("item named before", line, token)
        else:
            self._rows[one_word(token)] = cells

    def finish(self) -> pd.DataFrame:
        """The table by item token. Raises DataError where there is no item."""
        if not self._rows:
            raise DataError(f"{self._problems.path} names no item ({self._problems}): is it empty, or another file?")
        return pd.DataFrame.from_dict(self._rows, orient="index", columns=self._names)


def in_chunks(rows: Iterator[T]) -> Iterator[list[T]]:
    """Lists of rows, none empty."""
    while chunk := list(islice(rows, _CHUNK)):
        yield chunk


def one_line(text: str) -> str:
    """A cell of an atomic file: tabs, newlines and their like become one space, what is no text a question mark."""
    return " ".join(_NO_TEXT.sub("?", text).split())


def one_word(token: str) -> str:
    """An id as one word, since a space separates the ids of `item_id_list`."""
    return _SPACE.sub(lambda space: f"%{ord(space[0]):02X}", _NO_TEXT.sub("?", token))


def _is_no_text(user: str, item: str) -> bool:
    return _NO_TEXT.search(user) is not None or _NO_TEXT.search(item) is not None


def _numbers(cells: Any) -> Array:
    return pd.to_numeric(pd.Series(cells, dtype=object), errors="coerce").to_numpy(np.float64)


def _codes(tokens: Sequence[str], keep: Array, known: dict[str, int]) -> Array:
    return np.fromiter((known.setdefault(tokens[place], len(known)) for place in keep), np.int32, len(keep))
