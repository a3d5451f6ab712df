"""Prompts: the paper's question in plain text, from a template file and titles that are only ever data.

A template is a text file with the slots {history} and {title}, once each and in that order. It is cut at the slots,
never formatted, so a title that reads "{title}" or "%s" stays a title. Titles are quoted and joined by commas; a
user without a history reads `nothing yet`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from recbole_cora.errors import LLMError, SettingError, nearest
from recbole_cora.files import content_key

BUILT_IN = ("movies", "books", "items")
NO_HISTORY = "nothing yet"

_VERSION = 1  # of `PromptEncoder`: raised where the same titles give other tokens than before
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\s]+")


class Tokens(NamedTuple):
    """A prompt's token ids, and where its question (all after the history) begins."""

    ids: list[int]
    question: int | None


class Prompt(NamedTuple):
    """A prompt in two parts: template and history, the same for every candidate item, and the question about one."""

    beginning: str
    question: str

    @property
    def text(self) -> str:
        """The prompt as it reads."""
        return self.beginning + self.question


@dataclass(frozen=True)
class Template:
    """The fixed text before the history, between history and title, and after the title."""

    before: str
    between: str
    after: str

    @classmethod
    def parse(cls, text: str, name: str = "template") -> Template:
        """Cut `text` at its two slots; white space at its end is dropped, so that the answer follows the last sign.

        Raises:
            SettingError: a slot is missing, repeated, or in the wrong order.
        """
        for slot in ("{history}", "{title}"):
            if text.count(slot) != 1:
                raise SettingError(f"{name}: has {slot} {text.count(slot)} times, expected it once")
        before, rest = text.split("{history}")
        if "{title}" not in rest:
            raise SettingError(f"{name}: has {{title}} before {{history}}, expected the history first")
        between, after = rest.split("{title}")
        return cls(before, between, after.rstrip())

    def prompt(self, history_titles: list[str], title: str) -> Prompt:
        """The prompt for these titles, as they are."""
        liked = '", "'.join(history_titles)
        history = f'"{liked}"' if history_titles else NO_HISTORY
        return Prompt(f"{self.before}{history}", f'{self.between}"{title}"{self.after}')


def load_template(name_or_path: str) -> Template:
    """A built-in template (movies, books, items) or the user's own text file.

    Raises:
        SettingError: neither, or a file without its two slots.
    """
    folder = Path(__file__).parent / "templates"
    path = folder / f"{name_or_path}.txt" if name_or_path in BUILT_IN else Path(name_or_path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        raise SettingError(
            f"no template '{name_or_path}'{nearest(name_or_path, BUILT_IN)}: expected one of {', '.join(BUILT_IN)}, "
            f"or a UTF-8 text file with {{history}} and {{title}}"
        ) from None
    return Template.parse(text, name_or_path)


def clean_title(title: str) -> str:
    """One line of `title`: control characters, lone surrogates and white space become single spaces; the rest stays."""
    return _CONTROL_OR_SPACE.sub(" ", title).strip()


class PromptEncoder:
    """Prompts as token ids, for one tokenizer.

    Titles are plain text: where one contains the spelling of a control token (`</s>`, `<|endoftext|>`), a space
    after its first character breaks it. Splitting by the tokenizer's own `split_special_tokens` would do so for the
    template as well, whose control tokens (of a chat model) must keep their meaning.

    Args:
        tokenizer: a Hugging Face tokenizer.
        template: the question.
        max_tokens: prompts are shortened to this many, oldest history first.
        history_items: at most this many titles of the history, the latest.

    Attributes:
        shortened: how many prompts have lost history items to `max_tokens`.
    """

    def __init__(self, tokenizer: Any, template: Template, max_tokens: int, history_items: int = 10) -> None:
        self.tokenizer = tokenizer
        self.template = template
        self.max_tokens = max_tokens
        self.history_items = history_items
        self.shortened = 0
        self._control = _control_pattern(tokenizer)
        self._plain = lru_cache(maxsize=1 << 16)(self._as_plain_text)  # a title is in many prompts
        bos = tokenizer.bos_token_id
        first = tokenizer("a")["input_ids"][:1]
        self._bos = [bos] if bos is not None and first == [bos] else []

    def key(self) -> str:
        """Changes with whatever changes the tokens of the same titles: tokenizer, template, limits, this code."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        vocabulary = backend.to_str() if backend is not None else self.tokenizer.get_vocab()
        template = (self.template.before, self.template.between, self.template.after)
        return content_key(_VERSION, type(self.tokenizer).__name__, vocabulary, template, self.max_tokens, self._bos)

    def prompt(self, history_titles: list[str], title: str) -> Prompt:
        """The prompt in its parts: titles cleaned, control tokens broken, the latest `history_items` kept."""
        latest = self._latest(history_titles)
        return self.template.prompt([self._plain(liked) for liked in latest], self._plain(title))

    def text(self, history_titles: list[str], title: str) -> str:
        """The prompt as it reads, before any shortening."""
        return self.prompt(history_titles, title).text

    def encode(self, history_titles: list[str], title: str) -> list[int]:
        """The prompt's token ids, BOS first where the tokenizer itself begins with it, at most `max_tokens`.

        Raises:
            LLMError: the question does not fit even without history.
        """
        return self.encode_all([(history_titles, title)])[0].ids

    def encode_all(self, rows: Sequence[tuple[list[str], str]], *, questions: bool = False) -> list[Tokens]:
        """Several prompts, from (history titles, title), as `encode` does one.

        Args:
            questions: find where each question begins: after the tokens that it shares with the prompt's beginning read
                alone (template and history), at least one. A token may not be cut, so the question's first may be one
                that is partly history's last.
        """
        shown = [self.prompt(self._latest(history), title) for history, title in rows]
        ids = self._ids([prompt.text for prompt in shown])
        for n, (history, title) in enumerate(rows):
            if len(ids[n]) > self.max_tokens:
                shown[n], ids[n] = self._shortened(self._latest(history), title)
        if not questions:
            return [Tokens(row, None) for row in ids]
        beginnings = [prompt.beginning for prompt in shown]
        distinct = list(dict.fromkeys(beginnings))  # one user's candidates share theirs
        alone = dict(zip(distinct, self._ids(distinct), strict=True))
        return [Tokens(row, max(1, _shared(row, alone[text]))) for row, text in zip(ids, beginnings, strict=True)]

    def _shortened(self, latest: list[str], title: str) -> tuple[Prompt, list[int]]:
        for dropped in range(1, len(latest) + 1):
            prompt = self.prompt(latest[dropped:], title)
            ids = self._ids([prompt.text])[0]
            if len(ids) <= self.max_tokens:
                self.shortened += 1
                return prompt, ids
        ids = self._ids([self.text([], title)])[0]
        raise LLMError(
            f"the question alone takes {len(ids)} tokens, but the LLM reads {self.max_tokens}; "
            f"use an LLM with a longer context, or a shorter template (item '{title[:60]}')"
        )

    def _latest(self, history_titles: list[str]) -> list[str]:
        return history_titles[max(0, len(history_titles) - self.history_items) :]

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
