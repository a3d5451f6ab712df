"""Every error that a user can cause, as one small tree.

    CoraError                 the command line prints it on one line and exits with 2
    |-- SettingError          a key, a value, a model or a file name on the command line or in a YAML file
    |-- DataError             ratings, titles or splits that cannot be used
    |-- LLMError              a language model's folder, tokenizer, answers or family
    |-- CheckpointError       a saved file that is not ours, or was made for something else
    |   `-- DamagedError      a saved file that is truncated or has changed since it was written
    `-- WriteError            a file that the system refused to write: no space, no permission

Each message says what is wrong, what was expected, and how to fix it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CoraError(Exception):
    """Base of every error that a user can cause and fix."""


class SettingError(CoraError):
    """A setting that does not exist, or a value that it does not accept."""


class DataError(CoraError):
    """Ratings, titles or splits that cannot be used."""


class LLMError(CoraError):
    """A language model that cannot be loaded, queried, or given weights."""


class CheckpointError(CoraError):
    """A saved file that is truncated, not ours, or made for something else."""


class DamagedError(CheckpointError):
    """A saved file that is truncated or has changed since it was written."""


class WriteError(CoraError):
    """A file that cannot be written; any earlier version of it is unchanged."""


class Stopped(BaseException):
    """A run that has stopped because a signal asked it to; `status` is the exit code for that signal."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


def raise_all(problems: Iterable[str], kind: type[CoraError]) -> None:
    """Raise one error of this kind that names every problem once; return if there are none."""
    if message := "; ".join(dict.fromkeys(problems)):
        raise kind(message)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return `"; did you mean 'X'?"` for the one of `names` nearest to `name`; `""` if none is near."""
    match = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
