"""Read Goodreads's interactions and books (the UCSD Book Graph): one JSON object per line, gzipped or not.

An interaction has `user_id`, `book_id`, `is_read`, `rating` (0 stars: not rated) and `date_added`, such as `Fri Apr 19
08:15:15 -0700 2013`. A book has `book_id`, `title`, `publisher` and `publication_year`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from recbole_cora.errors import DataError
from recbole_cora.prepare.jsonl import cells_of, objects_of, text_of
from recbole_cora.prepare.problems import FileProblems, Problems
from recbole_cora.prepare.raw import ItemTable, RatingColumns, Raw, in_chunks
from recbole_cora.prepare.times import TimeFormat

_FIELDS = ("user_id", "book_id", "rating", "date_added")
_TYPES = {"title": "token_seq", "publisher": "token_seq", "publication_year": "token"}
_TIME = TimeFormat(pattern="%a %b %d %H:%M:%S %z %Y")


def read(interactions: Path, books: Path, problems: Problems, implicit: bool, show_progress: bool = True) -> Raw:
    """Return the rated books or, if `implicit`, the books that were read; and the table of these books.

    Raises:
        DataError: a file is missing or damaged, or holds other data.
    """
    found, notes = problems.of(interactions), _Skipped()
    columns = RatingColumns(found, least=0 if implicit else 1, most=5, time=_TIME)
    for chunk in in_chunks(_rows(interactions, found, implicit, notes, show_progress)):
        line, user, item, rating, time = zip(*chunk, strict=True)
        columns.add(np.array(line), user, item, rating, time)
    raw = columns.finish(None, _TYPES, [interactions, books])
    table, count, tokens = ItemTable(problems.of(books), list(_TYPES)[1:]), 0, set(raw.item_tokens)
    for number, book in objects_of(books, problems.of(books), show_progress):
        token = str(book.get("book_id", ""))
        if token in tokens:
            count += 1
            table.add(number, token, *(text_of(book, field) for field in _TYPES))
    if not count:
        raise DataError(f"{books} has none of the {len(tokens):,} books of {interactions}; is it of another genre?")
    raw.items = table.finish()
    kind = "unread books" if implicit else "books without stars"
    raw.notes.append(f"{interactions.name}: {notes.count:,} rows of {kind} are not used")
    return raw


class _Skipped:
    """Counts rows that are correct but not wanted."""

    def __init__(self) -> None:
        self.count = 0


def _rows(
    path: Path, problems: FileProblems, implicit: bool, skipped: _Skipped, show_progress: bool
) -> Iterator[tuple[int, str, str, str, str]]:
    for number, row in objects_of(path, problems, show_progress):
        cells, unusable = cells_of(row, _FIELDS)
        if unusable is not None:
            problems.add(f"interaction without a usable {unusable}", number, str(row))
        elif not (row.get("is_read", True) if implicit else cells[2]):
            skipped.count += 1
        else:
            user, item, rating, time = map(str, cells)
            yield number, user, item, rating, time
