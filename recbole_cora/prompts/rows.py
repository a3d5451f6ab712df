"""The prompt of every rated row, in an LLM's tokens. Prompts are tokenised once and then read from the cache."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recbole_cora.cache import cached
from recbole_cora.data.ratings import Ratings
from recbole_cora.errors import DataError
from recbole_cora.files import content_key, write_json
from recbole_cora.progress import Progress
from recbole_cora.prompts.encoder import PromptEncoder
from recbole_cora.prompts.pieces import Piece, Pieces
from recbole_cora.prompts.template import PromptWords

log = logging.getLogger()

#: Rows of a piece: about two seconds of work for two cores. The tokenizer itself spreads a batch over all cores.
_ROWS_AT_ONCE = 8000
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
        with Pieces(folder) as pieces:
            self._tokens: _TokenisedPrompts = cached(
                folder,
                lambda temporary: self._tokenise(temporary, pieces, questions, show_progress),
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

    def _tokenise(self, folder: Path, pieces: Pieces, questions: bool, show_progress: bool) -> None:
        """Write the files of the cache entry, from the pieces of an earlier attempt as far as there are any."""
        total = len(self._ratings)
        spans = [range(start, min(start + _ROWS_AT_ONCE, total)) for start in range(0, total, _ROWS_AT_ONCE)]
        pieces.lock()
        lengths, starts, shortened, shortened_titles = [], [], 0, 0
        with Progress("tokenise prompts", "row", total, show=show_progress, keep=False) as bar:
            resumed = 0
            for rows in spans:
                piece = pieces.read(rows)
                if piece is not None:
                    resumed += len(rows)
                    bar.start_at(bar.done + len(rows))
                else:
                    piece = self._encode(rows, questions)
                    pieces.write(rows, piece)
                    bar.update(len(rows))
                lengths.append(piece.lengths)
                starts.append(piece.question_starts)
                shortened += int(piece.shortened[0])
                shortened_titles += int(piece.shortened[1])
        if resumed:
            log.info(f"{resumed:,} of {total:,} prompts had been tokenised by an interrupted run")
        ends = np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64)
        pieces.join_ids(spans, int(ends[-1]), folder / "ids.npy")
        np.save(folder / "ends.npy", ends)
        if questions:
            np.save(folder / "questions.npy", np.concatenate(starts))
        counts = {"shortened": shortened, "shortened_titles": shortened_titles}
        write_json(folder / "prompts.json", {"rows": total, **counts})

    def _encode(self, rows: range, questions: bool) -> Piece:
        """Return the prompts of some rows as tokens."""
        encoder = self._encoder
        before = encoder.shortened, encoder.shortened_titles
        prompts = encoder.encode_all([self._words(row) for row in rows], questions=questions)
        starts = [tokens.question_start for tokens in prompts] if questions else []
        return Piece(
            ids=np.concatenate([np.asarray(tokens.ids, dtype=np.int32) for tokens in prompts]),
            lengths=np.asarray([len(tokens.ids) for tokens in prompts], dtype=np.int64),
            question_starts=np.asarray(starts, dtype=np.int32),
            shortened=np.asarray([encoder.shortened - before[0], encoder.shortened_titles - before[1]]),
        )


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
