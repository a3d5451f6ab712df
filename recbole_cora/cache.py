"""The cache: folders named by content key, each with a manifest of its files; a damaged one is made again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, TypeVar

from recbole_cora.errors import CheckpointError, DamagedError, WriteError
from recbole_cora.files import hidden_folder, json_text, lock, reason_of, sync

log = logging.getLogger()

_T = TypeVar("_T")

#: The file that lists an entry's files with their sizes and checksums; it is written last.
_MANIFEST = "manifest.json"
#: Files up to this size are checked by SHA-256 on each use (0.1 s), larger ones by their size alone.
_HASHED_BYTES = 64 << 20
#: Errors that reading a damaged entry may raise.
_DAMAGE = (
    FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, EOFError, KeyError, TypeError, IndexError,
    CheckpointError,
)  # fmt: skip


class _FileRecord(TypedDict):
    """One file in a manifest; `sha256` is None for a large file."""

    bytes: int
    sha256: str | None


def cached(folder: Path, fill: Callable[[Path], None], read: Callable[[Path], _T]) -> _T:
    """Read a cache entry with `read`; if there is none yet, make it first with `fill`.

    A damaged entry is made again, with a warning. It is damaged if a file is missing, a file's size or checksum differs
    from the manifest (large files: size only), or `read` fails. Several processes may call this at once.

    Args:
        folder: the entry. Its name contains a key of everything that its content depends on.
        fill: gets a new folder and writes the entry's files into it.
        read: gets the entry's folder and returns its content. On a damaged file it raises CheckpointError, OSError,
            ValueError or another error of `_DAMAGE`.

    Raises:
        WriteError: the entry cannot be made; nothing of it is left.
        CheckpointError: the entry cannot be read, although it is undamaged or has just been made.
    """
    while (identity := _identity(folder)) is not None:
        try:
            _check_manifest(folder)
            return read(folder)
        except _DAMAGE as error:
            why = " ".join(str(error).split()) or type(error).__name__
            if _discard(folder, identity):
                log.warning(f"the cache entry {folder} is damaged ({why}); making it again")
        except OSError as error:
            raise CheckpointError(f"cannot read {folder} ({reason_of(error)}); give another --cache_dir=") from None
    try:
        make_folder_whole(folder, fill)
    except WriteError as error:
        raise WriteError(f"{error}; make room there, or give another --cache_dir=") from None
    try:
        return read(folder)
    except (OSError, ValueError, EOFError) as error:
        raise CheckpointError(f"cannot read {folder}, which was made just now ({error}); check the disk") from None


def make_folder_whole(folder: Path, fill: Callable[[Path], None]) -> None:
    """Make `folder` atomically: fill a hidden folder beside it, add a manifest, and rename it into place.

    If another process has made `folder` in the meantime, that one stays.

    Raises:
        WriteError: the system refuses; nothing is left behind.
    """
    try:
        with hidden_folder(folder.parent, folder.name) as temporary:
            try:
                fill(temporary)
            except WriteError as error:
                raise WriteError(str(error).replace(str(temporary), str(folder))) from None
            manifest = json_text(_manifest(temporary))
            (temporary / _MANIFEST).write_text(manifest, encoding="utf-8")
            for path in temporary.rglob("*"):
                # Some libraries write files with mode 0600, which the rest of a group cannot read.
                path.chmod(0o755 if path.is_dir() else 0o644)
                sync(path)
            sync(temporary)
            with lock(folder.parent):
                if not os.path.lexists(folder):  # another process may have made the same content meanwhile
                    temporary.replace(folder)
            sync(folder.parent)
    except OSError as error:
        raise WriteError(f"cannot write {folder} ({reason_of(error)})") from None


def _discard(folder: Path, identity: tuple[int, ...]) -> bool:
    """Remove a damaged entry and return True; return False if another process has already replaced it.

    Args:
        identity: the `_identity` of the damaged entry.

    Raises:
        WriteError: the system refuses.
    """
    try:
        with hidden_folder(folder.parent, folder.name) as trash, lock(folder.parent):
            if _identity(folder) != identity:
                return False
            folder.rename(trash / folder.name)
            return True
    except OSError as error:
        raise WriteError(
            f"{folder} is damaged and cannot be replaced ({reason_of(error)}); remove it, or give another --cache_dir="
        ) from None


def _identity(path: Path) -> tuple[int, ...] | None:
    """Return numbers that tell this file or folder from a later one at the same path; None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    # the inode number alone may be reused once its folder is removed
    return status.st_dev, status.st_ino, status.st_ctime_ns


def _manifest(folder: Path) -> dict[str, _FileRecord]:
    """Return the record of each file, by its path in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): {
            "bytes": (size := path.stat().st_size),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if size <= _HASHED_BYTES else None,
        }
        for path in paths
    }


def _check_manifest(folder: Path) -> None:
    """Check the folder's files against its manifest.

    Raises:
        DamagedError: a file is missing or differs, or the manifest is not JSON.
        OSError: the manifest or a file cannot be read.
    """
    try:
        entries = json.loads((folder / _MANIFEST).read_text(encoding="utf-8")).items()
    except (ValueError, AttributeError):
        raise DamagedError(f"{_MANIFEST} is not readable") from None
    for name, entry in entries:
        path = folder / name
        if not path.is_file():
            raise DamagedError(f"{name} is missing")
        size = path.stat().st_size
        if size != entry["bytes"]:
            raise DamagedError(f"{name} has {size} bytes instead of {entry['bytes']}")
        if entry["sha256"] and hashlib.sha256(path.read_bytes()).hexdigest() != entry["sha256"]:
            raise DamagedError(f"{name} has changed")
