"""Read a user's own ratings and items: CSV, TSV or Parquet files with a header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.errors import CoraError, DataError, raise_all
from recbole_cora.prepare.columns import find_columns, id_places, missing_columns
from recbole_cora.prepare.delimited import DelimitedFile, sample_of
from recbole_cora.prepare.item_words import check_words, sort_columns
from recbole_cora.prepare.parquet import ParquetFile, is_parquet
from recbole_cora.prepare.problems import FileProblems, Problems
from recbole_cora.prepare.raw import ItemTable, RatingColumns, Raw, in_chunks
from recbole_cora.prepare.times import TimeFormat, find_format, numbers

_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")


@dataclass(frozen=True)
class TableOptions:
    """The files to read, and what the user says about them.

    Attributes:
        ratings: one rating or interaction per row.
        items: one item per row; it may be the ratings file again, if that has the titles.
        columns: the names of the `user`, `item`, `rating`, `time`, `title` and `items_id` columns; None finds one.
        separator, encoding, time_format: None finds it.
        implicit: each row is a like, so that no rating is read.
        has_times: False: the rows are in order of time.
        item_words: columns of the item file that are words; None decides by what they hold.
    """

    ratings: Path
    items: Path | None = None
    columns: Mapping[str, str | None] = field(default_factory=dict)
    separator: str | None = None
    encoding: str | None = None
    time_format: TimeFormat | None = None
    implicit: bool = False
    has_times: bool = True
    item_words: tuple[str, ...] | None = None

    def open(self, path: Path, problems: FileProblems, show_progress: bool = False) -> DelimitedFile | ParquetFile:
        """Open one of the files at its header."""
        if path.exists() and not path.is_file():  # a pipe can be read only once, /dev/zero forever
            raise DataError(f"{path} is not a file; expected one that holds a header line and rows")
        if is_parquet(path):
            return ParquetFile(path, problems)
        return DelimitedFile(path, problems, self.separator, self.encoding, show_progress)

    @property
    def rating_columns(self) -> tuple[str, ...]:
        """The columns of the ratings file that are needed."""
        rating, time = () if self.implicit else ("rating",), ("time",) if self.has_times else ()
        return ("user", "item", *rating, *time)


@dataclass(frozen=True)
class Plan:
    """What `examine` found in the headers and first rows: the places of the columns, and how times are written."""

    ratings: dict[str, int]
    items: dict[str, int]
    time: TimeFormat
    decimal_comma: bool
    notes: list[str]


def examine(options: TableOptions) -> tuple[Plan | None, list[CoraError]]:
    """Look at the headers and first rows of both files. Return a plan, or every mistake that they reveal."""
    mistakes: list[CoraError] = []
    notes: list[str] = []
    time, decimal_comma = options.time_format or TimeFormat(), False
    ratings: dict[str, int] = {}
    items: dict[str, int] = {}
    item_name, rated_items = options.columns.get("item"), set[str]()
    if (opened := _open(options, options.ratings, mistakes)) is not None:
        file, sample = opened
        ratings = _places(file, sample, {what: options.columns.get(what) for what in options.rating_columns}, mistakes)
        if options.has_times and options.time_format is None and "time" in ratings:
            try:
                where = f"the column '{file.header[ratings['time']]}' of {file.path}"
                time = find_format([row[ratings["time"]] for row in sample], where)
            except DataError as error:
                mistakes.append(error)
        decimal_comma = "rating" in ratings and _has_decimal_comma([row[ratings["rating"]] for row in sample])
        if "item" in ratings:
            item_name, rated_items = file.header[ratings["item"]], {row[ratings["item"]] for row in sample}
        notes.append(_note(file, sample, ratings, options, time, decimal_comma))
        if options.items is None:
            has_titles = "title" in find_columns(file.path, file.header, {"title": options.columns.get("title")})[0]
            remedy = f"--items={options.ratings}, whose titles can be read too" if has_titles else "--items=FILE"
            notes.append(f"no item file: MF, LGCN, SAS and others run, but CoRA's prompts need titles; add {remedy}")
    if options.items is not None and (opened := _open(options, options.items, mistakes)) is not None:
        file, sample = opened
        names = {"items_id": options.columns.get("items_id"), "title": options.columns.get("title")}
        if names["items_id"] is None:
            names["items_id"] = _id_column(options, file.header, item_name, rated_items)
        items = _places(file, sample, names, mistakes)
        mistakes += [DataError(problem) for problem in check_words(options.item_words, file.header)]
        if len(items) == len(names):
            item, title = (file.header[items[what]] for what in names)
            notes.append(f"{file.path.name} ({file}): item = {item}, title = {title}")
    return (None if mistakes else Plan(ratings, items, time, decimal_comma, notes)), mistakes


def read(options: TableOptions, problems: Problems, show_progress: bool = True) -> Raw:
    """Return the ratings and the item table.

    Raises:
        DataError: files or columns are missing (all are named), the separator is impossible, or no row is usable.
    """
    plan, mistakes = examine(options)
    raise_all(map(str, mistakes), DataError)
    assert plan is not None
    columns = RatingColumns(problems.of(options.ratings), time=plan.time)
    file = options.open(options.ratings, problems.of(options.ratings), show_progress)
    for chunk in in_chunks(file.rows()):
        lines = [line for line, _ in chunk]
        user, item = ([row[plan.ratings[what]] for _, row in chunk] for what in ("user", "item"))
        rating = ["1"] * len(chunk) if options.implicit else [row[plan.ratings["rating"]] for _, row in chunk]
        if plan.decimal_comma:
            rating = [cell.replace(",", ".") for cell in rating]
        time = [row[plan.ratings["time"]] for _, row in chunk] if options.has_times else list(map(str, lines))
        columns.add(np.array(lines), user, item, rating, time)
    notes = list(plan.notes)
    if options.items is None:
        raw = columns.finish(None, {}, [options.ratings])
    else:
        frame, types = _items(options, plan, problems, notes)
        raw = columns.finish(frame, types, list(dict.fromkeys([options.ratings, options.items])))
        if not frame.index.isin(raw.item_tokens).any():
            raise DataError(
                f"{options.items} names none of the rated items: there an item is {frame.index[0]!r}, in "
                f"{options.ratings} it is {raw.item_tokens[0]!r}; name the id's column by --items-id-column= or "
                "--item-column="
            )
    raw.notes, raw.has_times = notes, options.has_times
    return raw


def _open(
    options: TableOptions, path: Path, mistakes: list[CoraError]
) -> tuple[DelimitedFile | ParquetFile, list[list[str]]] | None:
    """Return a file and its first rows, or None after adding the reason to `mistakes`."""
    try:
        file = options.open(path, FileProblems(path, strict=False))
        return file, sample_of(file.rows(several_lines=path == options.items))
    except CoraError as error:
        if str(error) not in map(str, mistakes):
            mistakes.append(error)
        return None


def _places(
    file: DelimitedFile | ParquetFile,
    sample: Sequence[Sequence[str]],
    names: Mapping[str, str | None],
    mistakes: list[CoraError],
) -> dict[str, int]:
    places, missing, problems = find_columns(file.path, file.header, names)
    mistakes += [DataError(problem) for problem in problems]
    if missing:
        mistakes.append(missing_columns(file.path, file.header, sample, places, missing))
    return places


def _id_column(
    options: TableOptions, header: Sequence[str], item_name: str | None, rated_items: set[str]
) -> str | None:
    """Return the column of the item file that names the most of the rated items, of those that are named like an id."""
    assert options.items is not None
    candidates = id_places(header, item_name)
    if len(candidates) < 2:
        return header[candidates[0]] if candidates else None
    tokens: list[set[str]] = [set() for _ in candidates]
    for _, row in options.open(options.items, FileProblems(options.items, strict=False)).rows(several_lines=True):
        for place, seen in zip(candidates, tokens, strict=True):
            seen.add(row[place])
    common = [len(rated_items & seen) for seen in tokens]
    return header[candidates[common.index(max(common))]]


def _note(
    file: DelimitedFile | ParquetFile,
    sample: Sequence[Sequence[str]],
    places: Mapping[str, int],
    options: TableOptions,
    time: TimeFormat,
    decimal_comma: bool,
) -> str:
    """Return one line about what was found in the ratings file."""
    found = {what: f"{what} = {file.header[place]}" for what, place in places.items()}
    if "time" in found:
        is_date = not np.isfinite(numbers([row[places["time"]] for row in sample])).any()
        found["time"] += " (ISO dates)" if time == TimeFormat() and is_date else f" ({time})"
    if "rating" in found and decimal_comma:
        found["rating"] += " (decimal commas)"
    if options.implicit:
        found["rating"] = "each row is a like"
    if not options.has_times:
        found["time"] = "rows are in order of time"
    return f"{file.path.name} ({file}): {', '.join(found.values())}"


def _has_decimal_comma(cells: Sequence[str]) -> bool:
    unread = [cell for cell, value in zip(cells, numbers(cells), strict=True) if not np.isfinite(value)]
    return bool(unread) and sum(_DECIMAL_COMMA.fullmatch(c.strip()) is not None for c in unread) > len(unread) / 2


def _items(
    options: TableOptions, plan: Plan, problems: Problems, notes: list[str]
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Return the item table and the types of its columns; its last note says which columns are words."""
    assert options.items is not None
    in_ratings = options.items == options.ratings
    # The rows of a ratings file have been checked already, and name an item as often as it was rated.
    found = FileProblems(options.items, strict=False) if in_ratings else problems.of(options.items)
    file = options.open(options.items, found)
    item, title = plan.items["items_id"], plan.items["title"]
    skip = {item, title, *(plan.ratings.values() if in_ratings else ())}
    others = [place for place in range(len(file.header)) if place not in skip]
    table = ItemTable(found, [file.header[place] for place in others])
    for line, row in file.rows(several_lines=not in_ratings):
        table.add(line, row[item], row[title], *(row[place] for place in others))
    frame = table.finish()
    uses = sort_columns(frame, [file.header[place] for place in others], options.item_words)
    notes[-1] += f"; {uses}"
    types = uses.types()
    return frame[[column for column in frame.columns if column in types]], types
