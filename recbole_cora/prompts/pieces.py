"""Pieces of tokenised prompts: an interrupted process leaves them beside the cache entry, and the next one continues.

The folder of the pieces carries the entry's key, so its pieces are of the same rows, tokenizer and template.
"""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recbole_cora import files
from recbole_cora.errors import DamagedError, WriteError

log = logging.getLogger()

#: Errors that reading a damaged piece may raise.
_DAMAGE = (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError, DamagedError)


class Piece(NamedTuple):
    """The prompts of R consecutive rows.

    ids: the token ids of all prompts, one after the other.
    lengths: tokens per prompt [R].
    question_starts: index at which each row's question begins [R]; empty if made without questions.
    shortened: the numbers of prompts that lost history items, and a part of the target's title [2].
    """

    ids: NDArray[np.int32]
    lengths: NDArray[np.int64]
    question_starts: NDArray[np.int32]
    shortened: NDArray[np.int64]


class Pieces:
    """The finished pieces of a cache entry in the making; use it as a context manager around `cached`.

    One process at a time makes the entry: a second one waits, and then finds it. The pieces are removed once the entry
    is there, and stay if the context ends by an error or Ctrl-C.

    Args:
        entry: the folder of the entry.
    """

    def __init__(self, entry: Path) -> None:
        self._entry, self._folder = entry, entry.parent / f".{entry.name}.pieces"
        self._locks = ExitStack()
        self._locked = False

    def __enter__(self) -> Pieces:
        if self._folder.exists() or not self._entry.exists():
            self.lock()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._locked and kind is None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._locks.close()

    def lock(self) -> None:
        """Lock the pieces until the context ends, waiting for another process that makes the same entry.

        Raises:
            WriteError: the system refuses.
        """
        if self._locked:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if not self._locks.enter_context(files.try_lock(self._folder)):
                log.info(f"waiting for another process that tokenises the same prompts ({self._entry})")
                self._locks.enter_context(files.lock(self._folder))
        except OSError as error:
            raise WriteError(
                f"cannot write {self._entry} ({files.reason_of(error)}); make room there, or give another --cache_dir="
            ) from None
        self._locked = True

    def read(self, rows: range) -> Piece | None:
        """Return the piece of these rows; None if there is none, or if it is damaged."""
        path = self._path(rows)
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                piece = Piece(*(arrays[name] for name in Piece._fields))
            if len(piece.lengths) != len(rows) or piece.lengths.sum() != len(piece.ids):
                raise DamagedError("it holds other rows")
        except _DAMAGE as error:
            log.warning(f"{path} is damaged ({error}); tokenising its rows again")
            return None
        return piece

    def write(self, rows: range, piece: Piece) -> None:
        """Write the piece of these rows atomically. Raises WriteError if the system refuses."""

        def save(path: Path) -> None:
            with path.open("wb") as file:
                np.savez(file, **piece._asdict())

        files.write_whole(self._path(rows), save)

    def join_ids(self, spans: Sequence[range], count: int, path: Path) -> None:
        """Write the ids of all pieces as one .npy file, one piece at a time: all of them may not fit in memory.

        Args:
            spans: the rows of each piece, in order.
            count: number of ids.

        Raises:
            DamagedError: a piece is gone or has changed since it was read.
            OSError: the system refuses.
        """
        with path.open("wb") as file:
            _begin_ids(file, count)
            for rows in spans:
                if (piece := self.read(rows)) is None:
                    raise DamagedError(f"{self._path(rows)} is gone or damaged; run it again")
                file.write(np.ascontiguousarray(piece.ids, dtype=np.int32).tobytes())

    def _path(self, rows: range) -> Path:
        return self._folder / f"rows-{rows.start:09d}-{rows.stop:09d}.npz"


def _begin_ids(file: IO[bytes], count: int) -> None:
    """Write the header that `np.save` gives an array of `count` int32."""
    descr = np.lib.format.dtype_to_descr(np.dtype(np.int32))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (count,)})
