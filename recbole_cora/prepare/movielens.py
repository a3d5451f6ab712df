"""MovieLens-1M's own archive: `ratings.dat` and `movies.dat`, cells separated by `::`, latin-1."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import RatingColumns, Raw, in_chunks, one_line

FILES = ("ratings.dat", "movies.dat")
_TYPES = {"title": "token_seq", "release_year": "token", "genres": "token_seq"}
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def read(raw: Path, problems: Problems, show_progress: bool = True) -> Raw:
    """The archive's ratings and movies.

    Args:
        raw: the archive, or a folder with its files.

    Raises:
        DataError: a file is missing, damaged, or another file.
    """
    columns = RatingColumns(raw / "ratings.dat", problems)
    for chunk in in_chunks(_rows(raw, problems, show_progress)):
        line, user, item, rating, time = zip(*chunk, strict=True)
        columns.add(np.array(line), user, item, rating, time)
    return columns.finish(_movies(raw, problems), _TYPES, [raw / n for n in FILES] if raw.is_dir() else [raw])


def _rows(raw: Path, problems: Problems, show_progress: bool) -> Iterator[tuple[int, str, str, str, str]]:
    for number, line in enumerate(_lines(raw, "ratings.dat", show_progress), start=1):
        cells = line.split("::")
        if len(cells) == 4:
            yield (number, *cells)  # type: ignore[misc]
        elif line:
            problems.add(raw / "ratings.dat", f"{len(cells)} cells instead of 4", number, line)


def _lines(raw: Path, name: str, show_progress: bool) -> Iterator[str]:
    where = (raw / name, show_progress) if raw.is_dir() or not raw.exists() else (raw, show_progress, name)
    return (line.decode("latin-1") for line in lines_of(*where))


def _movies(raw: Path, problems: Problems) -> pd.DataFrame:
    movies: dict[str, tuple[str, str, str]] = {}
    for number, line in enumerate(_lines(raw, "movies.dat", show_progress=False), start=1):
        cells = line.split("::")
        if len(cells) < 3:
            if line:
                problems.add(raw / "movies.dat", f"{len(cells)} cells instead of 3", number, line)
            continue
        token, title, genres = cells[0], "::".join(cells[1:-1]), cells[-1]  # a title may hold "::"
        if one_line(title) != title:
            problems.add(raw / "movies.dat", "title with tabs or odd spaces, made plain (kept)", number, title)
        if token in movies:
            problems.add(raw / "movies.dat", "item named twice, the first is taken (kept)", number, token)
            continue
        year = _YEAR.search(title)
        movies[token] = one_line(title), year[1] if year else "", one_line(genres.replace("|", " "))
    return pd.DataFrame.from_dict(movies, orient="index", columns=["title", "release_year", "genres"])
