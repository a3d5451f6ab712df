"""The data protocol, as functions of columns: order, splits, histories (METHOD of CoLLM, which the CoRA paper adopts).

Every dataset goes through these, whether it is prepared into files beforehand or split while it is loaded. A column has
one entry per row; users and items are codes by first appearance in the raw data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")
#: The split of a row that is in none.
NO_SPLIT = len(SPLITS)

Array = NDArray[Any]


def order_of_rows(user: Array, time: Array, item: Array) -> Array:
    """The permutation that puts rows in order: user, then timestamp, then the item's first appearance."""
    return np.lexsort((item, time, user))


def histories(user: Array, item: Array, label: Array) -> tuple[Array, Array, Array]:
    """Of rows in order: the liked items of all rows in order, and where in them each row's history begins and ends.

    A row's history is every earlier row of its user with label 1, across splits.
    """
    like = label > 0.5
    end: Array = np.cumsum(like) - like  # liked rows before this one, of all users
    first = np.flatnonzero(np.diff(user, prepend=-1))
    rows_of_user = np.diff(np.append(first, len(user)))
    return item[like], np.repeat(end[first], rows_of_user), end


def split_in_windows(time: Array, boundaries: Sequence[str]) -> Array:
    """Half-open UTC windows: train [b0, b1), valid [b1, b2), test [b2, b3); NO_SPLIT outside.

    Args:
        time: Unix seconds.
        boundaries: four ISO dates, read as midnight UTC.
    """
    seconds = [datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp() for day in boundaries]
    place = np.searchsorted(seconds, time, side="right") - 1
    return np.where((place < 0) | (place >= len(SPLITS)), NO_SPLIT, place).astype(np.int8)


def split_each_user(user: Array, shares: Sequence[float]) -> Array:
    """Each user's rows, in order, cut by RecBole's ratio rule."""
    split = np.empty(len(user), dtype=np.int8)
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(user)], strict=True):
        split[start:stop] = _cut(stop - start, shares)
    return split


def split_all_in_time(time: Array, shares: Sequence[float]) -> Array:
    """All rows cut at two moments by share; ties in time keep the order of the rows."""
    split = np.empty(len(time), dtype=np.int8)
    split[np.argsort(time, kind="stable")] = _cut(len(time), shares)
    return split


def _cut(rows: int, shares: Sequence[float]) -> Array:
    """Split codes of `rows` consecutive rows. RecBole's rule: the floor of each part, train takes the rest, and a
    share below one row still gets a row, while train keeps more than one."""
    parts = [share / sum(shares) for share in shares]
    count = [int(part * rows) for part in parts]
    count[0] = rows - sum(count[1:])
    for last in (2, 1):
        if count[0] > 1 and 0 < parts[last] * rows < 1:
            count[last] += 1
            count[0] -= 1
    return np.repeat(np.arange(len(SPLITS)), count)


def warm_rows(user: Array, item: Array, train: Array, least: int) -> Array:
    """Rows [R] whose user and item both have at least `least` train rows.

    1 is what CoLLM's and CoRA's code takes for warm, 3 what the CoRA paper says.
    """
    enough = [np.bincount(column[train], minlength=column.max() + 1) >= least for column in (user, item)]
    return enough[0][user] & enough[1][item]
