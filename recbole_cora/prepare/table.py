"""A user's own ratings and items: CSV or TSV files, gzipped or not, with a header."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_cora.errors import DataError, nearest
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import Raw, RatingColumns, in_chunks, one_line

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
    with _Table(ratings, separator, problems, show_progress) as table:
        places = [table.column(what, columns.get(what)) for what in ("user", "item", "rating", "time")]
        for chunk in in_chunks(table.rows()):
            user, item, rating, time = ([row[place] for _, row in chunk] for place in places)
            known.add(np.array([line for line, _ in chunk]), user, item, rating, time)
    if items is None:
        return known.finish(pd.DataFrame(columns=["title"]), {"title": "token_seq"}, [ratings])
    frame = _items(items, separator, problems, columns)
    return known.finish(frame, {c: "token_seq" for c in frame.columns}, [ratings, items])


def _items(path: Path, separator: str | None, problems: Problems, columns: dict[str, str | None]) -> pd.DataFrame:
    found: dict[str, list[str]] = {}
    with _Table(path, separator, problems, show_progress=False) as table:
        item, title = table.column("item", columns.get("item")), table.column("title", columns.get("title"))
        others = [place for place in range(len(table.header)) if place not in (item, title)]
        for line, row in table.rows():
            if "\t" in row[title] or "\n" in row[title] or "\r" in row[title]:
                problems.add(path, "title with tabs or newlines, made plain (kept)", line, row[title])
            if row[item] in found:
                problems.add(path, "item named twice, the first is taken (kept)", line, row[item])
            else:
                found[row[item]] = [one_line(row[place]) for place in (title, *others)]
        names = ["title", *(_field(table.header[place]) for place in others)]
    return pd.DataFrame.from_dict(found, orient="index", columns=names)


def _field(name: str) -> str:
    """A column's name as one of an atomic file, whose header is `name:type`."""
    return "_".join(name.replace(":", " ").split()).lower() or "unnamed"


class _Table:
    """A delimited file: its header, and its rows with line numbers; what is wrong with a row goes to `problems`."""

    def __init__(self, path: Path, separator: str | None, problems: Problems, show_progress: bool) -> None:
        self._path, self._problems = path, problems
        try:
            self._size = path.stat().st_size
            self._bytes = path.open("rb")
            packed = self._bytes.peek(2)[:2] == b"\x1f\x8b"  # type: ignore[attr-defined]
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror}); give the path of a CSV file") from None
        stream = gzip.open(self._bytes) if packed else self._bytes
        # A byte that is not UTF-8 becomes a lone surrogate here, and is looked for row by row.
        self._text = io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")  # type: ignore[arg-type]
        self._bar = tqdm(total=self._size, desc=path.name, unit="B", unit_scale=True, disable=not show_progress)
        first = self._text.readline()
        if separator is None:
            tabs = path.suffix in (".tsv", ".dat", ".inter", ".item") or "\t" in first
            separator = "\t" if tabs else ";" if first.count(";") > first.count(",") else ","
        self._separator = separator
        self.header = next(csv.reader([first], delimiter=separator), [])
        if not self.header:
            raise DataError(f"{path} is empty; expected a header line and rows")

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._text.close()
        self._bytes.close()

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
            raise DataError(
                f"{self._path} has the columns {', '.join(self.header)}; which is the {what}? say it with --{what}-column="
            )
        return place

    def rows(self) -> Iterator[tuple[int, Sequence[str]]]:
        """Rows with as many cells as the header, decoded whole."""
        reader = csv.reader(self._text, delimiter=self._separator)
        width, done = len(self.header), 0
        while True:
            try:
                row = next(reader, None)
            except csv.Error as error:
                self._problems.add(self._path, f"not readable as CSV ({error})", reader.line_num + 1)
                continue
            if row is None:
                return
            line = reader.line_num + 1  # the header was read before
            if line % 10_000 == 0:
                self._bar.update(self._bytes.tell() - done)
                done = self._bytes.tell()
            if len(row) != width:
                if row:
                    self._problems.add(self._path, f"{len(row)} cells instead of {width}", line, self._separator.join(row))
            elif any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
                self._problems.add(self._path, "bytes that are not UTF-8", line, repr(self._separator.join(row)))
            else:
                yield line, row
