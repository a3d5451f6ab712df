"""Write the rows of a dataset as RecBole's atomic files, with a summary: either all files are written or none."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.data.protocol import SPLITS, warm_rows
from recbole_cora.errors import DataError
from recbole_cora.files import json_text, replace_files
from recbole_cora.prepare.overview import overview
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import Raw
from recbole_cora.prepare.recipe import Recipe, Rows, make_rows

log = logging.getLogger()

#: Raise it when the same raw files and options would give other bytes.
VERSION = 1
#: The most liked items in a row's `item_id_list`. It is RecBole's MAX_ITEM_LIST_LENGTH: RecBole does not cut lists.
HISTORY_ITEMS = 50
#: The list of a row without history. RecBole's sequential models fail on an empty list. RecBole reads a no-break space
#: as one token, which is not an item of the dataset; Python's `split()` drops it.
NO_HISTORY = "\u00a0"


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
        sampled: number of sampled negatives by split.
        has_times: False if the timestamps are only the order of the rows in the file.
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
    sampled: dict[str, int] = field(default_factory=dict)
    has_times: bool = True

    def as_json(self) -> dict[str, object]:
        """Return the content of the file. What a dataset of ratings with times does not have is not in it."""
        content = asdict(self)
        negatives = content["recipe"].pop("negatives")
        sampled = content.pop("sampled")
        if negatives is not None:
            content["negatives"] = {**negatives, "rows": sampled, "about": str(self.recipe.negatives)}
        if content.pop("has_times"):
            return content
        return {**content, "time": "the order of the rows in the file"}

    def line(self) -> str:
        """Return the counts in one line for the screen."""
        rows = " / ".join(f"{counts.rows:,}" for counts in self.splits.values())
        return f"{rows} rows (train / valid / test), {self.users:,} users, {self.items:,} items"


def prepare(raw: Raw, recipe: Recipe, problems: Problems, out: Path) -> Summary:
    """Write `<name>.{train,valid,test}.inter`, `<name>.item` and `<name>.prepared.json` into `out`: all or none.

    What is about to be written, and what is dropped and why, is logged first.

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
        sampled={split: int((rows.split[rows.is_sampled] == code).sum()) for code, split in enumerate(SPLITS)},
        has_times=raw.has_times,
    )
    problems.report()
    for level, text in overview(raw, recipe, rows):
        log.log(level, text)

    def fill(folder: Path) -> None:
        nonlocal summary
        for name, lines in files.items():
            with (folder / name).open("w", encoding="utf-8", newline="\n") as file:
                file.writelines(lines)
        checksums = {name: _sha256(folder / name) for name in files}
        summary = replace(summary, files=checksums, problems=problems.as_json())
        text = json_text(summary.as_json())
        (folder / f"{recipe.name}.prepared.json").write_text(text, encoding="utf-8", newline="\n")

    try:
        replace_files(out, fill, stale=[f"{recipe.name}.item"])
    except OSError as error:
        raise DataError(f"cannot write into {out} ({error.strerror}); make room or give another --out=") from None
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
