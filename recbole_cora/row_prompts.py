"""From rows to prompts in an LLM's tokens: each row's text is built from `Ratings` and tokenised once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recbole_cora.errors import DataError
from recbole_cora.prompts import PromptEncoder
from recbole_cora.ratings import Ratings


def titles_of(ratings: Ratings) -> list[str]:
    """One title per item token. Raises DataError where the dataset has none."""
    if ratings.titles is None:
        raise DataError(
            f"{ratings.name} has no titles: a prompt needs {ratings.name}.item with a column item_id:token and a "
            "column title:token_seq"
        )
    return ratings.titles


class RowPrompts:
    """`prompts[row]` is the row's prompt as token ids [L]; tokenised on first use, then kept."""

    def __init__(self, ratings: Ratings, encoder: PromptEncoder, history_items: int) -> None:
        self._ratings, self._titles, self._encoder, self._last = ratings, titles_of(ratings), encoder, history_items
        self._tokens: dict[int, NDArray[np.int32]] = {}

    @property
    def shortened(self) -> int:
        """How many prompts lost history items to fit the context window."""
        return self._encoder.shortened

    def __getitem__(self, row: int) -> Any:
        tokens = self._tokens.get(row)
        if tokens is None:
            tokens = np.asarray(self._encoder.encode(*self.titles(row)), dtype=np.int32)
            self._tokens[row] = tokens
        return tokens

    def text(self, row: int) -> str:
        """The row's prompt as plain text."""
        return self._encoder.text(*self.titles(row))

    def titles(self, row: int) -> tuple[list[str], str]:
        """Titles of the row's last liked items, oldest first, and of its target item."""
        history = self._ratings.history(row, self._last)
        return [self._titles[item] for item in history], self._titles[self._ratings.item[row]]
