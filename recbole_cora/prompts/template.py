"""A prompt's words: the paper's question in plain text, from a template file and item titles.

A template is a text file with the slots {history} and {title}, once each and in that order. It is split at the slots
and never formatted, so a title that reads "{title}" or "%s" stays a title. Titles are quoted and joined by commas; the
history of a user without one reads `nothing yet`.
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


class Asked(NamedTuple):
    """What one prompt asks, in words.

    history: titles, oldest first; None: not shown.
    title: of the target; None: not shown.
    user, item: what is said of the user after the history, and of the item after its title (a code, or slots); "":
        nothing.
    """

    history: Sequence[str] | None
    title: str | None
    user: str = ""
    item: str = ""


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

    def prompt(self, history: Sequence[str] | None, title: str | None, user: str = "", item: str = "") -> Prompt:
        """The prompt for these words (see `Asked`), as they are."""
        shown = NOT_SHOWN if history is None else NO_HISTORY
        if history:
            liked = '", "'.join(history)
            shown = f'"{liked}"'
        target = NOT_SHOWN if title is None else f'"{title}"'
        # Few words: to a small LLM, which has never read them, more of them drown the rest.
        of_user = f" (user {user})" if user else ""
        of_item = f" ({item})" if item else ""
        return Prompt(f"{self.before}{shown}{of_user}", f"{self.between}{target}{of_item}{self.after}")


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
