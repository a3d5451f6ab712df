"""Read a user's own ratings and items: CSV or TSV files with a header, gzipped or not."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from recbole_cora.errors import CoraError, DataError, SettingError, nearest, raise_all
from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import FileProblems, Problems
from recbole_cora.prepare.raw import ItemTable, RatingColumns, Raw, in_chunks

if TYPE_CHECKING:
    from _csv import Reader

#: Header names by which a column is found if the user does not name it; compared in lower case.
GUESSES = {
    "user": ("user_id", "userid", "user", "uid", "reviewerid", "customer_id", "session_id"),
    "item": ("item_id", "itemid", "item", "iid", "movieid", "movie_id", "book_id", "isbn", "asin", "product_id"),
    "rating": ("rating", "ratings", "score", "stars", "overall", "label", "book-rating"),
    "time": ("timestamp", "time", "date", "datetime", "created_at", "unixreviewtime"),
    "title": ("title", "name", "movie_title", "item_title", "book_title", "book-title", "product_title"),
}
_RATING_COLUMNS, _ITEM_COLUMNS = ("user", "item", "rating", "time"), ("item", "title")


def read(
    ratings: Path,
    items: Path | None,
    problems: Problems,
    columns: dict[str, str | None] | None = None,
    separator: str | None = None,
    show_progress: bool = True,
) -> Raw:
    """Return the ratings and the item table.

    Args:
        columns: the names of the `user`, `item`, `rating`, `time` and `title` columns; None finds one by GUESSES.
        separator: the character between cells. None: a tab for a `.tsv`, `.inter` or `.item` file or a header with a
            tab, else the more frequent of semicolon and comma.

    Raises:
        DataError: files or columns are missing (all are named), the separator is impossible, or no row is usable.
    """
    columns = columns or {}
    raise_all(mistakes(ratings, items, columns, separator), DataError)
    rating_columns = RatingColumns(problems.of(ratings))
    table = _Table(ratings, separator, problems.of(ratings), show_progress)
    places = [table.column(what, columns.get(what)) for what in _RATING_COLUMNS]
    for chunk in in_chunks(table.rows(several_lines=False)):
        user, item, rating, time = ([row[place] for _, row in chunk] for place in places)
        rating_columns.add(np.array([line for line, _ in chunk]), user, item, rating, time)
    if items is None:
        return rating_columns.finish(None, {}, [ratings])
    frame = _items(_Table(items, separator, problems.of(items), show_progress=False), problems.of(items), columns)
    return rating_columns.finish(frame, dict.fromkeys(frame.columns, "token_seq"), [ratings, items])


def mistakes(
    ratings: Path, items: Path | None, columns: dict[str, str | None], separator: str | None = None
) -> list[str]:
    """Return every mistake that the headers of both files reveal; the arguments are those of `read`."""
    problems = []
    for path, columns_to_find in ((ratings, _RATING_COLUMNS), (items, _ITEM_COLUMNS)):
        if path is None:
            continue
        if path.exists() and not path.is_file():  # a pipe can be read only once, /dev/zero forever
            problems.append(f"{path} is not a file; expected one that holds a header line and rows")
            continue
        try:
            table = _Table(path, separator, FileProblems(path, strict=False), show_progress=False)
        except CoraError as error:
            problems.append(str(error))
            continue
        for what in columns_to_find:
            try:
                table.column(what, columns.get(what))
            except DataError as error:
                problems.append(str(error))
    return list(dict.fromkeys(problems))


def _items(table: _Table, problems: FileProblems, columns: dict[str, str | None]) -> pd.DataFrame:
    """Return the item table; columns other than the item and its title are kept too."""
    item, title = (table.column(what, columns.get(what)) for what in _ITEM_COLUMNS)
    others = [place for place in range(len(table.header)) if place not in (item, title)]
    item_table = ItemTable(problems, [table.header[place] for place in others])
    for line, row in table.rows(several_lines=True):
        item_table.add(line, row[item], row[title], *(row[place] for place in others))
    return item_table.finish()


class _Tabs(csv.excel):
    """The format of tab-separated files: quotes are ordinary characters, as in RecBole's own files."""

    quoting = csv.QUOTE_NONE


class _Table:
    """A delimited file: its header, and its rows with line numbers. Problems of rows go to `problems`.

    A byte that is not UTF-8 becomes a lone surrogate. `RatingColumns` and `ItemTable` count ids and titles with one
    as problems.
    """

    def __init__(self, path: Path, separator: str | None, problems: FileProblems, show_progress: bool) -> None:
        self._path, self._problems = path, problems
        texts = (line.decode("utf-8", "surrogateescape") + "\n" for line in lines_of(path, show_progress))
        first = next(texts, "")
        if separator is None:
            tabs = path.suffix in (".tsv", ".inter", ".item") or "\t" in first
            separator = "\t" if tabs else ";" if first.count(";") > first.count(",") else ","
        separator = "\t" if separator == "\\t" else separator
        if len(separator) != 1 or separator in '"\r\n' or not separator.isascii() or separator.isalnum():
            raise SettingError(f"the separator is {separator!r}; expected one character such as , or ; or \\t")
        self._separator, self._texts = separator, texts
        try:
            self.header = next(self._parse([first]), [])
        except csv.Error as error:
            raise DataError(f"{path} is not readable as CSV ({error}); expected a header line and rows") from None
        if not self.header:
            raise DataError(f"{path} is empty; expected a header line and rows")
        self._columns = ascii(", ".join(self.header))[1:201]

    def _parse(self, texts: Iterable[str]) -> Reader:
        dialect = _Tabs if self._separator == "\t" else csv.excel
        return csv.reader(texts, dialect, delimiter=self._separator, strict=True)

    def column(self, what: str, name: str | None) -> int:
        """Return the index of a column, found by its name or by GUESSES. Raises DataError if there is none."""
        if name is not None:
            if name not in self.header:
                near = nearest(name, self.header)
                raise DataError(f"{self._path} has no column '{name}'{near} (it has {self._columns})")
            return self.header.index(name)
        plain = [cell.split(":")[0].strip().lower() for cell in self.header]
        place = next((plain.index(guess) for guess in GUESSES[what] if guess in plain), None)
        if place is None:
            raise DataError(f"{self._path} has the columns {self._columns}; name the {what} column by --{what}-column=")
        return place

    def rows(self, several_lines: bool) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that have as many cells as the header, each with the number of its first line.

        Args:
            several_lines: a quoted cell may span several lines. If False, each line is read on its own, so that a
                missing closing quote costs one row and not the rest of the file.
        """
        width = len(self.header)
        for line, row in self._across_lines() if several_lines else self._line_by_line():
            if row and len(row) != width:
                self._problems.add(f"{len(row)} cells instead of {width}", line, self._separator.join(row))
            elif row:
                yield line, row

    def _line_by_line(self) -> Iterator[tuple[int, list[str]]]:
        for line, text in enumerate(self._texts, start=2):
            try:
                yield line, next(self._parse([text]), [])
            except csv.Error as error:
                self._problems.add(f"not readable as CSV ({error})", line, text.strip())

    def _across_lines(self) -> Iterator[tuple[int, list[str]]]:
        reader = self._parse(self._texts)
        while True:
            line = reader.line_num + 2
            try:
                row = next(reader, None)
            except csv.Error as error:
                self._problems.add(f"not readable as CSV ({error})", line, "", reader.line_num + 2 - line)
                continue
            if row is None:
                return
            yield line, row
