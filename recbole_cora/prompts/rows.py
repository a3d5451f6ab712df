"""From rows to prompts in an LLM's tokens: every row's text is built from `Ratings` and tokenised once, ever."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from recbole_cora.prompts.template import Asked

_ROWS_AT_ONCE = 2000
#: Of the files in the cache, in its key: raise it where their layout changes, or which history a row's prompt shows.
#: (`prompts._VERSION` is that of the words and tokens.)
_VERSION = 1


def titles_of(ratings: Ratings) -> list[str]:
    """One title per item token. Raises DataError where the dataset has none."""
    if ratings.titles is None:
        raise DataError(
            f"{ratings.name} has no titles: a prompt needs {ratings.name}.item with a column item_id:token and a "
            "column title:token_seq"
        )
    return ratings.titles


class Features(NamedTuple):
    """What prompts say of a row's user and of its item beside their titles.

    user, item: of every row [R]; or one text for all, such as slots for vectors; "": nothing.
    """

    user: str | Sequence[str] = ""
    item: str | Sequence[str] = ""

    def of(self, row: int) -> tuple[str, str]:
        """Of one row."""
        user, item = (side if isinstance(side, str) else side[row] for side in self)
        return user, item


class RowPrompts:
    """`prompts[row]` is the row's prompt as token ids [L]; they lie in a file, mapped into memory.

    Args:
        ratings, encoder: what is asked, and in which tokens.
        history_items: last liked items in a prompt.
        cache_dir: the file's folder is made here, kept by tokenizer, template and data.
        questions: also find where each row's question begins.
        features: of users and items, beside their titles.
        show_titles: of the history and of the target.

    Attributes:
        key: changes with whatever changes a prompt's tokens.
        shortened: how many prompts lost history items to fit the context window.
        shortened_titles: how many ask about a title that lost its end to fit it.
    """

    def __init__(
        self,
        ratings: Ratings,
        encoder: PromptEncoder,
        history_items: int,
        cache_dir: Path,
        *,
        questions: bool = False,
        features: Features = Features(),  # noqa: B008  (it cannot be changed)
        show_titles: bool = True,
        show_progress: bool = False,
    ) -> None:
        self._ratings, self._titles, self._encoder, self._last = ratings, titles_of(ratings), encoder, history_items
        self._features, self._show_titles = features, show_titles
        self.key = self._key(questions)
        folder = cache_dir / f"{ratings.name}-{self.key}"
        self._ids, self._ends, self._questions, self.shortened, self.shortened_titles = cached(
            folder,
            lambda temporary: self._tokenise(temporary, questions, show_progress),
            lambda entry: _load(entry, len(ratings), questions),
        )

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self._ids[self._ends[row] : self._ends[row + 1]]

    def questions(self, rows: Sequence[int]) -> list[int] | None:
        """Where the question begins in the prompts of these rows; None where that was not asked for."""
        return None if self._questions is None else self._questions[list(rows)].tolist()

    def of(self, rows: Sequence[int]) -> list[Any]:
        """The prompts of these rows, [L] each."""
        return [self[row] for row in rows]

    def slots(self, rows: Sequence[int]) -> list[list[int]]:
        """Where the slots are in the prompts of these rows: the user's, then the item's."""
        return [self._encoder.slots(self[row]) for row in rows]

    def text(self, row: int) -> str:
        """The row's prompt as plain text."""
        return self._encoder.prompt(self._asked(row)).text

    def _asked(self, row: int) -> Asked:
        user, item = self._features.of(row)
        if not self._show_titles:
            return Asked(None, None, user, item)
        history = [self._titles[item] for item in self._ratings.history(row, self._last)]
        return Asked(history, self._titles[self._ratings.item[row]], user, item)

    def _key(self, questions: bool) -> str:
        r = self._ratings
        columns = [np.ascontiguousarray(c).tobytes() for c in (r.item, r.liked, r.history_start, r.history_end)]
        said = [side if isinstance(side, str) else list(side) for side in self._features]
        return content_key(
            _VERSION, self._encoder.key(), self._last, questions, self._titles, said, self._show_titles, *columns
        )

    def _tokenise(self, folder: Path, questions: bool, show_progress: bool) -> None:
        total = len(self._ratings)
        ids: list[NDArray[np.int32]] = []
        lengths: list[int] = []
        begins: list[Any] = []
        with tqdm(total=total, desc="tokenise prompts", unit="row", disable=not show_progress, leave=False) as bar:
            for start in range(0, total, _ROWS_AT_ONCE):
                rows = range(start, min(start + _ROWS_AT_ONCE, total))
                found = self._encoder.encode_all([self._asked(row) for row in rows], questions=questions)
                ids += [np.asarray(tokens.ids, dtype=np.int32) for tokens in found]
                lengths += [len(tokens.ids) for tokens in found]
                begins += [tokens.question for tokens in found]
                bar.update(len(rows))
        np.save(folder / "ids.npy", np.concatenate(ids))
        np.save(folder / "ends.npy", np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64))
        if questions:
            np.save(folder / "questions.npy", np.asarray(begins, dtype=np.int32))
        shortened = {"shortened": self._encoder.shortened, "shortened_titles": self._encoder.shortened_titles}
        write_json(folder / "prompts.json", {"rows": total, **shortened})


def _load(folder: Path, rows: int, questions: bool) -> tuple[Any, Any, Any, int, int]:
    """Ids of all prompts in one row, where each ends [R + 1], where its question begins [R], how many lost
    history items, and how many a part of their title.

    Raises:
        OSError, ValueError, EOFError, KeyError: a damaged file.
    """
    ids = np.load(folder / "ids.npy", mmap_mode="r", allow_pickle=False)
    ends = np.load(folder / "ends.npy", allow_pickle=False)
    begins = np.load(folder / "questions.npy", allow_pickle=False) if questions else None
    about = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    if len(ends) != rows + 1 or ends[-1] != len(ids):
        raise ValueError(f"tokens of {len(ends) - 1} rows, expected {rows}")
    return ids, ends, begins, about["shortened"], about["shortened_titles"]
