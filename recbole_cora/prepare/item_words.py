"""Decide which columns of an item file are words, which are numbers, and which are neither."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from recbole_cora.errors import SettingError, nearest
from recbole_cora.prepare.columns import plain
from recbole_cora.prepare.times import numbers

#: A name of an id or a link: `imdbId`, `image_url`, `ISBN13`, `id`.
_NO_WORD = re.compile(
    r"(?:(?:^|[\W_])(?i:ids?|ur[il]s?|links?|images?|img|isbn\d*|asin)|(?<=[a-z])(?:Ids?|IDs?|Ur[il]s?|UR[IL]s?|Links?))$"
)
_LINK = re.compile(r"https?://")


@dataclass(frozen=True)
class ItemColumns:
    """The columns of an item table other than the item's id and title, by their use.

    Attributes:
        words: text about the item, read by models that use words.
        numbers: numbers such as a price; they are written as `float` and are no words.
        left_out: ids, links, empty columns, and text that was not chosen; they are not written.
    """

    words: list[str]
    numbers: list[str]
    left_out: list[str]

    def __str__(self) -> str:
        parts = [
            f"{use}: {', '.join(columns)}"
            for use, columns in (("words", self.words), ("numbers", self.numbers), ("left out", self.left_out))
            if columns
        ]
        return "; ".join(parts) or "words: none but the title"

    def types(self) -> dict[str, str]:
        """Return RecBole's type of each column that is written, the title first."""
        return dict.fromkeys(["title", *self.words], "token_seq") | dict.fromkeys(self.numbers, "float")


def check_words(words: Sequence[str] | None, header: Sequence[str]) -> list[str]:
    """Return what is wrong with the columns that `--item-words=` names."""
    unknown = [word for word in words or () if word not in header]
    return [
        f"--item-words: the items have no column '{word}'{nearest(word, header)} (they have {', '.join(header)})"
        for word in unknown
    ]


def sort_columns(frame: pd.DataFrame, names: Sequence[str], words: Sequence[str] | None) -> ItemColumns:
    """Return the use of the columns of an item table whose first column is the title.

    Args:
        names: what the file calls the columns after the title.
        words: the columns to be words, whatever they hold; None takes those that hold text, and years.
    """
    uses = ItemColumns([], [], [])
    for column, name in zip(frame.columns[1:], names, strict=True):
        cells = [cell for cell in frame[column].tolist() if cell]
        if (words is not None and name in words) or (words is None and _is_words(name, cells)):
            uses.words.append(column)
        elif cells and not _NO_WORD.search(name) and np.isfinite(numbers(cells)).all():
            uses.numbers.append(column)
        else:
            uses.left_out.append(column)
    return uses


def _is_words(name: str, cells: list[str]) -> bool:
    if not cells or _NO_WORD.search(name) or sum(_LINK.match(cell) is not None for cell in cells) > len(cells) / 2:
        return False
    return not np.isfinite(numbers(cells)).all() or "year" in plain(name) or plain(name) == "jahr"


def split_words(text: str) -> tuple[str, ...]:
    """Return the column names of `--item-words=`; `none` names none.

    Raises:
        SettingError: a name is empty.
    """
    if text == "none":
        return ()
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise SettingError(f"{text!r} is no list of columns; expected some such as genres,author, or none")
    return names
