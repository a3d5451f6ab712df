"""Ratings as they come, in compact columns: what every reader gives and every recipe takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from recbole_cora.errors import DataError
from recbole_cora.prepare.problems import Problems
from recbole_cora.protocol import Array

#: Timestamps that can be meant: 1970 to 2100, in Unix seconds.
_LAST_SECOND = 4_102_444_800
_CHUNK = 50_000

T = TypeVar("T")


@dataclass
class Raw:
    """R rated rows in the order of the file, and what is known of items.

    Attributes:
        user, item: codes [R] by first appearance in the whole file, into `user_tokens`, `item_tokens`.
        rating: [R]; time: Unix seconds [R]; line: where it stands in the file [R].
        items: text columns by item token (the index): `title`, and more.
        item_types: RecBole's type of each of these columns.
        files: what was read.
    """

    user: Array
    item: Array
    rating: Array
    time: Array
    line: Array
    user_tokens: list[str]
    item_tokens: list[str]
    items: pd.DataFrame
    item_types: dict[str, str]
    files: list[Path]


class RatingColumns:
    """Collects rated rows chunk by chunk; what cannot be a rating is counted, not kept.

    Args:
        file: for messages.
        problems: where it is counted.
    """

    def __init__(self, file: Path, problems: Problems) -> None:
        self._file, self._problems = file, problems
        self._users: dict[str, int] = {}
        self._items: dict[str, int] = {}
        self._chunks: list[tuple[Array, ...]] = []
        self.lines = 0

    def add(self, lines: Array, user: Sequence[str], item: Sequence[str], rating: Any, time: Any) -> None:
        """Rows of one chunk; `lines` are their line numbers, `rating` and `time` text or numbers."""
        self.lines += len(lines)
        ratings, stated = _numbers(rating), _numbers(time)
        seconds = np.where(np.isfinite(stated), stated, _dates(time, np.isfinite(stated)))
        empty = np.fromiter((not u or not i for u, i in zip(user, item, strict=True)), bool, len(lines))
        in_range = (seconds >= 0) & (seconds <= _LAST_SECOND)
        good = np.ones(len(lines), dtype=bool)
        for kind, bad, cells in (
            ("no user or item", empty, user),
            ("rating is no number", ~np.isfinite(ratings), rating),
            ("timestamp is no number and no date", np.isnan(seconds), time),
            ("timestamp out of range (Unix seconds of 1970 to 2100 expected)", ~in_range & ~np.isnan(seconds), time),
        ):
            first = good & bad
            if first.any():
                at = int(np.argmax(first))
                self._problems.add(self._file, kind, int(lines[at]), cells[at], int(first.sum()))
                good &= ~bad
        keep = np.flatnonzero(good)
        self._chunks.append(
            (_codes(user, keep, self._users), _codes(item, keep, self._items), ratings[keep].astype(np.float32),
             seconds[keep].astype(np.int64), lines[keep])
        )  # fmt: skip

    def finish(self, items: pd.DataFrame, item_types: dict[str, str], files: list[Path]) -> Raw:
        """All rows. Raises DataError where the file has none, or more bad rows than good ones."""
        rows = sum(len(chunk[0]) for chunk in self._chunks)
        kinds = self._problems.found.get(self._file.name, {})
        if rows == 0 or self._problems.dropped(self._file) > rows:
            what = "; ".join(f"{p.count:,} x {kind}, first at line {p.line}" for kind, p in kinds.items())
            raise DataError(
                f"{self._file} has {rows:,} usable rows{f' ({what})' if what else ''}: is it empty, or another file?"
            )
        user, item, rating, time, line = (np.concatenate(column) for column in zip(*self._chunks, strict=True))
        users, tokens = list(self._users), list(self._items)
        return Raw(user, item, rating, time, line, users, tokens, items, item_types, files)


def in_chunks(rows: Iterator[T], size: int = _CHUNK) -> Iterator[list[T]]:
    """Lists of up to `size` rows."""
    while chunk := list(islice(rows, size)):
        yield chunk


def one_line(text: str) -> str:
    """A cell of an atomic file: tabs, newlines and their like become one space."""
    return " ".join(text.split())


def _numbers(values: Any) -> Array:
    return pd.to_numeric(pd.Series(values, dtype=object), errors="coerce").to_numpy(np.float64)


def _dates(values: Any, known: Array) -> Array:
    """Unix seconds of the cells that are ISO dates (UTC where they name no zone); nan elsewhere."""
    seconds = np.full(len(known), np.nan)
    rest = np.flatnonzero(~known)
    if len(rest):
        cells = pd.Series([values[place] for place in rest], dtype=object)
        dates = pd.to_datetime(cells, errors="coerce", utc=True, format="ISO8601")
        seconds[rest] = (dates - pd.Timestamp(0, tz="UTC")).dt.total_seconds().to_numpy()
    return seconds


def _codes(tokens: Sequence[str], keep: Array, known: dict[str, int]) -> Array:
    return np.fromiter((known.setdefault(tokens[place], len(known)) for place in keep), np.int32, len(keep))
