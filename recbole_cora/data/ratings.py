"""From a dataset's atomic files to rows: who rated what when, liked or not, in which split, after which history.

Every model, RecBole's own included, is trained and scored on exactly these rows, in the order, splits and histories of
`protocol`. RecBole reads timestamps as float32, which merges moments: rows are ordered here, before RecBole sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_cora.data.protocol import SPLITS, Array, histories, order_of_rows, split_each_user, warm_rows
from recbole_cora.errors import DataError
from recbole_cora.files import content_key

#: Columns that hold an item's title, tried in this order where `title_field` is not set.
_TITLE_FIELDS = ("title", "movie_title", "item_title", "name", "book_title")


@dataclass(frozen=True)
class Ratings:
    """R rated rows in order (user, time, first appearance), with codes into the token tables.

    Attributes:
        user, item: codes [R] into `user_tokens`, `item_tokens`.
        label: 1.0 liked, 0.0 not [R].
        split: index into SPLITS [R].
        liked: item codes; a row's history, oldest first, is `liked[history_start[row]:history_end[row]]`.
        titles: one text per item token, None where the dataset has no titles at all.
        item_text: one line of everything the `.item` file says per item ("" where it says nothing).
        untitled: items that have no title of their own (they carry a named placeholder).
    """

    name: str
    user_tokens: Array
    item_tokens: Array
    user: Array
    item: Array
    label: Array
    split: Array
    liked: Array
    history_start: Array
    history_end: Array
    titles: list[str] | None
    item_text: list[str]
    untitled: int

    def __len__(self) -> int:
        return len(self.user)

    def history(self, row: int, last: int | None = None) -> Array:
        """Codes of the items that the row's user had liked before, oldest first; only the `last` ones if given."""
        start, end = self.history_start[row], self.history_end[row]
        return self.liked[start if last is None else max(start, end - last) : end]

    def rows(self, split: str) -> Array:
        """Indices of the rows of a split, in order."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def warm(self, least: int) -> Array:
        """Rows [R] whose user and item both have at least `least` train rows."""
        return warm_rows(self.user, self.item, self.split == SPLITS.index("train"), least)

    def key(self) -> str:
        """Changes whenever a row, a label, a split, a history or a vocabulary changes; titles do not count."""
        tokens = ["\x1f".join(t.tolist()).encode() for t in (self.user_tokens, self.item_tokens)]
        columns = (self.user, self.item, self.label, self.split, self.liked, self.history_start, self.history_end)
        return content_key(*tokens, *(np.ascontiguousarray(c).tobytes() for c in columns))

    def users_with_both_classes(self, split: str) -> int:
        """How many users UAUC averages over in a split."""
        rows = self.rows(split)
        likes = pd.Series(self.label[rows]).groupby(self.user[rows]).mean()
        return int(((likes > 0) & (likes < 1)).sum())


def read_atomic(path: Path, separator: str = "\t") -> tuple[pd.DataFrame, dict[str, str]]:
    """A RecBole atomic file with every cell as text, as it stands, and the columns' types; blank lines may end it.

    Raises DataError: no such file, a header without `name:type`, a line with more or fewer cells, a blank line between
    others.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); see dataset/README.md for the files a dataset has"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 (byte {error.start}); save it as UTF-8") from None
    header, *cells = [line.rstrip("\r").split(separator) for line in lines]
    while cells and cells[-1] == [""]:
        cells.pop()
    if any(h.count(":") != 1 for h in header):
        raise DataError(f"{path} has the header {separator.join(header)!r}; expected cells of the form name:type")
    if len({h.split(":")[0] for h in header}) < len(header):
        raise DataError(f"{path} has the header {separator.join(header)!r}; expected each column once")
    for number, row in enumerate(cells, start=2):
        if row == [""]:
            raise DataError(f"{path} line {number} is blank, expected {len(header)} cells; remove the line")
        if len(row) != len(header):
            raise DataError(f"{path} line {number} has {len(row)} cells, its header {len(header)}; mend or remove it")
    types = dict(h.split(":") for h in header)
    return pd.DataFrame(cells, columns=list(types), dtype=object), types


def load_ratings(folder: Path, name: str, settings: dict[str, Any]) -> Ratings:
    """Read a dataset: `<name>.inter` split here, or `<name>.{train,valid,test}.inter` already split; `<name>.item`.

    Args:
        settings: RecBole's field names, `threshold`, `eval_args.split` and our `title_field`.

    Raises:
        DataError: missing files or columns, no labels, an empty split, one class only in train or valid.
    """
    if not folder.is_dir():
        raise DataError(f"no dataset folder {folder}; put {name}.inter and {name}.item there, or set --data_path=")
    paths = [folder / f"{name}.{split}.inter" for split in SPLITS]
    prepared = all(p.is_file() for p in paths)
    if not prepared:
        paths = [folder / f"{name}.inter"]
    parts = [read_atomic(p)[0] for p in paths]
    frame = pd.concat(parts, ignore_index=True)
    lines = _Lines(paths, [len(p) for p in parts])
    user_field, item_field, time_field = (settings[k] for k in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"))
    for field in (user_field, item_field) if prepared else (user_field, item_field, time_field):
        for path, part in zip(paths, parts, strict=True):
            if field not in part:
                raise DataError(f"{path.name} has no column '{field}'; it has {', '.join(part.columns)}")
    if frame.empty:
        raise DataError(f"{paths[0].name} has no rows; expected one line per rating")
    for field in (user_field, item_field):
        _refuse_nul(frame, field, lines)
    label = _labels(frame, lines, settings)
    user, user_tokens = pd.factorize(frame[user_field])
    item, item_tokens = pd.factorize(frame[item_field])  # codes by first appearance: the third key of the order

    if not prepared:
        time = _numbers(frame, time_field, lines)
        order = order_of_rows(user, time, item)
        user, item, label = user[order], item[order], label[order]
        split = split_each_user(user, _shares(settings["eval_args"]))
        liked, start, end = histories(user, item, label)
    else:
        split = np.repeat(np.arange(len(SPLITS), dtype=np.int8), [len(p) for p in parts])
        field = f"{item_field}{settings['LIST_SUFFIX']}"
        for path, part in zip(paths, parts, strict=True):
            if field not in part:
                raise DataError(f"{path.name} has no column '{field}' (the liked history); prepare the dataset again")
        liked, start, end = _given_histories(frame[field], item_tokens)

    titles, item_text, untitled = _items(folder / f"{name}.item", item_tokens, settings)
    ratings = Ratings(
        name, np.asarray(user_tokens, dtype=str), np.asarray(item_tokens, dtype=str), user, item,
        label.astype(np.float32), split, liked, start, end, titles, item_text, untitled,
    )  # fmt: skip
    _check_splits(ratings)
    return ratings


class _Lines:
    """Where the rows of one or several files, read one after the other, stand in them."""

    def __init__(self, paths: list[Path], rows: list[int]) -> None:
        self.paths, self._ends = paths, np.cumsum(rows)

    def of(self, row: int) -> str:
        """File and line of a row."""
        file = int(np.searchsorted(self._ends, row, side="right"))
        before = self._ends[file - 1] if file else 0
        return f"{self.paths[file].name} line {row - before + 2}"  # line 1 is the header


def _refuse_nul(frame: pd.DataFrame, field: str, lines: _Lines) -> None:
    """numpy's text arrays drop NUL characters from the end of a text: ids that differ in them would become one."""
    nul = frame[field].str.contains("\0", regex=False).to_numpy(bool)
    if nul.any():
        row = int(np.argmax(nul))
        raise DataError(
            f"{lines.of(row)}: '{field}' is {frame[field].iloc[row]!r}, which holds a NUL character; "
            f"expected an id of text without it ({int(nul.sum())} rows have one)"
        )


def _labels(frame: pd.DataFrame, lines: _Lines, settings: dict[str, Any]) -> Array:
    """The label column as it is, else `threshold: {field: least}` as RecBole reads it (>=)."""
    label_field = settings["LABEL_FIELD"]
    if label_field in frame:
        label = _numbers(frame, label_field, lines)
        binary = np.isin(label, (0.0, 1.0))
        if not binary.all():
            row = int(np.argmin(binary))
            raise DataError(
                f"{lines.of(row)}: '{label_field}' is {frame[label_field].iloc[row]!r}; expected 0 or 1 "
                "(or use threshold, without a label column)"
            )
        return label
    threshold = settings["threshold"]
    if not threshold:
        raise DataError(
            f"{lines.paths[0].name} has no '{label_field}' column and no threshold is set; "
            f"add the column, or set --threshold='{{{settings['RATING_FIELD']}: 4}}'"
        )
    field, least = next(iter(threshold.items()))
    if field not in frame:
        raise DataError(
            f"{lines.paths[0].name} has no labels: neither '{label_field}' nor the threshold's column '{field}'"
        )
    return (_numbers(frame, field, lines) >= float(least)).astype(np.float32)


def _numbers(frame: pd.DataFrame, field: str, lines: _Lines) -> Array:
    values = pd.to_numeric(frame[field], errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        value = frame[field].iloc[row]
        if not isinstance(value, str):  # pandas fills the cells of a column that this file lacks
            raise DataError(f"{lines.of(row)}: has no column '{field}', which other files of the dataset have")
        raise DataError(f"{lines.of(row)}: '{field}' is {value!r}; expected a number")
    return values


def _shares(eval_args: dict[str, Any]) -> list[float]:
    ratios = (eval_args.get("split") or {}).get("RS")
    if not isinstance(ratios, list) or len(ratios) != 3 or eval_args.get("group_by") != "user":
        raise DataError(
            f"eval_args is {eval_args}; expected split: {{RS: [train, valid, test]}} with group_by: user "
            "(for another split, prepare the dataset: recbole-cora prepare csv --help)"
        )
    shares = [float(share) for share in ratios]
    if min(shares) <= 0:
        raise DataError(f"eval_args.split is {ratios}; expected three shares above 0, such as [0.8, 0.1, 0.1]")
    return shares


def _given_histories(cells: pd.Series, item_tokens: Any) -> tuple[Array, Array, Array]:
    lists = cells.str.split().to_list()
    end = np.cumsum([len(x) for x in lists])
    flat = pd.Index(item_tokens).get_indexer(pd.Index([token for tokens in lists for token in tokens], dtype=object))
    if (flat < 0).any():
        raise DataError("a history names an item that no row rates; prepare the dataset again")
    return flat, np.concatenate([[0], end[:-1]]), end


def _items(path: Path, item_tokens: Any, settings: dict[str, Any]) -> tuple[list[str] | None, list[str], int]:
    """Titles (whole, not split into words), the other cells as one line, and how many items have no title."""
    if not path.is_file():
        return None, [""] * len(item_tokens), len(item_tokens)
    frame, _ = read_atomic(path)
    wanted = settings.get("title_field")
    field = next((f for f in ([wanted] if wanted else _TITLE_FIELDS) if f in frame), None)
    if field is None:
        raise DataError(
            f"{path} has no title column ({wanted or ', '.join(_TITLE_FIELDS)}); it has {', '.join(frame.columns)}: "
            "set --title_field="
        )
    if settings["ITEM_ID_FIELD"] not in frame:
        raise DataError(f"{path} has no column '{settings['ITEM_ID_FIELD']}'; it has {', '.join(frame.columns)}")
    frame = frame.drop_duplicates(settings["ITEM_ID_FIELD"]).set_index(settings["ITEM_ID_FIELD"])
    frame = frame.reindex(item_tokens).fillna("")
    titles = [title.strip() or f"untitled item {token}" for title, token in zip(frame[field], item_tokens, strict=True)]
    text = [" ".join(cell for cell in row if cell) for row in frame.drop(columns=field).itertuples(index=False)]
    return titles, text, int((frame[field].str.strip() == "").sum())


def _check_splits(ratings: Ratings) -> None:
    for split in SPLITS:
        if not len(ratings.rows(split)):
            raise DataError(f"the {split} split of {ratings.name} is empty; give it rows, or change eval_args.split")
    for split in ("train", "valid"):
        labels = ratings.label[ratings.rows(split)]
        if labels.min() == labels.max():
            liked = "liked" if labels[0] else "disliked"
            raise DataError(
                f"every {split} row of {ratings.name} is {liked}; training and early stopping need both classes: "
                "change the threshold or the split"
            )
