"""The prompt of every rated row, in an LLM's tokens. Prompts are tokenised once and then read from the cache."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from recbole_cora.cache import cached
from recbole_cora.data.ratings import Ratings
from recbole_cora.errors import DataError
from recbole_cora.files import content_key, write_json
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.template import PromptWords

_ROWS_AT_ONCE = 2000
#: Part of the cache key. Raise it when the files' layout changes, or which history items a prompt shows.
#: (Changes of words and tokens have their own version in encoder.py.)
_VERSION = 1


def titles_of(ratings: Ratings) -> list[str]:
    """Return one title per item token. Raises DataError if the dataset has no titles."""
    if ratings.titles is None:
        raise DataError(
            f"{ratings.name} has no titles: a prompt needs {ratings.name}.item with a column item_id:token and a "
            "column title:token_seq"
        )
    return ratings.titles


class Features(NamedTuple):
    """Texts about a row's user and item that its prompt shows in addition to the titles.

    user, item: one text per row [R], or one for all rows, such as slots for vectors. "" adds nothing.
    """

    user: str | Sequence[str] = ""
    item: str | Sequence[str] = ""

    def of(self, row: int) -> tuple[str, str]:
        """Return the user's and the item's text for one row."""
        user, item = (side if isinstance(side, str) else side[row] for side in self)
        return user, item


class RowPrompts:
    """The prompts of all rows: `prompts[row]` is a row's prompt as token ids [L], in a memory-mapped file.

    Args:
        ratings: the rows.
        encoder: turns words into tokens.
        history_items: number of latest liked items in a prompt.
        cache_dir: holds one folder per tokenizer, template and dataset.
        questions: also store where each row's question begins.
        features: texts about users and items in addition to their titles.
        show_titles: whether prompts show the titles of the history and of the target.

    Attributes:
        key: changes when the tokens of any prompt may have changed.
        shortened: number of prompts that lost history items to fit into the context window.
        shortened_titles: number of prompts whose target's title lost its end to fit.
    """

    def __init__(
        self,
        ratings: Ratings,
        encoder: PromptEncoder,
        history_items: int,
        cache_dir: Path,
        *,
        questions: bool = False,
        features: Features = Features(),  # noqa: B008  (immutable)
        show_titles: bool = True,
        show_progress: bool = False,
    ) -> None:
        self._ratings, self._titles, self._encoder = ratings, titles_of(ratings), encoder
        self._history_items, self._features, self._show_titles = history_items, features, show_titles
        self.key = self._key(questions)
        folder = cache_dir / f"{ratings.name}-{self.key}"
        self._tokens: _TokenisedPrompts = cached(
            folder,
            lambda temporary: self._tokenise(temporary, questions, show_progress),
            lambda entry: _load(entry, len(ratings), questions),
        )
        self.shortened, self.shortened_titles = self._tokens.shortened, self._tokens.shortened_titles

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self._tokens.ids[self._tokens.ends[row] : self._tokens.ends[row + 1]]

    def questions(self, rows: Sequence[int]) -> list[int] | None:
        """Return where the question begins in the prompts of these rows; None if made without `questions`."""
        starts = self._tokens.question_starts
        return None if starts is None else starts[list(rows)].tolist()

    def of(self, rows: Sequence[int]) -> list[Any]:
        """Return the prompts of these rows, [L] each."""
        return [self[row] for row in rows]

    def slots(self, rows: Sequence[int]) -> list[list[int]]:
        """Return the positions of the slots in the prompts of these rows: the user's, then the item's."""
        return [self._encoder.slots(self[row]) for row in rows]

    def text(self, row: int) -> str:
        """Return a row's prompt as plain text."""
        return self._encoder.prompt(self._words(row)).text

    def _words(self, row: int) -> PromptWords:
        user_text, item_text = self._features.of(row)
        if not self._show_titles:
            return PromptWords(None, None, user_text, item_text)
        history = [self._titles[item] for item in self._ratings.history(row, self._history_items)]
        return PromptWords(history, self._titles[self._ratings.item[row]], user_text, item_text)

    def _key(self, questions: bool) -> str:
        r = self._ratings
        columns = [np.ascontiguousarray(c).tobytes() for c in (r.item, r.liked, r.history_start, r.history_end)]
        features = [texts if isinstance(texts, str) else list(texts) for texts in self._features]
        return content_key(
            _VERSION, self._encoder.key(), self._history_items, questions, self._titles, features, self._show_titles,
            *columns,
        )  # fmt: skip

    def _tokenise(self, folder: Path, questions: bool, show_progress: bool) -> None:
        total = len(self._ratings)
        ids: list[NDArray[np.int32]] = []
        lengths: list[int] = []
        question_starts: list[int | None] = []
        with tqdm(total=total, desc="tokenise prompts", unit="row", disable=not show_progress, leave=False) as bar:
            for start in range(0, total, _ROWS_AT_ONCE):
                rows = range(start, min(start + _ROWS_AT_ONCE, total))
                prompts = self._encoder.encode_all([self._words(row) for row in rows], questions=questions)
                ids += [np.asarray(tokens.ids, dtype=np.int32) for tokens in prompts]
                lengths += [len(tokens.ids) for tokens in prompts]
                question_starts += [tokens.question_start for tokens in prompts]
                bar.update(len(rows))
        np.save(folder / "ids.npy", np.concatenate(ids))
        np.save(folder / "ends.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        if questions:
            np.save(folder / "questions.npy", np.asarray(question_starts, dtype=np.int32))
        shortened = {"shortened": self._encoder.shortened, "shortened_titles": self._encoder.shortened_titles}
        write_json(folder / "prompts.json", {"rows": total, **shortened})


@dataclass(frozen=True)
class _TokenisedPrompts:
    """The prompts of R rows, as the cache holds them.

    Attributes:
        ids: the token ids of all prompts, one after the other.
        ends: row `r` has the ids `ends[r]` to `ends[r + 1]` [R + 1].
        question_starts: index at which each row's question begins [R]; None if made without `questions`.
        shortened: number of prompts that lost history items.
        shortened_titles: number of prompts that lost a part of the target's title.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    question_starts: NDArray[np.int32] | None
    shortened: int
    shortened_titles: int


def _load(folder: Path, rows: int, questions: bool) -> _TokenisedPrompts:
    """Read the prompts of a cache entry.

    Raises:
        OSError, ValueError, EOFError, KeyError: a file is damaged.
    """
    ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
    ends = np.load(folder / "ends.npy", allow_pickle=False)
    question_starts = np.load(folder / "questions.npy", allow_pickle=False) if questions else None
    counts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    if len(ends) != rows + 1 or ends[-1] != len(ids):
        raise ValueError(f"it has the tokens of {len(ends) - 1} rows, expected {rows}")
    return _TokenisedPrompts(ids, ends, question_starts, counts["shortened"], counts["shortened_titles"])
