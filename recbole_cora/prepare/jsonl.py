"""Objects in the lines of a file: JSON or, in old Amazon metadata, Python literals (parsed, never executed)."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import FileProblems


def objects_of(path: Path, problems: FileProblems, show_progress: bool) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the objects of a file with their line numbers; other lines are counted as problems."""
    for number, line in enumerate(lines_of(path, show_progress), start=1):
        content = parse(line) if line else None
        if isinstance(content, dict):
            yield number, content
        elif line:
            problems.add("line that is no JSON object", number, line.decode("utf-8", "replace"))


def parse(line: bytes) -> object:
    """Return the object of a line; None if it is neither JSON nor a Python literal."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        try:
            return ast.literal_eval(line.decode("utf-8"))
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            return None


def cells_of(content: dict[str, Any], fields: tuple[str, ...]) -> tuple[list[Any], str | None]:
    """Return the cells of these fields, and the first field that holds neither text nor a number, or None."""
    cells = [content.get(field) for field in fields]
    unusable = (
        field
        for field, cell in zip(fields, cells, strict=True)
        if isinstance(cell, bool) or not isinstance(cell, (str, int, float))
    )
    return cells, next(unusable, None)


def text_of(content: dict[str, Any], field: str) -> str:
    """Return a field's text; "" if it holds none."""
    value = content.get(field)
    return value if isinstance(value, str) else ""


def number_text(value: object) -> str:
    """Return a number as text, or "" for anything else."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return ""
    return f"{number:g}" if math.isfinite(number) else ""


def flat(value: object) -> Iterator[str]:
    """Yield the entries of nested lists as text."""
    if isinstance(value, list):
        for part in value:
            yield from flat(part)
    else:
        yield str(value)
