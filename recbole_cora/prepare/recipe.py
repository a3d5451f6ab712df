"""Turn raw columns into the rows of a dataset: label, split, order, histories, and sampled negatives if wanted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from recbole_cora.data.protocol import (
    NO_SPLIT,
    SPLITS,
    Array,
    histories,
    order_of_rows,
    split_all_in_time,
    split_each_user,
    split_in_windows,
)
from recbole_cora.errors import DataError, raise_all
from recbole_cora.prepare.negatives import Negatives, draw
from recbole_cora.prepare.raw import Raw

#: Shares of liked rows between which a threshold is taken as meant.
LIKED = (0.15, 0.85)


@dataclass(frozen=True)
class Recipe:
    """Rules for labelling and splitting rows.

    Attributes:
        name: the dataset's name.
        like: a rating of at least this gets label 1.
        boundaries: UTC dates. With four, train, valid and test are the half-open windows between them. With three, the
            last window, sorted by time, is halved into valid and test. Without any, `shares` decides.
        shares: the shares of train, valid and test, in order of time.
        per_user: apply `shares` to each user's rows; False cuts all rows at the same two moments.
        more_than: keep users and items with more rows than this. Rows are counted once, inside the windows and before
            repeats are dropped.
        drop_repeats: keep only the first of rows with the same user, item and timestamp.
        negatives: for implicit feedback, where each row is a like: how dislikes are sampled. Only the first row of a
            user and an item is kept then.
    """

    name: str
    like: float = 4.0
    boundaries: tuple[str, ...] | None = None
    shares: tuple[float, float, float] | None = None
    per_user: bool = True
    more_than: int = 0
    drop_repeats: bool = True
    negatives: Negatives | None = None

    @property
    def wanted_shares(self) -> tuple[float, float, float]:
        """The shares of train, valid and test: `shares`, or 80/10/10."""
        return self.shares or (0.8, 0.1, 0.1)

    def split(self, user: Array, time: Array) -> Array:
        """Return the split codes of rows that are in order; NO_SPLIT outside the windows."""
        if not self.boundaries:
            shares = self.wanted_shares
            return split_each_user(user, shares) if self.per_user else split_all_in_time(time, shares)
        split = split_in_windows(time, (*self.boundaries, self.boundaries[-1])[:4])
        if len(self.boundaries) == 3:
            last = np.flatnonzero(split == 1)
            split[last] = 1 + split_all_in_time(time[last], (0.5, 0.5, 0))
        return split


@dataclass(frozen=True)
class Rows:
    """The rows of a dataset in order. Columns are as in `Ratings`, with codes of the raw tokens.

    Attributes:
        is_sampled: which rows are sampled negatives; each follows the like that it accompanies.
        dropped: number of usable raw rows that are no rows of the dataset, by reason.
    """

    user: Array
    item: Array
    rating: Array
    time: Array
    label: Array
    split: Array
    liked: Array
    history_start: Array
    history_end: Array
    is_sampled: Array
    dropped: dict[str, int] = field(default_factory=dict)


def make_rows(raw: Raw, recipe: Recipe) -> Rows:
    """Apply the recipe. Raises DataError that names each empty split, and train or valid if it has one class only."""
    rows = np.arange(len(raw.user))
    dropped: dict[str, int] = {}

    def keep(kept: Array, reason: str) -> None:
        nonlocal rows
        if len(kept) < len(rows):
            dropped[reason] = len(rows) - len(kept)
        rows = kept

    if recipe.boundaries:
        keep(np.flatnonzero(recipe.split(raw.user, raw.time) != NO_SPLIT), "outside the dates of the split")
    if recipe.more_than and len(rows):
        frequent = [np.bincount(column[rows]) > recipe.more_than for column in (raw.user, raw.item)]
        kept = rows[frequent[0][raw.user[rows]] & frequent[1][raw.item[rows]]]
        keep(kept, f"of users or items with at most {recipe.more_than} rows")
    rows = rows[order_of_rows(raw.user[rows], raw.time[rows], raw.item[rows])]
    if recipe.negatives is not None:
        keep(rows[~_pairs_again(raw, rows)], "the same user and item again")
    repeats = _repeats(raw, rows, recipe.drop_repeats)
    if recipe.drop_repeats:
        keep(rows[~repeats], "the same user, item and timestamp again")
    user, item, time = raw.user[rows], raw.item[rows], raw.time[rows]
    split = recipe.split(user, time)
    label = (raw.rating[rows] >= recipe.like).astype(np.float32)
    no_sample = np.zeros(len(rows), dtype=bool)
    made = Rows(user, item, raw.rating[rows], time, label, split, *histories(user, item, label), no_sample, dropped)
    if recipe.negatives is not None and len(rows):
        made = _with_negatives(raw, made, recipe.negatives)
    raise_all(_split_problems(raw, recipe, made.split, made.label), DataError)
    return made


def _with_negatives(raw: Raw, likes: Rows, negatives: Negatives) -> Rows:
    """Return the rows with their sampled negatives.

    A negative has the user, the time, the split and the history of the like before it: the two differ in the item, and
    in nothing else by which a model could tell them apart.
    """
    order = np.argsort(raw.user, kind="stable")
    items_of_user = np.split(raw.item[order], np.cumsum(np.bincount(raw.user))[:-1])
    drawn = draw(likes.user, likes.item, items_of_user, negatives)
    items = np.column_stack([likes.item, drawn])
    kept = (items >= 0).ravel()
    source = np.repeat(np.arange(len(likes.user)), items.shape[1])[kept]
    is_sampled = np.tile(np.arange(items.shape[1]) > 0, len(likes.user))[kept]
    if missing := len(drawn.ravel()) - int(is_sampled.sum()):
        first = int(np.argmax((drawn < 0).any(axis=1)))
        kind = "fewer sampled negatives than asked: the user has nearly every item"
        line = int(raw.line[np.argmax(raw.user == likes.user[first])])
        raw.problems.add(kind, line, raw.user_tokens[likes.user[first]], missing, kept=True)
    return Rows(
        user=likes.user[source],
        item=items.ravel()[kept],
        rating=np.where(is_sampled, 0.0, likes.rating[source]),
        time=likes.time[source],
        label=np.where(is_sampled, 0.0, likes.label[source]).astype(np.float32),
        split=likes.split[source],
        liked=likes.liked,
        history_start=likes.history_start[source],
        history_end=likes.history_end[source],
        is_sampled=is_sampled,
        dropped=likes.dropped,
    )


def _pairs_again(raw: Raw, rows: Array) -> Array:
    """Return a mask of the rows whose user and item have an earlier row; the rows are in order of users and times."""
    again = np.ones(len(rows), dtype=bool)
    pairs = raw.user[rows].astype(np.int64) * len(raw.item_tokens) + raw.item[rows]
    again[np.unique(pairs, return_index=True)[1]] = False
    return again


def _repeats(raw: Raw, rows: Array, drop: bool) -> Array:
    """Return a mask of the rows that repeat user, item and timestamp of the row before; count them as a problem."""
    same = [np.diff(column[rows], prepend=-1) == 0 for column in (raw.user, raw.item, raw.time)]
    repeats: Array = np.logical_and.reduce(same)
    if repeats.any():
        first = rows[repeats].min()
        example = f"user {raw.user_tokens[raw.user[first]]}, item {raw.item_tokens[raw.item[first]]}"
        kind = "same user, item and timestamp again"
        raw.problems.add(kind, int(raw.line[first]), example, int(repeats.sum()), kept=not drop)
    return repeats


def _split_problems(raw: Raw, recipe: Recipe, split: Array, label: Array) -> list[str]:
    """Return what is wrong with the splits: empty ones, and train or valid with one class only."""
    problems = []
    if empty := [name for code, name in enumerate(SPLITS) if not (split == code).any()]:
        problems.append(
            f"the {' and the '.join(empty)} split of {recipe.name} would be empty ({len(split):,} of "
            f"{len(raw.user):,} rows are left); change the split, or check that this is the right file"
        )
    for code, name in enumerate(SPLITS[:2]):
        labels = label[split == code]
        if len(labels) and labels.min() == labels.max():
            if recipe.negatives is not None:
                problems.append(
                    f"no dislike can be sampled for the {name} rows of {recipe.name}: the users have all items"
                )
                continue
            taste = "liked" if labels[0] else "disliked"
            problems.append(
                f"every {name} row of {recipe.name} would be {taste} (rating >= {recipe.like:g}); change --like"
                + _remedy(raw, recipe)
            )
    return problems


def _remedy(raw: Raw, recipe: Recipe) -> str:
    """Return what to do about rows of one class only."""
    if raw.rating.min() == raw.rating.max():
        return f" (all ratings are {raw.rating[0]:g}; if each row is a like: --implicit)"
    like = better_like(raw.rating)
    return f" (try --like={like:g})" if like != recipe.like else ""


def better_like(rating: Array) -> float:
    """Return the rating from which on a row should be a like: 8 of ten stars, else what comes nearest to a half."""
    values, counts = np.unique(rating, return_counts=True)
    shares = np.cumsum(counts[::-1])[::-1] / len(rating)  # of ratings at least this high
    if 8 <= values[-1] <= 10 and LIKED[0] <= shares[np.searchsorted(values, 8)] <= LIKED[1]:
        return 8.0
    return float(values[np.argmin(np.abs(shares - 0.5))])
