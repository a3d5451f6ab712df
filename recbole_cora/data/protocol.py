"""The data protocol as functions of columns: order, splits and histories (CoLLM's protocol, which the CoRA paper uses).

Every dataset uses these functions, whether it is prepared into files beforehand or split while it is loaded. A column
has one entry per row. Users and items are integer codes, numbered by first appearance in the raw data.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import numpy as np
from numpy.typing import NDArray

SPLITS = ("train", "valid", "test")
#: The split code of a row that belongs to no split.
NO_SPLIT = len(SPLITS)

Array = NDArray[Any]


def order_of_rows(user: Array, time: Array, item: Array) -> Array:
    """Return the permutation that sorts rows by user, then timestamp, then the item's first appearance."""
    return np.lexsort((item, time, user))


def histories(user: Array, item: Array, label: Array) -> tuple[Array, Array, Array]:
    """Return the liked items of all rows, and where each row's history starts [R] and ends [R] among them.

    A row's history is every earlier row of its user with label 1, across splits. The rows must be in order.
    """
    like = label > 0.5
    end: Array = np.cumsum(like) - like  # number of liked rows before this one, counted over all users
    first = np.flatnonzero(np.diff(user, prepend=-1))
    rows_of_user = np.diff(np.append(first, len(user)))
    return item[like], np.repeat(end[first], rows_of_user), end


def split_in_windows(time: Array, boundaries: Sequence[str]) -> Array:
    """Split rows by half-open UTC windows: train [b0, b1), valid [b1, b2), test [b2, b3); NO_SPLIT outside.

    Args:
        time: Unix seconds.
        boundaries: four ISO dates, read as midnight UTC.
    """
    seconds = [datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp() for day in boundaries]
    window = np.searchsorted(seconds, time, side="right") - 1
    return np.where((window < 0) | (window >= len(SPLITS)), NO_SPLIT, window).astype(np.int8)


def split_each_user(user: Array, shares: Sequence[float]) -> Array:
    """Split each user's rows, which must be in order, by RecBole's ratio rule."""
    split = np.empty(len(user), dtype=np.int8)
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(user)], strict=True):
        split[start:stop] = _cut(stop - start, shares)
    return split


def split_all_in_time(time: Array, shares: Sequence[float]) -> Array:
    """Split all rows by share, at two points in time. Rows with equal times keep their order."""
    split = np.empty(len(time), dtype=np.int8)
    split[np.argsort(time, kind="stable")] = _cut(len(time), shares)
    return split


def _cut(rows: int, shares: Sequence[float]) -> Array:
    """Return the split codes of `rows` consecutive rows by RecBole's rule.

    Each share is rounded down to whole rows, and train takes the rest. A share of less than one row still gets one row
    from train, if train has more than one.
    """
    parts = [share / sum(shares) for share in shares]
    count = [int(part * rows) for part in parts]
    count[0] = rows - sum(count[1:])
    for split in (2, 1):
        if count[0] > 1 and 0 < parts[split] * rows < 1:
            count[split] += 1
            count[0] -= 1
    return np.repeat(np.arange(len(SPLITS)), count)


def warm_rows(user: Array, item: Array, train: Array, least: int) -> Array:
    """Return a mask [R] of the rows whose user and item both have at least `least` train rows.

    The code of CoLLM and CoRA uses 1; the CoRA paper says 3.
    """
    enough = [np.bincount(column[train], minlength=column.max() + 1) >= least for column in (user, item)]
    return enough[0][user] & enough[1][item]
