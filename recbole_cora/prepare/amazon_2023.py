"""Read a category of the Amazon Reviews 2023: reviews and metadata, one JSON object per line, gzipped or not.

A review has `user_id`, `parent_asin`, `rating` and `timestamp` in milliseconds; metadata have `parent_asin`, `title`,
`store`, `categories` and `price`. Versions of one product share their `parent_asin`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from recbole_cora.errors import DataError
from recbole_cora.prepare.jsonl import cells_of, flat, number_text, objects_of, parse, text_of
from recbole_cora.prepare.lines import lines_of
from recbole_cora.prepare.problems import FileProblems, Problems
from recbole_cora.prepare.raw import ItemTable, RatingColumns, Raw, in_chunks
from recbole_cora.prepare.times import TimeFormat

_FIELDS = ("user_id", "parent_asin", "rating", "timestamp")
_TYPES = {"title": "token_seq", "store": "token_seq", "categories": "token_seq", "price": "float"}
_ITEM = re.compile(rb'"parent_asin"\s*:\s*"([^"]*)"')


def read(reviews: Path, metadata: Path, problems: Problems, show_progress: bool = True) -> Raw:
    """Return the reviews and the table of the reviewed items.

    Raises:
        DataError: a file is missing or damaged, or holds other data.
    """
    bad_reviews = problems.of(reviews)
    columns = RatingColumns(bad_reviews, least=1, most=5, time=TimeFormat("ms"))
    for chunk in in_chunks(_reviews(reviews, bad_reviews, show_progress)):
        line, user, item, rating, time = zip(*chunk, strict=True)
        columns.add(np.array(line), user, item, rating, time)
    raw = columns.finish(None, _TYPES, [reviews, metadata])
    raw.items = _items(metadata, set(raw.item_tokens), problems.of(metadata), show_progress)
    return raw


def _reviews(path: Path, problems: FileProblems, show_progress: bool) -> Iterator[tuple[int, str, str, str, str]]:
    for number, review in objects_of(path, problems, show_progress):
        cells, unusable = cells_of(review, _FIELDS)
        if unusable is not None:
            problems.add(f"review without a usable {unusable}", number, str(review))
            continue
        user, item, rating, time = map(str, cells)
        yield number, user, item, rating, time


def _items(path: Path, item_tokens: set[str], problems: FileProblems, show_progress: bool) -> pd.DataFrame:
    """Return the table of these items. Raises DataError if the file has none of them."""
    table, count = ItemTable(problems, list(_TYPES)[1:]), 0
    for number, line in enumerate(lines_of(path, show_progress), start=1):
        tokens = _ITEM.findall(line)  # a text search: a line of metadata is long, and most may not be needed
        if not line or (tokens and not any(token.decode("utf-8", "replace") in item_tokens for token in tokens)):
            continue
        item = parse(line)
        if not isinstance(item, dict) or not isinstance(item.get("parent_asin"), str):
            problems.add("line that is no item", number, line.decode("utf-8", "replace"))
        elif item["parent_asin"] in item_tokens:
            count += 1
            title, store = (html.unescape(text_of(item, field)) for field in ("title", "store"))
            categories = html.unescape(" ".join(flat(item.get("categories") or [])))
            table.add(number, item["parent_asin"], title, store, categories, number_text(item.get("price")))
    if not count:
        raise DataError(f"{path} has none of the {len(item_tokens):,} reviewed items; is it of another category?")
    return table.finish()
