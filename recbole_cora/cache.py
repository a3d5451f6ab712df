"""The cache: folders by content key that know what they hold, and are made again where they are damaged."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from recbole_cora.errors import CheckpointError, DamagedError, WriteError
from recbole_cora.files import hidden_folder, json_text, locked, reason_of, sync

log = logging.getLogger()

_T = TypeVar("_T")

#: Lists the files of a cache entry with their sizes and checksums; written last.
_MANIFEST = "manifest.json"
#: Files of a cache entry up to this size are checked by SHA-256 on each use (0.1 s), larger ones by their size alone.
_HASHED_BYTES = 64 << 20
#: What reading a damaged cache entry may raise.
_DAMAGE = (
    FileNotFoundError, NotADirectoryError, IsADirectoryError, ValueError, EOFError, KeyError, TypeError, IndexError,
    CheckpointError,
)  # fmt: skip


def cached(folder: Path, fill: Callable[[Path], None], read: Callable[[Path], _T]) -> _T:
    """Return what `read` makes of a cache entry, which `fill` makes first where there is none.

    An entry that is damaged is made again, with a warning: a file is missing, has another size or another checksum
    (large files: size only), or `read` fails. Several processes may do this at once.

    Args:
        folder: the entry. Its name holds a key of all that its content depends on.
        fill: writes the entry's files into the new folder that it gets.
        read: reads them; it raises what reading a damaged file raises (CheckpointError, OSError, ValueError, ...).

    Raises:
        WriteError: the entry cannot be made; nothing of it is left.
        CheckpointError: the entry cannot be read, though it is not damaged or has just been made.
    """
    while (seen := _identity(folder)) is not None:
        try:
            _check_manifest(folder)
            return read(folder)
        except _DAMAGE as error:
            why = " ".join(str(error).split()) or type(error).__name__
            if _discard(folder, seen):
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
    """Fill a new folder beside `folder`, add its manifest, and rename it into place; an existing `folder` is kept.

    Raises:
        WriteError: the system refuses; nothing is left.
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
                path.chmod(0o755 if path.is_dir() else 0o644)  # libraries write 0600, which hides files from a group
                sync(path)
            sync(temporary)
            with locked(folder.parent):
                if not os.path.lexists(folder):  # another process may have made the same content meanwhile
                    temporary.replace(folder)
            sync(folder.parent)
    except OSError as error:
        raise WriteError(f"cannot write {folder} ({reason_of(error)})") from None


def _discard(folder: Path, seen: tuple[int, ...]) -> bool:
    """Remove a damaged entry, if it is still the one that was `seen`: another process may have made it again.

    Raises:
        WriteError: the system refuses.
    """
    try:
        with hidden_folder(folder.parent, folder.name) as trash, locked(folder.parent):
            if _identity(folder) != seen:
                return False
            folder.rename(trash / folder.name)
            return True
    except OSError as error:
        raise WriteError(
            f"{folder} is damaged and cannot be replaced ({reason_of(error)}); remove it, or give another --cache_dir="
        ) from None


def _identity(path: Path) -> tuple[int, ...] | None:
    """Tells what is at `path` now from what is there later; None: nothing that can be reached."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_ctime_ns  # a number is used again once its folder is removed


def _manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Size in bytes and SHA-256 (None for a large file) of each file, by its path in the folder."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): {
            "bytes": (size := path.stat().st_size),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest() if size <= _HASHED_BYTES else None,
        }
        for path in paths
    }


def _check_manifest(folder: Path) -> None:
    """Raise DamagedError, or what reading raises, where the folder's files are not those of its manifest."""
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
