"""What is wrong with raw rows: counted by kind, each with its first example, never an exception in mid-file."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from recbole_cora.errors import DataError

log = logging.getLogger()


@dataclass
class Problem:
    """One kind in one file: how often, where first, and whether such rows were kept (mended) or left out."""

    count: int
    first_line: int
    example: str
    kept: bool


class FileProblems:
    """Counts by kind, of one file. `strict`: raise DataError at the first."""

    def __init__(self, path: Path, strict: bool) -> None:
        self.path, self._strict = path, strict
        self.kinds: dict[str, Problem] = {}

    def add(self, kind: str, line: int, example: object = "", count: int = 1, *, kept: bool = False) -> None:
        """Note `count` rows of a kind; `line` (from 1) and `example` are of the first of them."""
        text = str(example)[:80].encode("utf-8", "backslashreplace").decode()
        if self._strict:
            raise DataError(f"{self.path} line {line}: {kind} ({text!r}); mend the file, or leave out --strict")
        if kind in self.kinds:
            self.kinds[kind].count += count
        else:
            self.kinds[kind] = Problem(count, line, text, kept)

    @property
    def left_out(self) -> int:
        """Rows that could not be used."""
        return sum(problem.count for problem in self.kinds.values() if not problem.kept)

    def __str__(self) -> str:
        told = [f"{p.count:,} x {kind}, first at line {p.first_line}" for kind, p in self.kinds.items()]
        return "; ".join(told) or "no rows at all"


class Problems:
    """Of every file that is read."""

    def __init__(self, strict: bool = False) -> None:
        self._strict = strict
        self._files: dict[Path, FileProblems] = {}

    def of(self, path: Path) -> FileProblems:
        """The counts of one file."""
        return self._files.setdefault(path, FileProblems(path, self._strict))

    def report(self) -> None:
        """One warning line per file and kind."""
        for path, file in self._files.items():
            for kind, p in file.kinds.items():
                done = "kept" if p.kept else "left out"
                log.warning(f"{path}: {p.count:,} x {kind} ({done}), first at line {p.first_line}: {p.example!r}")

    def as_json(self) -> dict[str, dict[str, dict[str, object]]]:
        """For `<name>.prepared.json`, by file name (by number too where two files share one)."""
        told: dict[str, dict[str, dict[str, object]]] = {}
        for path, file in self._files.items():
            name = path.name if path.name not in told else f"{path.name} ({len(told) + 1})"
            if file.kinds:
                told[name] = {kind: dict(vars(p)) for kind, p in file.kinds.items()}
        return told
