"""Files and folders written whole or not at all, and the cache: folders by content key that know what they hold."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from recbole_cora.errors import CheckpointError, DamagedError, WriteError

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


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file through a temporary neighbour, fsync, rename: a reader sees the old file or the new.

    `write(temporary)` must create the file `temporary`.

    Raises:
        WriteError: the system refuses; the old file is as it was.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        _sync(temporary)
        temporary.chmod(0o644)  # mkstemp's 0600 would hide results from the rest of a group
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        raise WriteError(f"cannot write {path} ({_reason(error)})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(json_text(value), encoding="utf-8"))


def json_text(value: Any) -> str:
    """`value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


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
            raise CheckpointError(f"cannot read {folder} ({_reason(error)}); give another --cache_dir=") from None
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
                _sync(path)
            _sync(temporary)
            with locked(folder.parent):
                if not os.path.lexists(folder):  # another process may have made the same content meanwhile
                    temporary.replace(folder)
            _sync(folder.parent)
    except OSError as error:
        raise WriteError(f"cannot write {folder} ({_reason(error)})") from None


@contextmanager
def hidden_folder(parent: Path, name: str) -> Iterator[Path]:
    """A new hidden folder in `parent`, to be filled and then renamed; if it is still there at the end, it is removed.

    This process holds it (see `held`), under its later name too, until the context ends. Hidden folders that killed
    processes of this machine have left in `parent` are removed first; those of living ones are held, and stay.

    Raises:
        OSError: the system refuses.
    """
    parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.uname().nodename}-"  # locks need not be seen by other machines that share the disk
    with ExitStack() as holds:
        with locked(parent):  # nobody may see the new folder before it is held
            _sweep(parent, re.compile(rf"\..+\.{re.escape(mark)}[a-z0-9_]{{8}}"))
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}.{mark}", dir=parent))
            holds.enter_context(held(temporary))
        try:
            temporary.chmod(0o755)  # mkdtemp's 0700 would hide results from the rest of a group
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: Path, remedy: str) -> None:
    """Make `folder` where it is missing and write something in it, of which nothing is left.

    Raises:
        WriteError: the system refuses; `remedy` ends the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise WriteError(f"cannot write in {folder} ({_reason(error)}); {remedy}") from None


def _sweep(parent: Path, pattern: re.Pattern[str]) -> None:
    for left in parent.iterdir():
        if pattern.fullmatch(left.name):
            # Its owner may be removing it right now, or be another user.
            with suppress(OSError), held(left) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)


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
            f"{folder} is damaged and cannot be replaced ({_reason(error)}); remove it, or give another --cache_dir="
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


def _reason(error: OSError) -> str:
    """Why the system refuses, in a few words."""
    return "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)


def replace_files(folder: Path, fill: Callable[[Path], None], stale: Iterable[str] = ()) -> None:
    """Write several files of `folder` as one: after a crash at any moment the old ones are there, or the new ones.

    `fill(hidden)` writes them all to a hidden folder; renaming that is the commit. What a crash then leaves to be
    moved is moved by `finish_replacing`, which readers of such files call first.

    Args:
        stale: files that go, where `fill` writes none of their name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        _finish(folder)
        temporary = folder / _UNFINISHED
        shutil.rmtree(temporary, ignore_errors=True)  # of a run that was killed while writing
        temporary.mkdir()
        try:
            fill(temporary)
            gone = [name for name in stale if not (temporary / name).exists()]
            (temporary / _STALE).write_text("\n".join(gone), encoding="utf-8")
            for file in temporary.iterdir():
                _sync(file)
            _sync(temporary)
            temporary.replace(folder / _COMMITTED)
            _sync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _finish(folder)


def finish_replacing(folder: Path) -> None:
    """Move what `replace_files` has committed into place."""
    if (folder / _COMMITTED).is_dir():
        with locked(folder):
            _finish(folder)


def _finish(folder: Path) -> None:
    committed = folder / _COMMITTED
    if not committed.is_dir():
        return
    stale = committed / _STALE  # moved last: it names what is left to do
    for file in committed.iterdir():
        if file != stale:
            file.replace(folder / file.name)
    if stale.is_file():
        for name in stale.read_text(encoding="utf-8").split():
            (folder / name).unlink(missing_ok=True)
        stale.unlink()
    _sync(folder)
    committed.rmdir()


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One process at a time; the lock is on the folder itself and goes with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Whether the folder is this caller's alone, until the context or the process ends; False: another holds it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


_UNFINISHED, _COMMITTED, _STALE = ".unfinished", ".committed", ".stale"


def content_key(*parts: Any) -> str:
    """Twelve hex digits that change when any of the JSON-able or bytes `parts` changes."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:12]


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
