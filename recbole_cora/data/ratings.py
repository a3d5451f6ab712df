"""Read a dataset's atomic files into rows: a user, an item, a label, a split and a history each.

Every model, RecBole's own included, is trained and scored on exactly these rows, with the order, splits and histories
of `protocol`. RecBole reads timestamps as float32, which makes nearby times equal, so rows are sorted here, before
RecBole sees them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.data.prepared import sampled_negatives
from recbole_cora.data.protocol import SPLITS, Array, histories, order_of_rows, split_each_user, warm_rows
from recbole_cora.errors import DataError
from recbole_cora.files import content_key
from recbole_cora.settings.kinds import SettingValues

#: Columns tried in this order for an item's title when `title_field` is not set.
_TITLE_FIELDS = ("title", "movie_title", "item_title", "name", "book_title")


@dataclass(frozen=True)
class Ratings:
    """R rated rows, sorted by user, time and the item's first appearance. Users and items are codes into token tables.

    Attributes:
        user, item: codes [R] into `user_tokens`, `item_tokens`.
        label: 1.0 if liked, else 0.0 [R].
        split: index into SPLITS [R].
        liked: item codes; a row's history, oldest first, is `liked[history_start[row]:history_end[row]]`.
        titles: one title per item token; None if the dataset has no `.item` file.
        item_text: per item, the other columns of the `.item` file on one line, except numbers (`float`); "" if they
            are empty.
        untitled: number of items without a title; they get a placeholder that names the item.
        negatives: says how the sampled negatives among the rows were drawn; "" if all rows are ratings.
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
    negatives: str = ""

    def __len__(self) -> int:
        return len(self.user)

    def history(self, row: int, last: int | None = None) -> Array:
        """Return the codes of the items that the row's user liked before, oldest first: all, or the latest `last`."""
        start, end = self.history_start[row], self.history_end[row]
        return self.liked[start if last is None else max(start, end - last) : end]

    def rows(self, split: str) -> Array:
        """Return the indices of a split's rows, in order."""
        return np.flatnonzero(self.split == SPLITS.index(split))

    def warm(self, least: int) -> Array:
        """Return a mask [R] of the rows whose user and item both have at least `least` train rows."""
        return warm_rows(self.user, self.item, self.split == SPLITS.index("train"), least)

    def key(self) -> str:
        """Return a key that changes with any row, label, split, history or vocabulary, but not with titles."""
        tokens = ["\x1f".join(t.tolist()).encode() for t in (self.user_tokens, self.item_tokens)]
        columns = (self.user, self.item, self.label, self.split, self.liked, self.history_start, self.history_end)
        return content_key(*tokens, *(np.ascontiguousarray(c).tobytes() for c in columns))

    def users_with_both_classes(self, split: str) -> int:
        """Return the number of users with both labels in a split. UAUC averages over them."""
        rows = self.rows(split)
        likes = pd.Series(self.label[rows]).groupby(self.user[rows]).mean()
        return int(((likes > 0) & (likes < 1)).sum())


def read_atomic(path: Path, separator: str = "\t") -> tuple[pd.DataFrame, dict[str, str]]:
    """Read a RecBole atomic file, which may end in blank lines. Return its cells as text, and its columns' types.

    Raises:
        DataError: the file cannot be read, a header cell is not of the form `name:type`, a column appears twice, a line
            has too many or too few cells, or a blank line is followed by others.
    """
    try:
        lines = path.read_bytes().decode("utf-8-sig").split("\n")
    except OSError as error:
        raise DataError(
            f"cannot read {path} ({error.strerror}); dataset/README.md lists the files of a dataset"
        ) from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text (at byte {error.start}); save it as UTF-8") from None
    header, *cells = [line.rstrip("\r").split(separator) for line in lines]
    while cells and cells[-1] == [""]:
        cells.pop()
    if any(h.count(":") != 1 for h in header):
        raise DataError(f"{path} has the header {separator.join(header)!r}; expected columns of the form name:type")
    if len({h.split(":")[0] for h in header}) < len(header):
        raise DataError(f"{path} has the header {separator.join(header)!r}; expected each column once")
    for number, row in enumerate(cells, start=2):
        if row == [""]:
            raise DataError(f"{path} line {number} is blank, expected {len(header)} cells; remove the line")
        if len(row) != len(header):
            raise DataError(
                f"{path} line {number} has {len(row)} cells, but the header has {len(header)}; fix or remove the line"
            )
    types = dict(h.split(":") for h in header)
    return pd.DataFrame(cells, columns=list(types), dtype=object), types


def load_ratings(folder: Path, name: str, settings: SettingValues) -> Ratings:
    """Read `<name>.item`, and `<name>.{train,valid,test}.inter` or else `<name>.inter`, which is split here.

    Args:
        settings: holds RecBole's field names, `threshold`, `eval_args` and our `title_field`.

    Raises:
        DataError: a file, a column or the labels are missing, a split is empty, or train or valid has only one class.
    """
    if not folder.is_dir():
        raise DataError(f"no dataset folder {folder}; put {name}.inter and {name}.item there, or set --data_path=")
    paths = [folder / f"{name}.{split}.inter" for split in SPLITS]
    is_prepared = all(p.is_file() for p in paths)
    if not is_prepared:
        paths = [folder / f"{name}.inter"]
    parts = [read_atomic(p)[0] for p in paths]
    frame = pd.concat(parts, ignore_index=True)
    lines = _Lines(paths, [len(p) for p in parts])
    user_field, item_field, time_field = (settings[k] for k in ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD"))
    for field in (user_field, item_field) if is_prepared else (user_field, item_field, time_field):
        for path, part in zip(paths, parts, strict=True):
            if field not in part:
                raise DataError(f"{path.name} has no column '{field}'; it has {', '.join(part.columns)}")
    if frame.empty:
        raise DataError(f"{paths[0].name} has no rows; expected one line per rating")
    for field in (user_field, item_field):
        _refuse_nul(frame, field, lines)
    label = _labels(frame, lines, settings)
    user, user_tokens = pd.factorize(frame[user_field])
    item, item_tokens = pd.factorize(frame[item_field])  # codes by first appearance: the third sort key

    if not is_prepared:
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
        liked, start, end = _read_histories(frame[field], item_tokens)

    titles, item_text, untitled = _items(folder / f"{name}.item", item_tokens, settings)
    ratings = Ratings(
        name, np.asarray(user_tokens, dtype=str), np.asarray(item_tokens, dtype=str), user, item,
        label.astype(np.float32), split, liked, start, end, titles, item_text, untitled,
        sampled_negatives(folder, name) if is_prepared else "",
    )  # fmt: skip
    _check_splits(ratings)
    return ratings


class _Lines:
    """Finds the file and line of a row. Each file's rows follow those of the previous file."""

    def __init__(self, paths: list[Path], rows: list[int]) -> None:
        self.paths, self._ends = paths, np.cumsum(rows)

    def of(self, row: int) -> str:
        """Return the file and line of a row."""
        file = int(np.searchsorted(self._ends, row, side="right"))
        before = self._ends[file - 1] if file else 0
        return f"{self.paths[file].name} line {row - before + 2}"  # line 1 is the header


def _refuse_nul(frame: pd.DataFrame, field: str, lines: _Lines) -> None:
    """Refuse ids with NUL characters. numpy drops NULs at the end of a text, so two ids could become the same."""
    nul = frame[field].str.contains("\0", regex=False).to_numpy(bool)
    if nul.any():
        row = int(np.argmax(nul))
        raise DataError(
            f"{lines.of(row)}: '{field}' is {frame[field].iloc[row]!r}, which holds a NUL character; "
            f"expected an id without it ({int(nul.sum())} such rows)"
        )


def _labels(frame: pd.DataFrame, lines: _Lines, settings: SettingValues) -> Array:
    """Return the label column or, without one, labels by `threshold: {field: least}`: 1 if >= least, as in RecBole."""
    label_field = settings["LABEL_FIELD"]
    if label_field in frame:
        label = _numbers(frame, label_field, lines)
        binary = np.isin(label, (0.0, 1.0))
        if not binary.all():
            row = int(np.argmin(binary))
            raise DataError(
                f"{lines.of(row)}: '{label_field}' is {frame[label_field].iloc[row]!r}; expected 0 or 1 "
                "(or remove the label column and set threshold)"
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
            f"{lines.paths[0].name} has no labels: it has neither '{label_field}' nor '{field}', the threshold's column"
        )
    return (_numbers(frame, field, lines) >= float(least)).astype(np.float32)


def _numbers(frame: pd.DataFrame, field: str, lines: _Lines) -> Array:
    values = pd.to_numeric(frame[field], errors="coerce").to_numpy(np.float64)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(np.argmax(bad))
        value = frame[field].iloc[row]
        if not isinstance(value, str):  # pandas fills in the cells if this file lacks the column
            raise DataError(f"{lines.of(row)} has no column '{field}', which other files of the dataset have")
        raise DataError(f"{lines.of(row)}: '{field}' is {value!r}; expected a number")
    return values


def _shares(eval_args: SettingValues) -> list[float]:
    """Return the shares of train, valid and test."""
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


def _read_histories(cells: pd.Series, item_tokens: pd.Index) -> tuple[Array, Array, Array]:
    """Return the item codes of all histories, and the start and end of each row's history among them."""
    lists = cells.str.split().to_list()
    end = np.cumsum([len(x) for x in lists])
    flat = pd.Index(item_tokens).get_indexer(pd.Index([token for tokens in lists for token in tokens], dtype=object))
    if (flat < 0).any():
        raise DataError("a history contains an item that has no row; prepare the dataset again")
    return flat, np.concatenate([[0], end[:-1]]), end


def _items(path: Path, item_tokens: pd.Index, settings: SettingValues) -> tuple[list[str] | None, list[str], int]:
    """Return each item's title, each item's other cells on one line, and the number of items without a title."""
    if not path.is_file():
        return None, [""] * len(item_tokens), len(item_tokens)
    frame, types = read_atomic(path)
    title_field = settings.get("title_field")
    field = next((f for f in ([title_field] if title_field else _TITLE_FIELDS) if f in frame), None)
    if field is None:
        raise DataError(
            f"{path} has no title column ({title_field or ', '.join(_TITLE_FIELDS)}); set --title_field= to one of "
            f"{', '.join(frame.columns)}"
        )
    if settings["ITEM_ID_FIELD"] not in frame:
        raise DataError(f"{path} has no column '{settings['ITEM_ID_FIELD']}'; it has {', '.join(frame.columns)}")
    frame = frame.drop_duplicates(settings["ITEM_ID_FIELD"]).set_index(settings["ITEM_ID_FIELD"])
    frame = frame.reindex(item_tokens).fillna("")
    titles = [title.strip() or f"untitled item {token}" for title, token in zip(frame[field], item_tokens, strict=True)]
    words = [column for column in frame.columns if column != field and not types[column].startswith("float")]
    text = [" ".join(cell for cell in row if cell) for row in frame[words].itertuples(index=False)]
    return titles, text, int((frame[field].str.strip() == "").sum())


def _check_splits(ratings: Ratings) -> None:
    for split in SPLITS:
        if not len(ratings.rows(split)):
            raise DataError(f"the {split} split of {ratings.name} is empty; give it rows, or change eval_args.split")
    for split in ("train", "valid"):
        labels = ratings.label[ratings.rows(split)]
        if labels.min() == labels.max():
            only_class = "liked" if labels[0] else "disliked"
            raise DataError(
                f"every {split} row of {ratings.name} is {only_class}; training and early stopping need both classes: "
                "change the threshold or the split"
            )
