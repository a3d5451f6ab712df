"""Files and folders written whole or not at all, locks on folders, and keys of content."""

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
from typing import Any

from recbole_cora.errors import WriteError


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
        sync(temporary)
        temporary.chmod(0o644)  # mkstemp's 0600 would hide results from the rest of a group
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        raise WriteError(f"cannot write {path} ({reason_of(error)})") from None
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(json_text(value), encoding="utf-8"))


def json_text(value: Any) -> str:
    """`value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


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
        raise WriteError(f"cannot write in {folder} ({reason_of(error)}); {remedy}") from None


def _sweep(parent: Path, pattern: re.Pattern[str]) -> None:
    for left in parent.iterdir():
        if pattern.fullmatch(left.name):
            # Its owner may be removing it right now, or be another user.
            with suppress(OSError), held(left) as alone:
                if alone:
                    shutil.rmtree(left, ignore_errors=True)


def reason_of(error: OSError) -> str:
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
                sync(file)
            sync(temporary)
            temporary.replace(folder / _COMMITTED)
            sync(folder)
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
    sync(folder)
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


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
