"""Amazon reviews and metadata: one JSON object a line (or, in old metadata, one Python literal), gzipped or not.

22 million reviews pass in bounded memory: of each line only user, item, rating and time are kept, as numbers, and only
of the wanted year; metadata is parsed only of items that are rated in it.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recbole_cora.errors import DataError
from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import Problems
from recbole_cora.prepare.raw import RatingColumns, Raw, in_chunks, one_line

_TIME = re.compile(rb"""["']unixReviewTime["']\s*:\s*(-?\d+)""")
_ASIN = re.compile(rb"""["']asin["']\s*:\s*["']([^"']*)["']""")
_FIELDS = ("reviewerID", "asin", "overall", "unixReviewTime")


def read(reviews: Path, metadata: Path, year: int, problems: Problems, show_progress: bool = True) -> Raw:
    """Reviews of one year (UTC) and the items' titles.

    Raises:
        DataError: a file is missing, damaged, or another file.
    """
    first, last = (datetime(y, 1, 1, tzinfo=timezone.utc).timestamp() for y in (year, year + 1))
    columns = RatingColumns(reviews, problems)
    for chunk in in_chunks(_reviews(reviews, first, last, problems, show_progress)):
        lines, user, item, rating, time = zip(*chunk, strict=True)
        columns.add(np.array(lines), user, item, rating, time)
    raw = columns.finish(pd.DataFrame(columns=["title"]), {}, [reviews, metadata])
    raw.items = _metadata(metadata, set(raw.item_tokens), problems, show_progress)
    raw.item_types = {"title": "token_seq", "brand": "token_seq", "categories": "token_seq", "price": "float"}
    return raw


def _reviews(
    path: Path, first: float, last: float, problems: Problems, show_progress: bool
) -> Iterator[tuple[int, str, str, Any, Any]]:
    for number, line in enumerate(lines_of(path, show_progress), start=1):
        if not line:
            continue
        stated = _TIME.search(line)  # most lines are of other years: a search is several times cheaper than a parse
        if stated and not first <= int(stated[1]) < last:
            continue
        review = _parsed(line)
        if not isinstance(review, dict):
            problems.add(path, "line that is no JSON object", number, line[:80].decode("utf-8", "replace"))
            continue
        cells = [review.get(field) for field in _FIELDS]
        if None in cells:
            lacking = _FIELDS[cells.index(None)]
            problems.add(path, f"review without {lacking}", number, line[:80].decode("utf-8", "replace"))
        elif isinstance(cells[3], (int, float)) and 0 <= cells[3] < 4.2e9 and not first <= cells[3] < last:
            continue
        else:
            yield number, str(cells[0]), str(cells[1]), cells[2], cells[3]


def _metadata(path: Path, wanted: set[str], problems: Problems, show_progress: bool) -> pd.DataFrame:
    found: dict[str, tuple[str, str, str, str]] = {}
    for number, line in enumerate(lines_of(path, show_progress), start=1):
        asin = _ASIN.search(line)
        if asin and asin[1].decode("utf-8", "replace") not in wanted:
            continue
        item = _parsed(line)
        if not line:
            continue
        if not isinstance(item, dict) or "asin" not in item:
            problems.add(path, "line that is no item", number, line[:80].decode("utf-8", "replace"))
            continue
        token, title = str(item["asin"]), html.unescape(str(item.get("title") or ""))
        if "\t" in title or "\n" in title:
            problems.add(path, "title with tabs or newlines, made plain (kept)", number, title)
        if token in found:
            problems.add(path, "item named twice, the first is taken (kept)", number, token)
        elif token in wanted:
            price = item.get("price")
            found[token] = (
                one_line(title),
                one_line(html.unescape(str(item.get("brand") or ""))),
                one_line(html.unescape(" ".join(_flat(item.get("categories") or item.get("category") or [])))),
                f"{price:g}" if isinstance(price, (int, float)) else "",
            )
    if not found:
        raise DataError(f"{path} names none of the {len(wanted):,} rated items; is it the metadata of other reviews?")
    return pd.DataFrame.from_dict(found, orient="index", columns=["title", "brand", "categories", "price"])


def _flat(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _flat(part)
    else:
        yield str(value)


def _parsed(line: bytes) -> Any:
    """A line's object; None where it is neither JSON nor a Python literal (which is parsed, never run)."""
    try:
        return json.loads(line)
    except ValueError:
        try:
            return ast.literal_eval(line.decode("utf-8"))
        except (ValueError, SyntaxError, MemoryError, RecursionError, UnicodeDecodeError):
            return None
