"""Atomic writes of files and folders, locks on folders, and content keys."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from recbole_cora.errors import WriteError

_UNFINISHED, _COMMITTED, _STALE = ".unfinished", ".committed", ".stale"


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically (temporary file beside it, fsync, rename): a reader sees the old file or the new one.

    Args:
        write: gets the path of the temporary file and must create that file.

    Raises:
        WriteError: the system refuses; the old file is unchanged.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        write(temporary)
        sync(temporary)
        temporary.chmod(0o644)  # mkstemp's 0600 would hide results from the rest of a group
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise WriteError(f"cannot write {path} ({reason_of(error)})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write `value` atomically as indented JSON."""
    write_whole(path, lambda temporary: temporary.write_text(json_text(value), encoding="utf-8"))


def json_text(value: object) -> str:
    """Return `value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


@contextmanager
def hidden_folder(parent: Path, name: str) -> Iterator[Path]:
    """Make a hidden folder in `parent`, to be filled and then renamed; remove it at the end if it was not renamed.

    The folder stays locked (see `try_lock`) until the context ends, also under its new name. Hidden folders that killed
    processes of this machine have left in `parent` are removed first. Those of live processes are locked, and stay.

    Raises:
        OSError: the system refuses.
    """
    parent.mkdir(parents=True, exist_ok=True)
    mark = f"{os.uname().nodename}-"  # other machines that share the disk may not see our locks
    with ExitStack() as locks:
        with lock(parent):  # no other process may see the new folder before it is locked
            _sweep(parent, re.compile(rf"\..+\.{re.escape(mark)}[a-z0-9_]{{8}}"))
            temporary = Path(tempfile.mkdtemp(prefix=f".{name}.{mark}", dir=parent))
            locks.enter_context(try_lock(temporary))
        try:
            temporary.chmod(0o755)  # mkdtemp's 0700 would hide results from the rest of a group
            yield temporary
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_writable(folder: Path, remedy: str) -> None:
    """Check that files can be written in `folder`, which is made if it is missing; nothing is left in it.

    Raises:
        WriteError: the system refuses; `remedy` ends the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        raise WriteError(f"cannot write in {folder} ({reason_of(error)}); {remedy}") from None


def _sweep(parent: Path, pattern: re.Pattern[str]) -> None:
    """Remove the folders in `parent` whose names match and that no live process has locked."""
    for leftover in parent.iterdir():
        if pattern.fullmatch(leftover.name):
            # OSError: its owner is removing it right now, or is another user.
            with suppress(OSError), try_lock(leftover) as is_ours:
                if is_ours:
                    shutil.rmtree(leftover, ignore_errors=True)


def reason_of(error: OSError) -> str:
    """Return the reason for the system's refusal, in a few words."""
    return "no space left" if error.errno == errno.ENOSPC else error.strerror or str(error)


def replace_files(folder: Path, fill: Callable[[Path], None], stale: Iterable[str] = ()) -> None:
    """Write several files of `folder` as one: after a crash at any moment, all are old or all are new.

    The files are written to a hidden folder first; renaming that folder is the commit. If a crash follows before all
    files have been moved into place, `finish_replacing` moves the rest: readers of such files must call it first.

    Args:
        fill: gets the hidden folder and writes all files into it.
        stale: names of files to remove, unless `fill` writes a new one of that name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder):
        _finish(folder)
        temporary = folder / _UNFINISHED
        shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed while writing
        temporary.mkdir()
        try:
            fill(temporary)
            to_remove = [name for name in stale if not (temporary / name).exists()]
            (temporary / _STALE).write_text("\n".join(to_remove), encoding="utf-8")
            for file in temporary.iterdir():
                sync(file)
            sync(temporary)
            temporary.replace(folder / _COMMITTED)
            sync(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        _finish(folder)


def finish_replacing(folder: Path) -> None:
    """Finish an interrupted `replace_files`: move the files that it has committed into place."""
    if (folder / _COMMITTED).is_dir():
        with lock(folder):
            _finish(folder)


def _finish(folder: Path) -> None:
    commit = folder / _COMMITTED
    if not commit.is_dir():
        return
    stale = commit / _STALE  # handled last: it lists the files that are still to be removed
    for file in commit.iterdir():
        if file != stale:
            file.replace(folder / file.name)
    if stale.is_file():
        for name in stale.read_text(encoding="utf-8").splitlines():
            (folder / name).unlink(missing_ok=True)
        stale.unlink()
    sync(folder)
    commit.rmdir()


@contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Lock a folder, waiting until it is free. The lock is on the folder itself and ends with the process."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_lock(folder: Path) -> Iterator[bool]:
    """Lock a folder until the context or the process ends; yield False, without waiting, if another has locked it."""
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


def content_key(*parts: object) -> str:
    """Return twelve hex digits that change when any of `parts` changes; each is bytes or JSON-serialisable."""
    digest = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode()
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()[:12]


def sync(path: Path) -> None:
    """Flush a file or folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
