"""The words of a prompt: the paper's question in plain text, built from a template file and item titles.

A template is a text file with the slots {history} and {title}, once each and in that order. It is split at the slots
and never formatted, so a title that reads "{title}" or "%s" stays a title. Titles are quoted and joined by commas. An
empty history reads `nothing yet`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from recbole_cora.errors import SettingError, nearest

BUILT_IN = ("movies", "books", "items")
NO_HISTORY = "nothing yet"
NOT_SHOWN = "not shown"

_CONTROL_OR_SPACE = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\s]+")


class PromptWords(NamedTuple):
    """The words that fill one prompt.

    history: titles, oldest first; None if the prompt does not show them.
    title: the target's title; None if the prompt does not show it.
    user, item: text about the user, placed after the history, and about the item, placed after its title: a code, or
        slots for vectors. "" adds nothing.
    """

    history: Sequence[str] | None
    title: str | None
    user: str = ""
    item: str = ""


class Prompt(NamedTuple):
    """A prompt in two parts: the beginning (template and history), shared by all candidate items, and the question."""

    beginning: str
    question: str

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.beginning + self.question


@dataclass(frozen=True)
class Template:
    """The fixed text before the history, between the history and the title, and after the title.

    Attributes:
        is_chat: the text is in the form of a tokenizer's chat template, with the begin-of-text token that belongs there
            (see `chat.in_chat`).
    """

    before: str
    between: str
    after: str
    is_chat: bool = False

    @classmethod
    def parse(cls, text: str, name: str = "template") -> Template:
        """Split `text` at its two slots. A line break that ends it is the end of the file's last line and is dropped.

        All other white space is kept, because the answer follows the last character.

        Raises:
            SettingError: a slot is missing, repeated, or in the wrong order.
        """
        for slot in ("{history}", "{title}"):
            if text.count(slot) != 1:
                raise SettingError(f"{name} contains {slot} {text.count(slot)} times; expected it once")
        before, rest = text.split("{history}")
        if "{title}" not in rest:
            raise SettingError(f"{name} has {{title}} before {{history}}; expected {{history}} first")
        between, after = rest.split("{title}")
        return cls(before, between, after.removesuffix("\n").removesuffix("\r"))

    def prompt(self, history: Sequence[str] | None, title: str | None, user: str = "", item: str = "") -> Prompt:
        """Return the prompt for these words, unchanged; the arguments are the fields of `PromptWords`."""
        history_text = NOT_SHOWN if history is None else NO_HISTORY
        if history:
            titles = '", "'.join(history)
            history_text = f'"{titles}"'
        title_text = NOT_SHOWN if title is None else f'"{title}"'
        # Only a few words: a small LLM has never seen them, and more would drown out the rest.
        user_text = f" (user {user})" if user else ""
        item_text = f" ({item})" if item else ""
        return Prompt(f"{self.before}{history_text}{user_text}", f"{self.between}{title_text}{item_text}{self.after}")


def load_template(name_or_path: str) -> Template:
    """Load a built-in template (movies, books, items) or the user's own text file.

    Raises:
        SettingError: there is no such template or file, or the file does not have its two slots.
    """
    folder = Path(__file__).parent / "templates"
    path = folder / f"{name_or_path}.txt" if name_or_path in BUILT_IN else Path(name_or_path).expanduser()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError, ValueError):
        raise SettingError(
            f"no template '{name_or_path}'{nearest(name_or_path, BUILT_IN)}: expected one of {', '.join(BUILT_IN)}, "
            f"or the path of a UTF-8 text file with {{history}} and {{title}}"
        ) from None
    return Template.parse(text, name_or_path)


def clean_title(title: str) -> str:
    """Return `title` on one line. Runs of control characters, lone surrogates and white space become single spaces."""
    return _CONTROL_OR_SPACE.sub(" ", title).strip()
