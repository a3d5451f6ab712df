"""Read Amazon reviews and metadata: one JSON object per line (in old metadata, one Python literal), gzipped or not.

Memory stays small even with 22 million reviews: only reviews of one year are kept, and of each only user, item, rating
and time, as numbers. Metadata is parsed only for items with a rating in that year.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.errors import DataError
from recbole_cora.prepare.jsonl import cells_of, flat, number_text, parse
from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import FileProblems, Problems
from recbole_cora.prepare.raw import ItemTable, RatingColumns, Raw, in_chunks

_TIME = re.compile(rb"""["']unixReviewTime["']\s*:\s*(?:(\d{9,10})(?=[,}\s]))?""")
_ASIN = re.compile(rb"""["']asin["']\s*:\s*["']([^"']*)["']""")
_FIELDS = ("reviewerID", "asin", "overall", "unixReviewTime")
_TYPES = {"title": "token_seq", "brand": "token_seq", "categories": "token_seq", "price": "float"}

_Review = tuple[int, str, str, str, str]


def read(reviews: Path, metadata: Path, year: int, problems: Problems, show_progress: bool = True) -> Raw:
    """Return the reviews of one year (UTC) and the items' titles.

    Raises:
        DataError: a file is missing or damaged, or holds other data.
    """
    first, last = (datetime(y, 1, 1, tzinfo=timezone.utc).timestamp() for y in (year, year + 1))
    columns = RatingColumns(problems.of(reviews), least=1, most=5)
    for chunk in in_chunks(_reviews(reviews, first, last, problems.of(reviews), show_progress)):
        line, user, item, rating, time = zip(*chunk, strict=True)
        columns.add(np.array(line), user, item, rating, time)
    raw = columns.finish(None, _TYPES, [reviews, metadata])
    raw.items = _metadata(metadata, set(raw.item_tokens), problems.of(metadata), show_progress)
    return raw


def _reviews(path: Path, first: float, last: float, problems: FileProblems, show_progress: bool) -> Iterator[_Review]:
    """Yield the reviews with a time in [first, last), and those whose time is not a plausible number."""
    for number, line in enumerate(lines_of(path, show_progress), start=1):
        # Most lines are from other years. If a text search finds one time and it is outside the year, the line is
        # skipped. That is several times faster than parsing it.
        times = _TIME.findall(line)
        if not line or (len(times) == 1 and times[0] and not first <= int(times[0]) < last):
            continue
        review = parse(line)
        if not isinstance(review, dict):
            problems.add("line that is no JSON object", number, line.decode("utf-8", "replace"))
            continue
        cells, unusable = cells_of(review, _FIELDS)
        if unusable is not None:
            problems.add(f"review without a usable {unusable}", number, line.decode("utf-8", "replace"))
            continue
        user, item, rating, time = map(str, cells)
        if not (isinstance(cells[3], (int, float)) and 1e8 <= cells[3] < 4e9 and not first <= cells[3] < last):
            yield number, user, item, rating, time


def _metadata(path: Path, item_tokens: set[str], problems: FileProblems, show_progress: bool) -> pd.DataFrame:
    """Return the table of these items. Raises DataError if the file has none of them."""
    table = ItemTable(problems, ["brand", "categories", "price"])
    count = 0
    for number, line in enumerate(lines_of(path, show_progress), start=1):
        tokens = _ASIN.findall(line)
        if not line or (tokens and not any(token.decode("utf-8", "replace") in item_tokens for token in tokens)):
            continue
        item = parse(line)
        if not isinstance(item, dict) or not isinstance(item.get("asin"), str):
            problems.add("line that is no item", number, line.decode("utf-8", "replace"))
        elif item["asin"] in item_tokens:
            count += 1
            title, brand = (html.unescape(v) if isinstance(v, str) else "" for v in map(item.get, ("title", "brand")))
            categories = " ".join(flat(item.get("categories") or item.get("category") or []))
            table.add(number, item["asin"], title, brand, html.unescape(categories), number_text(item.get("price")))
    if not count:
        raise DataError(f"{path} has none of the {len(item_tokens):,} rated items; does it belong to other reviews?")
    return table.finish()
