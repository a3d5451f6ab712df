"""Read MovieLens archives.

ml-1m: `ratings.dat` and `movies.dat`, in latin-1, with cells separated by `::`. ml-20m and ml-32m: `ratings.csv` and
`movies.csv`, in UTF-8, with titles in quotes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.errors import DataError
from recbole_cora.prepare.delimited import DelimitedFile
from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import FileProblems, Problems
from recbole_cora.prepare.raw import ItemTable, RatingColumns, Raw, in_chunks

FILES = ("ratings.dat", "movies.dat")
CSV_FILES = ("ratings.csv", "movies.csv")
_RATING_HEADER, _MOVIE_HEADER = ["userId", "movieId", "rating", "timestamp"], ["movieId", "title", "genres"]
_NO_GENRES = "(no genres listed)"
_TYPES = {"title": "token_seq", "release_year": "token", "genres": "token_seq"}
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def read(raw: Path, problems: Problems, show_progress: bool = True) -> Raw:
    """Return the archive's ratings and movies.

    Args:
        raw: the archive, or a folder with its files.

    Raises:
        DataError: a file is missing or damaged, or is not MovieLens-1M's.
    """
    columns = RatingColumns(problems.of(raw / "ratings.dat"), least=1, most=5)
    for chunk in in_chunks(_cells(raw, "ratings.dat", 4, problems.of(raw / "ratings.dat"), show_progress)):
        line, user, item, rating, time = zip(*((number, *cells) for number, cells in chunk), strict=True)
        columns.add(np.array(line), user, item, rating, time)
    movies = _movies(raw, problems.of(raw / "movies.dat"))
    return columns.finish(movies, _TYPES, [raw / name for name in FILES] if raw.is_dir() else [raw])


def _movies(raw: Path, problems: FileProblems) -> pd.DataFrame:
    table = ItemTable(problems, ["release_year", "genres"])
    for number, cells in _cells(raw, "movies.dat", 3, problems, show_progress=False):
        title = "::".join(cells[1:-1])  # a title may hold the separator
        year = _YEAR.search(title)
        table.add(number, cells[0], title, year[1] if year else "", cells[-1].replace("|", " "))
    return table.finish()


def _cells(
    raw: Path, name: str, width: int, problems: FileProblems, show_progress: bool
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file with their line numbers; only movies may have more cells than `width`."""
    is_archive = raw.exists() and not raw.is_dir()
    lines = lines_of(raw, show_progress, name) if is_archive else lines_of(raw / name, show_progress)
    for number, line in enumerate(lines, start=1):
        cells = line.decode("latin-1").split("::")
        if len(cells) == width or (len(cells) > width and name == "movies.dat"):
            yield number, cells
        elif line:
            problems.add(f"{len(cells)} cells instead of {width}", number, line.decode("latin-1"))


def read_csv(raw: Path, problems: Problems, show_progress: bool = True) -> Raw:
    """Return the ratings and movies of ml-20m, ml-32m or another archive of this form.

    Args:
        raw: the archive, or a folder with its files.

    Raises:
        DataError: a file is missing or damaged, or is not MovieLens's.
    """
    ratings, movies = (raw / name for name in CSV_FILES)
    columns = RatingColumns(problems.of(ratings), least=0.5, most=5)
    for chunk in in_chunks(_csv_rows(raw, "ratings.csv", _RATING_HEADER, problems.of(ratings), show_progress)):
        line, user, item, rating, time = zip(*((number, *cells) for number, cells in chunk), strict=True)
        columns.add(np.array(line), user, item, rating, time)
    table = ItemTable(problems.of(movies), ["release_year", "genres"])
    for number, (movie, title, genres) in _csv_rows(raw, "movies.csv", _MOVIE_HEADER, problems.of(movies), False):
        year = _YEAR.search(title)
        words = "" if genres == _NO_GENRES else genres.replace("|", " ")
        table.add(number, movie, title, year[1] if year else "", words)
    return columns.finish(table.finish(), _TYPES, [ratings, movies] if raw.is_dir() else [raw])


def _csv_rows(
    raw: Path, name: str, header: list[str], problems: FileProblems, show_progress: bool
) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a file with their line numbers. Raises DataError if its header is another."""
    is_archive = raw.exists() and not raw.is_dir()
    path, member = (raw, name) if is_archive else (raw / name, None)
    file = DelimitedFile(path, problems, ",", "utf-8", show_progress, member)
    if file.header != header:
        raise DataError(f"{name} of {raw} has the columns {', '.join(file.header)}; expected {', '.join(header)}")
    yield from file.rows(several_lines=True)
