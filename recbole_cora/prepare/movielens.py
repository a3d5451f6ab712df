"""MovieLens-1M's own archive: `ratings.dat` and `movies.dat`, cells separated by `::`, latin-1."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
from tqdm import tqdm

from recbole_cora.errors import DataError
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import Raw, RatingColumns, in_chunks, one_line

FILES = ("ratings.dat", "movies.dat")
_YEAR = re.compile(r"\((\d{4})\)\s*$")


def read(raw: Path, problems: Problems, show_progress: bool = True) -> Raw:
    """The archive's ratings and movies.

    Args:
        raw: the archive, or a folder with its files.

    Raises:
        DataError: a file is missing, damaged, or another file.
    """
    columns = RatingColumns(raw / "ratings.dat", problems)
    with _open(raw, "ratings.dat") as (file, size):
        bar = tqdm(total=size, desc="ratings.dat", unit="B", unit_scale=True, disable=not show_progress)
        lines = enumerate(_lines(file, bar), start=1)
        for chunk in in_chunks(lines):
            cells = [line.split("::") for _, line in chunk]
            good = []
            for place, row in enumerate(cells):
                if len(row) == 4:
                    good.append(place)
                elif row != [""]:
                    number, line = chunk[place]
                    problems.add(raw / "ratings.dat", f"{len(row)} cells instead of 4", number, line)
            user, item, rating, time = zip(*(cells[place] for place in good), strict=True) if good else ((),) * 4
            columns.add(np.array([chunk[place][0] for place in good], dtype=np.int64), user, item, rating, time)
        bar.close()
    return columns.finish(_movies(raw, problems), {"title": "token_seq", "release_year": "token", "genres": "token_seq"},
                          [raw / name for name in FILES] if raw.is_dir() else [raw])  # fmt: skip


def _movies(raw: Path, problems: Problems) -> pd.DataFrame:
    movies: dict[str, tuple[str, str, str]] = {}
    with _open(raw, "movies.dat") as (file, _):
        for number, line in enumerate(_lines(file), start=1):
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


class _open:
    """A member of the archive or folder, and its size in bytes."""

    def __init__(self, raw: Path, name: str) -> None:
        self._raw, self._name = raw, name
        self._open: list[BinaryIO | zipfile.ZipFile] = []

    def __enter__(self) -> tuple[BinaryIO, int]:
        raw, name = self._raw, self._name
        try:
            if not raw.is_dir():
                archive = zipfile.ZipFile(raw)
                self._open.append(archive)
                member = next((m for m in archive.infolist() if Path(m.filename).name == name), None)
                if member is None:
                    raise DataError(f"{raw} holds no {name}; expected MovieLens-1M's archive ml-1m.zip")
                stream = archive.open(member)
                self._open.append(stream)  # type: ignore[arg-type]
                return stream, member.file_size  # type: ignore[return-value]
            file = (raw / name).open("rb")
            self._open.append(file)
            return file, (raw / name).stat().st_size
        except OSError as error:
            raise DataError(f"cannot read {raw / name} ({error.strerror}); expected {' and '.join(FILES)}") from None
        except zipfile.BadZipFile:
            raise DataError(f"{raw} is no zip archive or is damaged; download it again") from None

    def __exit__(self, *_: object) -> None:
        for file in reversed(self._open):
            file.close()


def _lines(file: BinaryIO, bar: tqdm | None = None) -> Iterator[str]:
    for line in io.BufferedReader(file, 1 << 20):  # type: ignore[arg-type]
        if bar is not None:
            bar.update(len(line))
        yield line.decode("latin-1").rstrip("\r\n")
