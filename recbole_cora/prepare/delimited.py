"""A delimited text file: its encoding, separator, quotes and header, and its rows."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from recbole_cora.errors import DataError, SettingError
from recbole_cora.prepare.encodings import UTF_8, UTF_16, WINDOWS, find_encoding
from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import FileProblems

if TYPE_CHECKING:
    from _csv import Reader

_NAMES = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "bars"}
_ENCODINGS = {UTF_8: "UTF-8", UTF_16: "UTF-16", WINDOWS: "Windows-1252 (latin-1)"}
#: The first line by which Excel names the separator.
_EXCEL = re.compile(r'"?sep=(.)"?\s*')
#: Starts of files that are no text, with what to do about them.
_NO_TEXT = {
    b"PK\x03\x04": "a zip archive or an Excel workbook; unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save the sheet as CSV",
    b"SQLite f": "an SQLite database; export the table as CSV",
}
_QUOTES = ('"', "'")


class _Dialect(csv.excel):
    """Excel's format; a class attribute of a subclass changes it."""


class _Tabs(_Dialect):
    """The format of tab-separated files: quotes are ordinary characters, as in RecBole's own files."""

    quoting = csv.QUOTE_NONE


class _SingleQuotes(_Dialect):
    quotechar = "'"


class DelimitedFile:
    """A delimited file: its header, and its rows with line numbers. Problems of rows go to `problems`.

    A byte that does not belong to the encoding becomes a lone surrogate. `RatingColumns` and `ItemTable` count ids and
    titles with one as problems.

    Args:
        separator: the character between cells. None: a tab for a `.tsv`, `.inter` or `.item` file or a header with a
            tab, else the most frequent of comma, semicolon and bar.
        encoding: None finds it.
        member: the name of a file in the zip archive `path`.

    Raises:
        DataError: the file is missing, empty, damaged or no text.
        SettingError: the separator is impossible.
    """

    def __init__(
        self,
        path: Path,
        problems: FileProblems,
        separator: str | None = None,
        encoding: str | None = None,
        show_progress: bool = False,
        member: str | None = None,
    ) -> None:
        self.path, self.problems = path, problems
        if member is None:
            _refuse_no_text(path)
        self._encoding = encoding or find_encoding(path, member)
        recoded = self._encoding if self._encoding == UTF_16 else None
        decoded = UTF_8 if recoded else self._encoding
        lines = lines_of(path, show_progress, member, recoded)
        self._texts = (line.decode(decoded, "surrogateescape") + "\n" for line in lines)
        first, self._header_line = next(self._texts, "").removeprefix("\ufeff"), 1
        if named := _EXCEL.fullmatch(first):
            separator = separator or named[1]
            first, self._header_line = next(self._texts, ""), 2
        separator = "\t" if separator == "\\t" else separator or _find_separator(path, first)
        if len(separator) != 1 or separator in '"\r\n' or not separator.isascii() or separator.isalnum():
            raise SettingError(f"the separator is {separator!r}; expected one character such as , or ; or \\t")
        self.separator, self._dialect = separator, _dialect(first, separator)
        try:
            self.header = next(self._parse([first]), [])
        except csv.Error as error:
            raise DataError(f"{path} is not readable as CSV ({error}); expected a header line and rows") from None
        if not self.header:
            raise DataError(f"{path} is empty; expected a header line and rows")

    def __str__(self) -> str:
        quotes = ", single quotes" if self._dialect is _SingleQuotes else ""
        encoding = _ENCODINGS.get(self._encoding, self._encoding)
        return f"{_NAMES.get(self.separator, repr(self.separator))}{quotes}, {encoding}"

    def rows(self, several_lines: bool = False) -> Iterator[tuple[int, list[str]]]:
        """Yield the rows that have as many cells as the header, each with the number of its first line.

        Args:
            several_lines: a quoted cell may span several lines. If False, each line is read on its own, so that a
                missing closing quote costs one row and not the rest of the file.
        """
        width = len(self.header)
        for line, row in self._across_lines() if several_lines else self._line_by_line():
            if row and len(row) != width:
                self.problems.add(f"{len(row)} cells instead of {width}", line, self.separator.join(row))
            elif row:
                yield line, row

    def _parse(self, texts: Iterable[str]) -> Reader:
        return csv.reader(texts, self._dialect, delimiter=self.separator, strict=True)

    def _line_by_line(self) -> Iterator[tuple[int, list[str]]]:
        for line, text in enumerate(self._texts, start=self._header_line + 1):
            try:
                yield line, next(self._parse([text]), [])
            except csv.Error as error:
                self.problems.add(f"not readable as CSV ({error})", line, text.strip())

    def _across_lines(self) -> Iterator[tuple[int, list[str]]]:
        reader, first = self._parse(self._texts), self._header_line + 1
        while True:
            line = reader.line_num + first
            try:
                row = next(reader, None)
            except csv.Error as error:
                self.problems.add(f"not readable as CSV ({error})", line, "", reader.line_num + first - line)
                continue
            if row is None:
                return
            yield line, row


def sample_of(file: Iterator[tuple[int, list[str]]], rows: int = 10_000) -> list[list[str]]:
    """Return the first rows, without their line numbers."""
    return [row for _, row in islice(file, rows)]


def _refuse_no_text(path: Path) -> None:
    """Raise DataError if a file begins as one that is no text."""
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); check the path") from None
    for beginning, remedy in _NO_TEXT.items():
        if start.startswith(beginning):
            raise DataError(f"{path} is {remedy}")


def _find_separator(path: Path, header: str) -> str:
    if path.suffix in (".tsv", ".inter", ".item") or "\t" in header:
        return "\t"
    return max(",;|", key=header.count)  # the first of several


def _dialect(header: str, separator: str) -> type[_Dialect]:
    """Return the format that the quotes of the header show."""
    cells = header.strip().split(separator)
    quoted = [mark for mark in _QUOTES if all(len(c) > 1 and c[0] == mark == c[-1] for c in cells)]
    if "'" in quoted:
        return _SingleQuotes
    return _Tabs if separator == "\t" and not quoted else _Dialect
