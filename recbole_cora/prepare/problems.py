"""Problems of raw rows, counted by kind, each with its first example. A bad row does not stop the reading."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from recbole_cora.errors import DataError

log = logging.getLogger()


@dataclass
class Problem:
    """One kind of problem in one file: its count, its first line, and whether its rows were kept or left out."""

    count: int
    first_line: int
    example: str
    kept: bool


class FileProblems:
    """The problems of one file by kind. If `strict`, the first one raises DataError."""

    def __init__(self, path: Path, strict: bool) -> None:
        self.path, self._strict = path, strict
        self.kinds: dict[str, Problem] = {}

    def add(self, kind: str, line: int, example: object = "", count: int = 1, *, kept: bool = False) -> None:
        """Count rows with a problem; `line` (from 1) and `example` describe the first of them."""
        text = str(example)[:80].encode("utf-8", "backslashreplace").decode()
        if self._strict:
            raise DataError(f"{self.path} line {line}: {kind} ({text!r}); fix the file, or leave out --strict")
        if kind in self.kinds:
            self.kinds[kind].count += count
        else:
            self.kinds[kind] = Problem(count, line, text, kept)

    @property
    def left_out(self) -> int:
        """The number of rows that could not be used."""
        return sum(problem.count for problem in self.kinds.values() if not problem.kept)

    def __str__(self) -> str:
        kinds = [f"{p.count:,} x {kind}, first at line {p.first_line}" for kind, p in self.kinds.items()]
        return "; ".join(kinds) or "no rows at all"


class Problems:
    """The problems of all files that are read."""

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._files: dict[Path, FileProblems] = {}

    def of(self, path: Path) -> FileProblems:
        """Return the problems of one file."""
        return self._files.setdefault(path, FileProblems(path, self._strict))

    def report(self) -> None:
        """Log one warning per file and kind."""
        for path, file in self._files.items():
            for kind, p in file.kinds.items():
                outcome = "kept" if p.kept else "left out"
                log.warning(f"{path}: {p.count:,} x {kind} ({outcome}), first at line {p.first_line}: {p.example!r}")

    def as_json(self) -> dict[str, dict[str, dict[str, object]]]:
        """Return the problems by file and kind, for `<name>.prepared.json`; equal file names get a number."""
        content: dict[str, dict[str, dict[str, object]]] = {}
        for path, file in self._files.items():
            name = path.name if path.name not in content else f"{path.name} ({len(content) + 1})"
            if file.kinds:
                content[name] = {kind: dict(vars(p)) for kind, p in file.kinds.items()}
        return content
