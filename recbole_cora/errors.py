"""Every error that a user can cause, as one small tree.

    CoraError                 the command line prints it in one line and exits with 2
    |-- SettingError          a key, a value, a model or a file name on the command line or in a YAML
    |-- DataError             ratings, titles or splits that cannot be used as they are
    |-- LLMError              a language model folder, its tokenizer, its answers or its family
    |-- CheckpointError       a saved file that is foreign, or not ours
    |   `-- DamagedError      a saved file that is truncated or has changed since it was written
    `-- WriteError            a file that the system would not write: no space, no permission

Each message says what was got, what was expected, and what to do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class CoraError(Exception):
    """Base of every error that a user can cause and mend."""


class SettingError(CoraError):
    """A setting that does not exist, or a value that it cannot take."""


class DataError(CoraError):
    """Ratings, titles or splits that cannot be used as they are."""


class LLMError(CoraError):
    """A language model that cannot be loaded, asked, or equipped with weights."""


class CheckpointError(CoraError):
    """A saved file that is truncated, foreign, or made for something else."""


class DamagedError(CheckpointError):
    """A saved file that is truncated or has changed since it was written."""


class WriteError(CoraError):
    """A file that cannot be written; what was there before is as it was."""


class Stopped(BaseException):
    """A run was asked to stop by a signal, and has; `status` is the exit code for it."""

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.status = 128 + signal_number


def raise_all(problems: Iterable[str], kind: type[CoraError]) -> None:
    """Raise one error of that kind that names every problem, each once; return where there is none."""
    if message := "; ".join(dict.fromkeys(problems)):
        raise kind(message)


def nearest(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'X'?"` for the known name nearest to `name`, or `""`."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""
