"""Prompts encoded as the token ids of one tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recbole_cora.errors import LLMError
from recbole_cora.files import content_key
from recbole_cora.prompts.template import Prompt, PromptWords, Template, clean_title

#: The fewest characters to which a title is shortened. Fewer would say nothing.
_LEAST_TITLE = 20
_ELLIPSIS = "..."

#: Part of the key of `PromptEncoder`. Raise it when the same titles give different tokens than before.
_VERSION = 3


class Tokens(NamedTuple):
    """A prompt's token ids, and the index at which its question, the text after the history, begins."""

    ids: list[int]
    question_start: int | None


class PromptEncoder:
    """Encodes prompts as token ids, for one tokenizer.

    Titles are plain text. If a title spells a control token (`</s>`, `<|endoftext|>`), a space after its first
    character breaks the spelling. The tokenizer's own `split_special_tokens` is not used: it would also break the
    control tokens of the template, which must keep their meaning for a chat model.

    Args:
        tokenizer: a Hugging Face tokenizer.
        template: the text around the history and the title.
        max_tokens: the most tokens of a prompt. A longer one loses its oldest history items, then the end of the title.
        history_items: the number of latest history items that a prompt shows.

    Attributes:
        shortened: number of prompts that lost history items to fit into `max_tokens`.
        shortened_titles: number of prompts whose target's title lost its end to fit.
    """

    def __init__(self, tokenizer: Any, template: Template, max_tokens: int, history_items: int = 10) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.history_items = history_items
        self.shortened = self.shortened_titles = 0
        self._control_tokens = _control_pattern(tokenizer)
        self._plain = lru_cache(maxsize=1 << 16)(self._as_plain_text)  # a title is in many prompts
        self._with_cut_title = lru_cache(maxsize=1 << 16)(self._cut_title)
        bos = tokenizer.bos_token_id
        first = tokenizer("a")["input_ids"][:1]
        adds_bos = bos is not None and first == [bos] and not template.is_chat  # a chat template has its own
        self._bos = [bos] if adds_bos else []

    def key(self) -> str:
        """Return a key of the tokenizer, the template, the token limit and the version of this code."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend is not None else self.tokenizer.get_vocab()
        template = (self.template.before, self.template.between, self.template.after)
        return content_key(_VERSION, type(self.tokenizer).__name__, vocabulary, template, self.max_tokens, self._bos)

    @cached_property
    def slot(self) -> str:
        """The control token that marks the place of a vector in a prompt's words; the template does not use it.

        Raises:
            LLMError: the tokenizer has no such token.
        """
        tokenizer = self.tokenizer
        template_text = "".join((self.template.before, self.template.between, self.template.after))
        for token in (tokenizer.unk_token, tokenizer.pad_token, tokenizer.eos_token, *tokenizer.all_special_tokens):
            if token and token not in template_text and len(self._ids([f"a{token}a"])[0]) > 2:
                return str(token)
        raise LLMError(
            "the tokenizer has no unused control token to mark the place of a vector in the prompt; use another LLM"
        )

    def slots(self, ids: Sequence[int] | NDArray[np.int32]) -> list[int]:
        """Return the positions of the slots in a prompt's token ids."""
        token = self.tokenizer.convert_tokens_to_ids(self.slot)
        positions = np.flatnonzero(np.asarray(ids) == token).tolist()
        return positions[1:] if self._bos == [token] else positions

    def prompt(self, words: PromptWords) -> Prompt:
        """Return the prompt, with titles cleaned, control tokens broken and only the latest `history_items`."""
        history = None if words.history is None else [self._plain(title) for title in self._last_items(words.history)]
        title = None if words.title is None else self._plain(words.title)
        return self.template.prompt(history, title, words.user, words.item)

    def text(self, history: Sequence[str], title: str) -> str:
        """Return the text of the prompt for these titles, before any shortening."""
        return self.prompt(PromptWords(history, title)).text

    def encode(self, history: Sequence[str], title: str) -> list[int]:
        """Return the token ids of the prompt for these titles (see `encode_all`)."""
        return self.encode_all([PromptWords(history, title)])[0].ids

    def encode_all(self, rows: Sequence[PromptWords], *, questions: bool = False) -> list[Tokens]:
        """Encode prompts as token ids, at most `max_tokens` each; BOS comes first if the tokenizer itself adds it.

        Args:
            questions: also find where each question begins. The prompt's beginning (template and history) is encoded on
                its own, and the question begins after the tokens that both encodings share, but after at least one
                token. Tokens cannot be split, so the question's first token may contain the history's last characters.

        Raises:
            LLMError: a question does not fit even without history and with 20 characters of its title.
        """
        prompts = [self.prompt(words) for words in rows]
        ids = self._ids([prompt.text for prompt in prompts])
        for n, words in enumerate(rows):
            if len(ids[n]) > self.max_tokens:
                prompts[n], ids[n] = self._shorten(words)
        if not questions:
            return [Tokens(row, None) for row in ids]
        beginnings = [prompt.beginning for prompt in prompts]
        distinct = list(dict.fromkeys(beginnings))  # all candidates of one user share a beginning
        beginning_ids = dict(zip(distinct, self._ids(distinct), strict=True))
        return [
            Tokens(row, max(1, _common_prefix(row, beginning_ids[text])))
            for row, text in zip(ids, beginnings, strict=True)
        ]

    def _shorten(self, words: PromptWords) -> tuple[Prompt, list[int]]:
        """Drop history items, oldest first, until the prompt fits; without history, cut the title."""
        history = self._last_items(words.history or [])
        for count in range(1, len(history) + 1):
            prompt = self.prompt(words._replace(history=history[count:]))
            ids = self._ids([prompt.text])[0]
            if len(ids) <= self.max_tokens:
                self.shortened += 1
                return prompt, ids
        prompt, ids = self._with_cut_title(words._replace(history=None if words.history is None else ()))
        self.shortened += bool(history)
        self.shortened_titles += 1
        return prompt, ids

    def _cut_title(self, words: PromptWords) -> tuple[Prompt, list[int]]:
        """Return the prompt with as much of the title's beginning as fits, followed by `...`.

        Raises:
            LLMError: not even 20 characters fit.
        """
        title = clean_title(words.title or "")
        best: tuple[Prompt, list[int]] | None = None
        least, most = _LEAST_TITLE, len(title) - 1
        while least <= most:  # more characters are nearly always more tokens; a returned prompt is known to fit
            middle = (least + most) // 2
            prompt = self.prompt(words._replace(title=title[:middle].rstrip() + _ELLIPSIS))
            ids = self._ids([prompt.text])[0]
            if len(ids) <= self.max_tokens:
                best, least = (prompt, ids), middle + 1
            else:
                most = middle - 1
        if best is not None:
            return best
        ids = self._ids([self.prompt(words).text])[0]
        raise LLMError(
            f"the question alone takes {len(ids)} tokens, but the LLM reads {self.max_tokens}; "
            f"use an LLM with a longer context, or a shorter template (item '{(words.title or '')[:60]}')"
        )

    def _last_items(self, history: Sequence[str]) -> list[str]:
        return list(history[max(0, len(history) - self.history_items) :])

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        ids_only = {"return_attention_mask": False, "return_token_type_ids": False}
        rows = self.tokenizer(texts, add_special_tokens=False, verbose=False, **ids_only)["input_ids"]
        return [ids if ids[:1] == self._bos else [*self._bos, *ids] for ids in rows]  # a template may begin with BOS

    def _as_plain_text(self, title: str) -> str:
        title = clean_title(title)
        if self._control_tokens is None:
            return title
        while True:  # breaking one token may form another: "<</s>/s>"
            spaced_title = self._control_tokens.sub(lambda match: match.group()[0] + " " + match.group()[1:], title)
            if spaced_title == title:
                return title
            title = spaced_title


def _common_prefix(one: list[int], other: list[int]) -> int:
    """Return the length of the common prefix."""
    return next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _control_pattern(tokenizer: Any) -> re.Pattern[str] | None:
    """Return a pattern for the spellings of all control tokens. Ordinary words added to a vocabulary do not match."""
    spellings = set(tokenizer.all_special_tokens)
    for token in getattr(tokenizer, "added_tokens_decoder", {}).values():
        if token.special or set(token.content) & set("<>[]|"):
            spellings.add(token.content)
    longest_first = sorted((s for s in spellings if len(s.strip()) > 1), key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if longest_first else None
