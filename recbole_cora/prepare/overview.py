"""Lines for the screen before a dataset is written: what was found, the splits, what was dropped, what looks wrong."""

from __future__ import annotations

import logging
from datetime import datetime, timezone

import numpy as np

from recbole_cora.data.protocol import SPLITS, Array
from recbole_cora.prepare.raw import Raw
from recbole_cora.prepare.recipe import LIKED, Recipe, Rows, better_like

#: A share of rows that differs by more than this from what was asked is pointed out.
_FAR = 0.02
#: Timestamps before 1980 are hardly times of ratings.
_FIRST_SECOND = 315_532_800

Line = tuple[int, str]  # logging's level, text


def overview(raw: Raw, recipe: Recipe, rows: Rows) -> list[Line]:
    """Return the lines about a dataset that is ready to be written."""
    lines = [*raw.notes, *_table(rows), _meaning(raw, recipe, rows)]
    if rows.dropped:
        lines.append("dropped: " + ", ".join(f"{count:,} {reason}" for reason, count in rows.dropped.items()))
    warnings = [*_liked_warnings(raw, recipe, rows), *_share_notes(recipe, rows), *_time_warnings(raw, rows)]
    return [(logging.INFO, line) for line in lines] + [(logging.WARNING, line) for line in warnings]


def _table(rows: Rows) -> list[str]:
    """Return a table with a line per split, and one for all rows."""
    lines = [f"{'':8}{'rows':>12}{'share':>8}{'users':>10}{'items':>10}{'liked':>8}"]
    masks = [rows.split == code for code in range(len(SPLITS))] + [np.ones(len(rows.split), dtype=bool)]
    for name, mask in zip((*SPLITS, "all"), masks, strict=True):
        users, items = len(np.unique(rows.user[mask])), len(np.unique(rows.item[mask]))
        count, share, liked = int(mask.sum()), mask.mean(), rows.label[mask].mean()
        lines.append(f"{name:8}{count:>12,}{share:>8.1%}{users:>10,}{items:>10,}{liked:>8.1%}")
    return lines


def _meaning(raw: Raw, recipe: Recipe, rows: Rows) -> str:
    """Return what a like is, and when the rows were written."""
    if recipe.negatives is not None:
        like = f"each row is a like, with {recipe.negatives}: their AUC is another number than AUC on ratings"
    else:
        low, high = raw.rating.min(), raw.rating.max()
        like = f"liked: rating >= {recipe.like:g} (ratings {low:g} to {high:g})"
    if not raw.has_times:
        return f"{like}; time: the order of the rows"
    return f"{like}; time: {_day(rows.time.min())} to {_day(rows.time.max())} (UTC)"


def _day(second: float) -> str:
    return datetime.fromtimestamp(second, tz=timezone.utc).date().isoformat()


def _liked_warnings(raw: Raw, recipe: Recipe, rows: Rows) -> list[str]:
    share = float(rows.label.mean())
    ten_stars = 5 < raw.rating.max() <= 10 and recipe.like <= 4
    if recipe.negatives is not None or (LIKED[0] <= share <= LIKED[1] and not ten_stars):
        return []
    like = better_like(raw.rating)
    remedy = f"; {'10-star ratings? ' if ten_stars else ''}try --like={like:g}" if like != recipe.like else ""
    return [f"warning: {share:.0%} of all rows are liked (rating >= {recipe.like:g}){remedy}"]


def _share_notes(recipe: Recipe, rows: Rows) -> list[str]:
    """Return why the splits have other shares than asked for, if they do."""
    if recipe.boundaries:
        return []
    wanted = np.array(recipe.wanted_shares)
    wanted = wanted / wanted.sum()
    shares = np.array([(rows.split == code).mean() for code in range(len(SPLITS))])
    if np.abs(shares - wanted).max() <= _FAR:
        return []
    why = (
        "each user's rows are cut on their own, and what is no whole row goes to train; --split=global cuts all at once"
        if recipe.per_user
        else "rows are cut at whole rows"
    )
    return [f"note: the split is {_percent(shares)} % instead of {_percent(wanted)} %: {why}"]


def _percent(shares: Array) -> str:
    return "/".join(f"{100 * share:.0f}" for share in shares)


def _time_warnings(raw: Raw, rows: Rows) -> list[str]:
    if not raw.has_times:
        return []
    if rows.time.min() == rows.time.max():
        return ["warning: all rows have the same time; the order in the data is used, which may not be the true one"]
    if rows.time.max() < _FIRST_SECOND:
        return ["note: the times end before 1980; if they are no Unix seconds, only their order has a meaning"]
    return []
