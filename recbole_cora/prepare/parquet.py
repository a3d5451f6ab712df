"""A Parquet file as rows of text, like those of a delimited file. It is read by pyarrow, an extra."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from recbole_cora.errors import DataError
from recbole_cora.prepare.problems import FileProblems

_MAGIC = b"PAR1"


class ParquetFile:
    """A Parquet file: its columns, and its rows as text. A "line" is the number of a row, from 1.

    Raises:
        DataError: the file is missing or damaged, or pyarrow is not installed.
    """

    separator = ","

    def __init__(self, path: Path, problems: FileProblems) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise DataError(
                f"{path} is a Parquet file, which needs pyarrow; pip install 'recbole-cora[parquet]', or save it as CSV"
            ) from None
        self.path, self.problems = path, problems
        try:
            self._file = pyarrow.parquet.ParquetFile(path)
        except (OSError, pyarrow.ArrowException) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"{path} is not readable as Parquet ({reason}); write it again") from None
        self.header: list[str] = list(self._file.schema_arrow.names)

    def __str__(self) -> str:
        return "Parquet"

    def rows(self, several_lines: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows with their numbers; `several_lines` has no meaning here."""
        number = 0
        for batch in self._file.iter_batches():
            columns = [_texts(column.to_pandas()) for column in batch.columns]
            for row in zip(*columns, strict=True):
                number += 1
                yield number, list(row)


def is_parquet(path: Path) -> bool:
    """Return whether a file begins as Parquet files do. A file that cannot be read is none."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def _texts(column: pd.Series[Any]) -> list[str]:
    """Return the cells as text: whole numbers without a point, times in ISO form, lists with spaces, "" for missing."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return ["" if pd.isna(cell) else cell.isoformat() for cell in column]
    return [_text(cell) for cell in column.tolist()]


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return "" if cell != cell else str(int(cell)) if cell.is_integer() else repr(cell)
    if hasattr(cell, "tolist") and not isinstance(cell, str):  # an array
        cell = cell.tolist()
    if isinstance(cell, (list, tuple)):
        return " ".join(map(str, cell))
    return "" if cell is None or cell is pd.NaT or cell is pd.NA else str(cell)
