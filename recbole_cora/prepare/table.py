"""A user's own ratings and items: CSV or TSV files, gzipped or not, with a header."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.errors import DataError, nearest
from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import RatingColumns, Raw, in_chunks, one_line

#: Names that a column is looked for under, where none is given; compared in lower case.
GUESSES = {
    "user": ("user_id", "userid", "user", "uid", "reviewerid", "customer_id", "session_id"),
    "item": ("item_id", "itemid", "item", "iid", "movieid", "movie_id", "book_id", "isbn", "asin", "product_id"),
    "rating": ("rating", "ratings", "score", "stars", "overall", "label", "book-rating"),
    "time": ("timestamp", "time", "date", "datetime", "created_at", "unixreviewtime"),
    "title": ("title", "name", "movie_title", "item_title", "book_title", "book-title", "product_title"),
}


def read(
    ratings: Path,
    items: Path | None,
    problems: Problems,
    columns: dict[str, str | None] | None = None,
    separator: str | None = None,
    show_progress: bool = True,
) -> Raw:
    """Ratings and item table.

    Args:
        columns: names of the `user`, `item`, `rating`, `time` and `title` columns; None is looked for (GUESSES).
        separator: between cells; None: tab for `.tsv` and `.dat`, else a comma (or a semicolon, if the header has it).

    Raises:
        DataError: a file or a column is missing, or no usable row.
    """
    columns = columns or {}
    known = RatingColumns(ratings, problems)
    table = _Table(ratings, separator, problems, show_progress)
    places = [table.column(what, columns.get(what)) for what in ("user", "item", "rating", "time")]
    for chunk in in_chunks(table.rows()):
        user, item, rating, time = ([row[place] for _, row in chunk] for place in places)
        spaced = [place for place, token in enumerate(item) if _token(token) != token]
        if spaced:
            line, kind = chunk[spaced[0]][0], "item id with spaces, written with _ (kept)"
            problems.add(ratings, kind, line, item[spaced[0]], len(spaced))
        known.add(np.array([n for n, _ in chunk]), [one_line(u) for u in user], [*map(_token, item)], rating, time)
    if items is None:
        return known.finish(pd.DataFrame(columns=["title"]), {"title": "token_seq"}, [ratings])
    frame = _items(items, separator, problems, columns)
    return known.finish(frame, dict.fromkeys(frame.columns, "token_seq"), [ratings, items])


def _items(path: Path, separator: str | None, problems: Problems, columns: dict[str, str | None]) -> pd.DataFrame:
    found: dict[str, list[str]] = {}
    table = _Table(path, separator, problems, show_progress=False)
    item, title = table.column("item", columns.get("item")), table.column("title", columns.get("title"))
    others = [place for place in range(len(table.header)) if place not in (item, title)]
    for line, row in table.rows():
        if set("\t\n\r") & set(row[title]):
            problems.add(path, "title with tabs or newlines, made plain (kept)", line, row[title])
        token = _token(row[item])
        if token in found:
            problems.add(path, "item named twice, the first is taken (kept)", line, token)
        else:
            found[token] = [one_line(row[place]) for place in (title, *others)]
    names = ["title", *(_field(table.header[place]) for place in others)]
    return pd.DataFrame.from_dict(found, orient="index", columns=names)


def _token(text: str) -> str:
    """An item id as one word: in `item_id_list` a space separates ids."""
    return "_".join(text.split())


def _field(name: str) -> str:
    """A column's name as one of an atomic file, whose header is `name:type`."""
    return "_".join(name.replace(":", " ").split()).lower() or "unnamed"


class _Table:
    """A delimited file: its header, and its rows with line numbers; what is wrong with a row goes to `problems`."""

    def __init__(self, path: Path, separator: str | None, problems: Problems, show_progress: bool) -> None:
        self._path, self._problems = path, problems
        # A byte that is not UTF-8 becomes a lone surrogate here, and is looked for row by row.
        texts = (line.decode("utf-8", "surrogateescape") + "\n" for line in lines_of(path, show_progress))
        first = next(texts, "").removeprefix("\ufeff")
        if separator is None:
            tabs = path.suffix in (".tsv", ".dat", ".inter", ".item") or "\t" in first
            separator = "\t" if tabs else ";" if first.count(";") > first.count(",") else ","
        self._separator = separator
        self._reader = csv.reader(chain([first], texts), delimiter=separator)
        self.header = next(self._reader, [])
        if not self.header:
            raise DataError(f"{path} is empty; expected a header line and rows")

    def column(self, what: str, name: str | None) -> int:
        """The place of a column, by its name or by guess."""
        if name is not None:
            if name not in self.header:
                raise DataError(
                    f"{self._path} has no column '{name}'{nearest(name, self.header)} (it has {', '.join(self.header)})"
                )
            return self.header.index(name)
        plain = [cell.split(":")[0].strip().lower() for cell in self.header]
        place = next((plain.index(guess) for guess in GUESSES[what] if guess in plain), None)
        if place is None:
            columns = ", ".join(self.header)
            raise DataError(f"{self._path} has the columns {columns}; name the {what}'s with --{what}-column=")
        return place

    def rows(self) -> Iterator[tuple[int, list[str]]]:
        """Rows with as many cells as the header, decoded whole, with the line where they end."""
        width = len(self.header)
        while True:
            try:
                row = next(self._reader, None)
            except csv.Error as error:
                self._problems.add(self._path, f"not readable as CSV ({error})", self._reader.line_num)
                continue
            if row is None:
                return
            line, text = self._reader.line_num, self._separator.join(row)
            if row and len(row) != width:
                self._problems.add(self._path, f"{len(row)} cells instead of {width}", line, text)
            elif any("\udc80" <= character <= "\udcff" for character in text):
                self._problems.add(self._path, "bytes that are not UTF-8", line, ascii(text))
            elif row:
                yield line, row
