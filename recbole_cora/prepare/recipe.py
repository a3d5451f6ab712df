"""Turn raw columns into the rows of a dataset: label, split, order and histories. Write them to files."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

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

#: Raise it when the same raw files and options would give other bytes.
VERSION = 1
#: The most liked items in a row's `item_id_list`. It is RecBole's MAX_ITEM_LIST_LENGTH: RecBole does not cut lists.
HISTORY_ITEMS = 50
#: The list of a row without history. RecBole's sequential models fail on an empty list. RecBole reads a no-break space
#: as one token, which is not an item of the dataset; Python's `split()` drops it.
NO_HISTORY = "\u00a0"


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
    """

    name: str
    like: float = 4.0
    boundaries: tuple[str, ...] | None = None
    shares: tuple[float, float, float] | None = None
    per_user: bool = True
    more_than: int = 0
    drop_repeats: bool = True

    def split(self, user: Array, time: Array) -> Array:
        """Return the split codes of rows that are in order; NO_SPLIT outside the windows."""
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
    """The rows of a dataset in order. Columns are as in `Ratings`, with codes of the raw tokens."""

    user: Array
    item: Array
    rating: Array
    time: Array
    label: Array
    split: Array
    liked: Array
    history_start: Array
    history_end: Array


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split.

    Attributes:
        liked: the share of rows with label 1.
        uauc_users: users with rows of both labels.
        warm: rows whose user and item both have a train row.
        warm_at_least_3: rows whose user and item both have at least 3 train rows.
    """

    rows: int
    users: int
    items: int
    liked: float
    uauc_users: int
    warm: int
    warm_at_least_3: int


@dataclass(frozen=True)
class Summary:
    """Content of `<name>.prepared.json`.

    Attributes:
        version: VERSION of this module.
        splits: counts by split.
        raw_rows: usable rows of the raw files.
        raw_files, files: checksums of the files that were read and written, by name.
        problems: by file and kind.
    """

    recipe: Recipe
    version: int
    history_items: int
    users: int
    items: int
    splits: dict[str, SplitCounts]
    raw_rows: int
    raw_files: dict[str, str]
    files: dict[str, str] = field(default_factory=dict)
    problems: dict[str, dict[str, dict[str, object]]] = field(default_factory=dict)

    def line(self) -> str:
        """Return the counts in one line for the screen."""
        rows = " / ".join(f"{counts.rows:,}" for counts in self.splits.values())
        return f"{rows} rows (train / valid / test), {self.users:,} users, {self.items:,} items"


def make_rows(raw: Raw, recipe: Recipe) -> Rows:
    """Apply the recipe. Raises DataError that names each empty split, and train or valid if it has one class only."""
    rows = np.arange(len(raw.user))
    if recipe.boundaries:
        rows = np.flatnonzero(recipe.split(raw.user, raw.time) != NO_SPLIT)
    if recipe.more_than and len(rows):
        frequent = [np.bincount(column[rows]) > recipe.more_than for column in (raw.user, raw.item)]
        rows = rows[frequent[0][raw.user[rows]] & frequent[1][raw.item[rows]]]
    rows = rows[order_of_rows(raw.user[rows], raw.time[rows], raw.item[rows])]
    repeats = _repeats(raw, rows, recipe.drop_repeats)
    if recipe.drop_repeats:
        rows = rows[~repeats]
    user, item, time = raw.user[rows], raw.item[rows], raw.time[rows]
    split = recipe.split(user, time)
    label = (raw.rating[rows] >= recipe.like).astype(np.float32)
    raise_all(_split_problems(raw, recipe, split, label), DataError)
    return Rows(user, item, raw.rating[rows], time, label, split, *histories(user, item, label))


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
            taste = "liked" if labels[0] else "disliked"
            problems.append(
                f"every {name} row of {recipe.name} would be {taste} (rating >= {recipe.like:g}); change --like"
            )
    return problems


def prepare(raw: Raw, recipe: Recipe, problems: Problems, out: Path) -> Summary:
    """Write `<name>.{train,valid,test}.inter`, `<name>.item` and `<name>.prepared.json` into `out`: all or none.

    Raises:
        DataError: a split cannot be used (see `make_rows`), or the files cannot be written.
    """
    rows = make_rows(raw, recipe)
    files = {f"{recipe.name}.{split}.inter": _inter(raw, rows, code) for code, split in enumerate(SPLITS)}
    if raw.items is not None:
        files[f"{recipe.name}.item"] = iter(_items(raw, raw.items, rows))
    summary = Summary(
        recipe=recipe,
        version=VERSION,
        history_items=HISTORY_ITEMS,
        users=len(np.unique(rows.user)),
        items=len(np.unique(rows.item)),
        splits={split: _counts(rows, code) for code, split in enumerate(SPLITS)},
        raw_rows=len(raw.user),
        raw_files={path.name: _sha256(path) for path in raw.files},
    )

    def fill(folder: Path) -> None:
        nonlocal summary
        for name, lines in files.items():
            with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        checksums = {name: _sha256(folder / name) for name in files}
        summary = replace(summary, files=checksums, problems=problems.as_json())
        text = json_text(asdict(summary))
        (folder / f"{recipe.name}.prepared.json").write_text(text, encoding="utf-8", newline="\n")

    try:
        replace_files(out, fill, stale=[f"{recipe.name}.item"])
    except OSError as error:
        raise DataError(f"cannot write into {out} ({error.strerror}); make room or give another --out=") from None
    problems.report()
    return summary


def _inter(raw: Raw, rows: Rows, code: int) -> Iterator[str]:
    """Yield the lines of a split's `.inter` file."""
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
    """Return the lines of the `.item` file, in order of first appearance.

    Every rated item gets a line, because RecBole drops the rows of an item without one.
    """
    codes = np.unique(rows.item)
    table = items.reindex([raw.item_tokens[code] for code in codes]).fillna("")
    untitled = (table["title"] == "").to_numpy()
    if untitled.any():
        first = codes[untitled][0]
        line, count = int(raw.line[np.argmax(raw.item == first)]), int(untitled.sum())
        raw.problems.add("item without a title", line, raw.item_tokens[first], count, kept=True)
    header = ["item_id:token", *(f"{column}:{raw.item_types[column]}" for column in items.columns)]
    return ["\t".join(row) + "\n" for row in (header, *table.itertuples(index=True, name=None))]


def _counts(rows: Rows, code: int) -> SplitCounts:
    here = rows.split == code
    user, label = rows.user[here], rows.label[here]
    likes, count = np.bincount(user, label), np.bincount(user)
    train = rows.split == SPLITS.index("train")
    warm, warm_at_least_3 = (warm_rows(rows.user, rows.item, train, least) & here for least in (1, 3))
    return SplitCounts(
        rows=int(here.sum()),
        users=len(np.unique(user)),
        items=len(np.unique(rows.item[here])),
        liked=round(float(label.mean()), 4),
        uauc_users=int(((likes > 0) & (likes < count)).sum()),
        warm=int(warm.sum()),
        warm_at_least_3=int(warm_at_least_3.sum()),
    )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
