"""Sampled negatives for implicit feedback: items that a user never touched stand for dislikes.

They are drawn once and written into the prepared files, so that every model is trained and scored on the same ones. A
score on sampled negatives is another number than a score on ratings, so that every report names them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recbole_cora.data.protocol import Array

WAYS = ("uniform", "popularity")


@dataclass(frozen=True)
class Negatives:
    """How negatives are drawn.

    Attributes:
        per_like: negatives per liked row.
        by: uniform, or popularity: in proportion to an item's number of rows.
        seed: of the draws.
    """

    per_like: int = 4
    by: str = "uniform"
    seed: int = 1

    def __str__(self) -> str:
        way = "by popularity" if self.by == "popularity" else self.by
        return f"{self.per_like} sampled negatives per like ({way}, seed {self.seed})"


def draw(user: Array, item: Array, items_of_user: list[Array], negatives: Negatives) -> Array:
    """Return the items of each row's negatives [R, per_like]; -1 where a user has too few items left.

    A user's negatives are distinct over all of the user's rows, so that a pair is not a train row and a test row at
    once. If fewer items are left than that takes, each is used as often as the others, but never twice in one row.

    Args:
        user, item: codes of the liked rows [R], sorted by user. The negatives are some of these rows' items.
        items_of_user: by user code, the items that are never drawn for the user.
    """
    random = np.random.default_rng(negatives.seed)
    pool, counts = np.unique(item, return_counts=True)
    weights = counts if negatives.by == "popularity" else np.ones(len(pool))
    limits = np.cumsum(weights / weights.sum())
    place = np.full(max(int(item.max()), *(int(items.max(initial=0)) for items in items_of_user)) + 1, -1)
    place[pool] = np.arange(len(pool))
    drawn = np.full((len(user), negatives.per_like), -1, dtype=np.int64)
    starts = np.flatnonzero(np.diff(user, prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(user)], strict=True):
        seen = np.zeros(len(pool), dtype=bool)
        places = place[items_of_user[user[start]]]
        seen[places[places >= 0]] = True
        choice = _distinct(random, seen, weights, limits, (stop - start) * negatives.per_like)
        if not len(choice):
            continue
        width = min(negatives.per_like, len(choice))
        # With fewer items than places, the same order again and again: `width` neighbours in it are distinct.
        drawn[start:stop, :width] = pool[np.resize(choice, (stop - start, width))]
    return drawn


def _distinct(random: np.random.Generator, seen: Array, weights: Array, limits: Array, count: int) -> Array:
    """Return up to `count` distinct indices of items that are not `seen`, each drawn in proportion to its weight."""
    left = len(seen) - int(seen.sum())
    if count < left // 2:  # rarely the same twice: drawing anew is faster than weighing all items
        taken, choice = seen.copy(), np.empty(0, dtype=np.int64)
        for _ in range(8):
            indices = np.minimum(np.searchsorted(limits, random.random(2 * count), side="right"), len(seen) - 1)
            fresh = indices[~taken[indices]]
            fresh = fresh[np.sort(np.unique(fresh, return_index=True)[1])]  # in order of drawing
            choice = np.concatenate([choice, fresh])
            taken[fresh] = True
            if len(choice) >= count:
                return choice[:count]
        seen, first = taken, choice
    else:
        first = np.empty(0, dtype=np.int64)
    free = np.flatnonzero(~seen)
    # The largest of log(weight) + Gumbel noise are a draw without replacement in proportion to the weights.
    order = np.argsort(-(np.log(weights[free]) + random.gumbel(size=len(free))), kind="stable")
    return np.concatenate([first, free[order]])[:count]
