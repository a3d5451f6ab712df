"""What is wrong with raw rows: counted by kind, each with its first example, never an exception in mid-file."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from recbole_cora.errors import DataError

log = logging.getLogger()


@dataclass
class Problem:
    """One kind in one file: how often, and where first."""

    count: int
    line: int
    example: str


@dataclass
class Problems:
    """Counts by file and kind.

    Args:
        strict: raise DataError at the first.
    """

    strict: bool = False
    found: dict[str, dict[str, Problem]] = field(default_factory=dict)

    def add(self, file: Path, kind: str, line: int, example: object = "", count: int = 1) -> None:
        """Note `count` rows of a kind; `line` and `example` are of the first of them (lines count from 1)."""
        text = str(example)[:80]
        if self.strict:
            raise DataError(f"{file} line {line}: {kind} ({text!r}); mend the file, or leave out --strict")
        kinds = self.found.setdefault(file.name, {})
        if kind in kinds:
            kinds[kind].count += count
        else:
            kinds[kind] = Problem(count, line, text)

    def dropped(self, file: Path) -> int:
        """Rows of a file that could not be used."""
        return sum(p.count for kind, p in self.found.get(file.name, {}).items() if not kind.endswith("(kept)"))

    def report(self) -> None:
        """One warning line per file and kind."""
        for file, kinds in self.found.items():
            for kind, p in kinds.items():
                log.warning(f"{file}: {p.count:,} x {kind}, first at line {p.line}: {p.example!r}")

    def as_json(self) -> dict[str, dict[str, dict[str, object]]]:
        """For `<name>.prepared.json`."""
        return {
            file: {kind: {"count": p.count, "first_line": p.line, "example": p.example} for kind, p in kinds.items()}
            for file, kinds in self.found.items()
        }
