"""From a prompt's words to token ids, for one tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from recbole_cora.errors import LLMError
from recbole_cora.files import content_key
from recbole_cora.prompts.template import Asked, Prompt, Template, clean_title

#: Minimum characters of a shortened title: less says nothing.
_LEAST_TITLE = 20
_CUT = "..."

#: Version of `PromptEncoder`, in its key: raise it when the same titles give other tokens than before.
_VERSION = 3


class Tokens(NamedTuple):
    """A prompt's token ids, and where its question (all after the history) begins."""

    ids: list[int]
    question: int | None


class PromptEncoder:
    """Prompts as token ids, for one tokenizer.

    Titles are plain text: where one contains the spelling of a control token (`</s>`, `<|endoftext|>`), a space
    after its first character breaks it. Splitting by the tokenizer's own `split_special_tokens` would do so for the
    template as well, whose control tokens (of a chat model) must keep their meaning.

    Args:
        tokenizer: a Hugging Face tokenizer.
        template: the question.
        max_tokens: prompts are shortened to this many, oldest history first; then the title asked about, from its end.
        history_items: at most this many titles of the history, the latest.

    Attributes:
        shortened: how many prompts have lost history items to `max_tokens`.
        shortened_titles: how many prompts ask about a title that has lost its end to it.
    """

    def __init__(self, tokenizer: Any, template: Template, max_tokens: int, history_items: int = 10) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.history_items = history_items
        self.shortened = self.shortened_titles = 0
        self._control = _control_pattern(tokenizer)
        self._plain = lru_cache(maxsize=1 << 16)(self._as_plain_text)  # a title is in many prompts
        self._cut = lru_cache(maxsize=1 << 16)(self._cut_title)
        bos = tokenizer.bos_token_id
        first = tokenizer("a")["input_ids"][:1]
        self._bos = [bos] if bos is not None and first == [bos] else []

    def key(self) -> str:
        """Changes with whatever changes the tokens of the same titles: tokenizer, template, limits, this code."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend is not None else self.tokenizer.get_vocab()
        template = (self.template.before, self.template.between, self.template.after)
        return content_key(_VERSION, type(self.tokenizer).__name__, vocabulary, template, self.max_tokens, self._bos)

    @cached_property
    def slot(self) -> str:
        """Stands in a prompt's words where a vector will stand: a control token that the template does not use.

        Raises:
            LLMError: the tokenizer has none.
        """
        tokenizer, used = self.tokenizer, "".join((self.template.before, self.template.between, self.template.after))
        for token in (tokenizer.unk_token, tokenizer.pad_token, tokenizer.eos_token, *tokenizer.all_special_tokens):
            if token and token not in used and len(self._ids([f"a{token}a"])[0]) > 2:
                return str(token)
        raise LLMError("the tokenizer has no control token that can stand for a vector in the prompt")

    def slots(self, ids: Any) -> list[int]:
        """Where the slots are in a prompt's token ids."""
        token = self.tokenizer.convert_tokens_to_ids(self.slot)
        places = np.flatnonzero(np.asarray(ids) == token).tolist()
        return places[1:] if self._bos == [token] else places

    def prompt(self, asked: Asked) -> Prompt:
        """The prompt in its parts: titles cleaned, control tokens broken, the latest `history_items` kept."""
        history = None if asked.history is None else [self._plain(liked) for liked in self._latest(asked.history)]
        title = None if asked.title is None else self._plain(asked.title)
        return self.template.prompt(history, title, asked.user, asked.item)

    def text(self, history: Sequence[str], title: str) -> str:
        """The prompt for these titles as it reads, before any shortening."""
        return self.prompt(Asked(history, title)).text

    def encode(self, history: Sequence[str], title: str) -> list[int]:
        """The token ids of the prompt for these titles, as `encode_all` makes them."""
        return self.encode_all([Asked(history, title)])[0].ids

    def encode_all(self, rows: Sequence[Asked], *, questions: bool = False) -> list[Tokens]:
        """Prompts as token ids, BOS first where the tokenizer itself begins with it, at most `max_tokens`.

        Args:
            questions: find where each question begins: after the tokens that it shares with the prompt's beginning read
                alone (template and history), at least one. A token may not be cut, so the question's first may be one
                that is partly history's last.

        Raises:
            LLMError: a question does not fit even without history and with 20 characters of its title.
        """
        shown = [self.prompt(asked) for asked in rows]
        ids = self._ids([prompt.text for prompt in shown])
        for n, asked in enumerate(rows):
            if len(ids[n]) > self.max_tokens:
                shown[n], ids[n] = self._shortened(asked)
        if not questions:
            return [Tokens(row, None) for row in ids]
        beginnings = [prompt.beginning for prompt in shown]
        distinct = list(dict.fromkeys(beginnings))  # one user's candidates share theirs
        alone = dict(zip(distinct, self._ids(distinct), strict=True))
        return [Tokens(row, max(1, _shared(row, alone[text]))) for row, text in zip(ids, beginnings, strict=True)]

    def _shortened(self, asked: Asked) -> tuple[Prompt, list[int]]:
        latest = self._latest(asked.history or [])
        for dropped in range(1, len(latest) + 1):
            prompt = self.prompt(asked._replace(history=latest[dropped:]))
            ids = self._ids([prompt.text])[0]
            if len(ids) <= self.max_tokens:
                self.shortened += 1
                return prompt, ids
        cut = self._cut(asked._replace(history=None if asked.history is None else ()))
        self.shortened += bool(latest)
        self.shortened_titles += 1
        return cut

    def _cut_title(self, asked: Asked) -> tuple[Prompt, list[int]]:
        """The prompt with as much of the title's beginning as fits, marked by `...`.

        Raises:
            LLMError: not even 20 characters fit.
        """
        title = clean_title(asked.title or "")
        fitting: tuple[Prompt, list[int]] | None = None
        least, most = _LEAST_TITLE, len(title) - 1
        while least <= most:  # more characters are more tokens, nearly always: what is returned has been measured
            middle = (least + most) // 2
            prompt = self.prompt(asked._replace(title=title[:middle].rstrip() + _CUT))
            ids = self._ids([prompt.text])[0]
            if len(ids) <= self.max_tokens:
                fitting, least = (prompt, ids), middle + 1
            else:
                most = middle - 1
        if fitting is not None:
            return fitting
        ids = self._ids([self.prompt(asked).text])[0]
        raise LLMError(
            f"the question alone takes {len(ids)} tokens, but the LLM reads {self.max_tokens}; "
            f"use an LLM with a longer context, or a shorter template (item '{(asked.title or '')[:60]}')"
        )

    def _latest(self, history: Sequence[str]) -> list[str]:
        return list(history[max(0, len(history) - self.history_items) :])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        lean = {"return_attention_mask": False, "return_token_type_ids": False}
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False, **lean)["input_ids"]
        return [ids if ids[:1] == self._bos else [*self._bos, *ids] for ids in rows]  # a template may write its BOS

    def _as_plain_text(self, title: str) -> str:
        title = clean_title(title)
        if self._control is None:
            return title
        while True:  # a broken token may uncover another: "<</s>/s>"
            broken = self._control.sub(lambda match: match.group()[0] + " " + match.group()[1:], title)
            if broken == title:
                return title
            title = broken


def _shared(one: list[int], other: list[int]) -> int:
    """How many first tokens are the same."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _control_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """Matches every control token's spelling; ordinary words that someone added to a vocabulary stay whole."""
    spellings = set(tokenizer.all_special_tokens)
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        if token.special or set(token.content) & set("<>[]|"):
            spellings.add(token.content)
    longest_first = sorted((s for s in spellings if len(s.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if longest_first else None
