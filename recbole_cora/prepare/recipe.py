"""From raw columns to the rows of a dataset: label, split, order and histories, and the files that hold them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_cora.data.protocol import (
    NO_SPLIT,
    SPLITS,
    Array,
    histories,
    order_of_rows,
    split_all_in_time,
    split_each_user,
    split_in_windows,
    warm_rows,
)
from recbole_cora.errors import DataError, raise_all
from recbole_cora.files import json_text, replace_files
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import Raw

log = logging.getLogger()

#: Changes whenever the same raw files and options would give other bytes.
VERSION = 1
#: Liked items that a row's `item_id_list` holds at most: RecBole's own MAX_ITEM_LIST_LENGTH, which it does not cut to.
HISTORY_ITEMS = 50
#: The list of a row without history. RecBole's sequential models fail on an empty list; a no-break space is one token
#: to RecBole, no item of the dataset, and nothing at all to Python's `split()`.
NO_HISTORY = "\u00a0"


@dataclass(frozen=True)
class Recipe:
    """How rows are labelled and split.

    Attributes:
        name: of the dataset.
        like: label 1 where the rating is at least this.
        boundaries: UTC dates; with four, train, valid and test are the half-open windows between them; with three, the
            last window, sorted by time, is halved into valid and test. Or:
        shares: of train, valid and test, in time; `per_user` cuts each user's rows, else all rows at two moments.
        more_than: users and items with more rows than this are kept, counted once, before anything is dropped.
        drop_repeats: of rows with the same user, item and timestamp only the first is kept.
    """

    name: str
    like: float = 4.0
    boundaries: tuple[str, ...] | None = None
    shares: tuple[float, float, float] | None = None
    per_user: bool = True
    more_than: int = 0
    drop_repeats: bool = True

    def split(self, user: Array, time: Array) -> Array:
        """Split codes of rows in order; NO_SPLIT outside the windows."""
        if not self.boundaries:
            shares = self.shares or (0.8, 0.1, 0.1)
            return split_each_user(user, shares) if self.per_user else split_all_in_time(time, shares)
        split = split_in_windows(time, (*self.boundaries, self.boundaries[-1])[:4])
        if len(self.boundaries) == 3:
            last = np.flatnonzero(split == 1)
            split[last] = 1 + split_all_in_time(time[last], (0.5, 0.5, 0))
        return split


@dataclass(frozen=True)
class Rows:
    """Rows in order, columns as in `Ratings`, with codes into the raw tokens."""

    user: Array
    item: Array
    rating: Array
    time: Array
    label: Array
    split: Array
    liked: Array
    history_start: Array
    history_end: Array


def make_rows(raw: Raw, recipe: Recipe) -> Rows:
    """Apply the recipe. Raises DataError that names each split that would be empty, and train or valid of one class."""
    kept = np.arange(len(raw.user))
    if recipe.boundaries:
        kept = np.flatnonzero(recipe.split(raw.user, raw.time) != NO_SPLIT)
    if recipe.more_than and len(kept):
        often = [np.bincount(column[kept]) > recipe.more_than for column in (raw.user, raw.item)]
        kept = kept[often[0][raw.user[kept]] & often[1][raw.item[kept]]]
    kept = kept[order_of_rows(raw.user[kept], raw.time[kept], raw.item[kept])]
    same = [np.diff(column[kept], prepend=-1) == 0 for column in (raw.user, raw.item, raw.time)]
    repeat = np.logical_and.reduce(same)
    if repeat.any():
        first = kept[repeat].min()
        what = f"user {raw.user_tokens[raw.user[first]]}, item {raw.item_tokens[raw.item[first]]}"
        kind, kept_too = "same user, item and timestamp again", not recipe.drop_repeats
        raw.problems.add(kind, int(raw.line[first]), what, int(repeat.sum()), kept=kept_too)
    if recipe.drop_repeats:
        kept = kept[~repeat]
    user, item, time = raw.user[kept], raw.item[kept], raw.time[kept]
    split = recipe.split(user, time)
    problems = []
    if empty := [name for code, name in enumerate(SPLITS) if not (split == code).any()]:
        problems.append(
            f"the {' and the '.join(empty)} split of {recipe.name} would be empty ({len(kept):,} of "
            f"{len(raw.user):,} rows are left); change the split, or check that this is the right file"
        )
    label = (raw.rating[kept] >= recipe.like).astype(np.float32)
    for code, name in enumerate(SPLITS[:2]):
        liked = label[split == code]
        if len(liked) and liked.min() == liked.max():
            what = "liked" if liked[0] else "disliked"
            problems.append(
                f"every {name} row of {recipe.name} would be {what} (rating >= {recipe.like:g}); change --like"
            )
    raise_all(problems, DataError)
    return Rows(user, item, raw.rating[kept], time, label, split, *histories(user, item, label))


def prepare(raw: Raw, recipe: Recipe, problems: Problems, out: Path) -> dict[str, Any]:
    """Write `<name>.{train,valid,test}.inter`, `<name>.item` and `<name>.prepared.json` into `out`, all or none.

    Returns:
        What the JSON holds: counts by split, the recipe, checksums of what was read and written, problems.

    Raises:
        DataError: an empty split, or the files cannot be written.
    """
    rows = make_rows(raw, recipe)
    files = {f"{recipe.name}.{split}.inter": _inter(raw, rows, code) for code, split in enumerate(SPLITS)}
    if raw.items is not None:
        files[f"{recipe.name}.item"] = iter(_items(raw, raw.items, rows))
    summary = {
        "recipe": asdict(recipe),
        "version": VERSION,
        "history_items": HISTORY_ITEMS,
        "users": len(np.unique(rows.user)),
        "items": len(np.unique(rows.item)),
        "splits": {split: _counts(rows, code) for code, split in enumerate(SPLITS)},
        "raw_rows": len(raw.user),
        "raw_files": {path.name: _sha256(path) for path in raw.files},
    }

    def fill(folder: Path) -> None:
        for name, lines in files.items():
            with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        summary["files"] = {name: _sha256(folder / name) for name in files}
        summary["problems"] = problems.as_json()
        (folder / f"{recipe.name}.prepared.json").write_text(json_text(summary), encoding="utf-8", newline="\n")

    try:
        replace_files(out, fill, stale=[f"{recipe.name}.item"])
    except OSError as error:
        raise DataError(f"cannot write into {out} ({error.strerror}); make room or give another --out=") from None
    problems.report()
    return summary


def _inter(raw: Raw, rows: Rows, code: int) -> Iterator[str]:
    tokens = raw.item_tokens
    yield "user_id:token\titem_id:token\trating:float\ttimestamp:float\tlabel:float\titem_id_list:token_seq\n"
    for row in np.flatnonzero(rows.split == code).tolist():
        start = max(rows.history_start[row], rows.history_end[row] - HISTORY_ITEMS)
        history = " ".join([tokens[item] for item in rows.liked[start : rows.history_end[row]].tolist()])
        yield (
            f"{raw.user_tokens[rows.user[row]]}\t{tokens[rows.item[row]]}\t{rows.rating[row]:.12g}\t{rows.time[row]:.16g}\t"
            f"{rows.label[row]:g}\t{history or NO_HISTORY}\n"
        )


def _items(raw: Raw, items: pd.DataFrame, rows: Rows) -> list[str]:
    """Every item of the rows, in order of first appearance: RecBole drops rows of an item that it finds no line for."""
    codes = np.unique(rows.item)
    known = items.reindex([raw.item_tokens[code] for code in codes]).fillna("")
    untitled = (known["title"] == "").to_numpy()
    if untitled.any():
        first = codes[untitled][0]
        line, count = int(raw.line[np.argmax(raw.item == first)]), int(untitled.sum())
        raw.problems.add("item without a title", line, raw.item_tokens[first], count, kept=True)
    header = ["item_id:token", *(f"{column}:{raw.item_types[column]}" for column in items.columns)]
    return ["\t".join(row) + "\n" for row in (header, *known.itertuples(index=True, name=None))]


def _counts(rows: Rows, code: int) -> dict[str, Any]:
    here = rows.split == code
    user, label = rows.user[here], rows.label[here]
    likes, count = np.bincount(user, label), np.bincount(user)
    counts = {
        "rows": int(here.sum()),
        "users": len(np.unique(user)),
        "items": len(np.unique(rows.item[here])),
        "liked": round(float(label.mean()), 4),
        "uauc_users": int(((likes > 0) & (likes < count)).sum()),
    }
    for least, name in ((1, "warm"), (3, "warm_at_least_3")):
        warm = warm_rows(rows.user, rows.item, rows.split == SPLITS.index("train"), least)
        counts[name] = int((warm & here).sum())
    return counts


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def counts_line(summary: dict[str, Any]) -> str:
    """One line for the screen."""
    rows = " / ".join(f"{part['rows']:,}" for part in summary["splits"].values())
    return f"{rows} rows (train / valid / test), {summary['users']:,} users, {summary['items']:,} items"
