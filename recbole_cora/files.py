"""Files written whole or not at all, and content keys for what is cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file through a temporary neighbour, fsync, rename: a reader sees the old file or the new.

    `write(temporary)` must create the file `temporary`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        _sync(temporary)
        temporary.chmod(0o644)  # mkstemp's 0600 would hide results from the rest of a group
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    write_whole(path, lambda temporary: temporary.write_text(json_text(value), encoding="utf-8"))


def json_text(value: Any) -> str:
    """`value` as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def make_folder_whole(folder: Path, fill: Callable[[Path], None], temporary: Path | None = None) -> None:
    """Fill a new folder beside `folder` (`temporary`, if given), then rename it into place; an existing one is kept."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if temporary is None:
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    temporary.mkdir(exist_ok=True)
    try:
        fill(temporary)
        for file in temporary.rglob("*"):
            if file.is_file():
                _sync(file)
        temporary.chmod(0o755)
        if not folder.exists():  # another process may have made the same content meanwhile
            temporary.replace(folder)
            _sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_files(folder: Path, fill: Callable[[Path], None]) -> None:
    """Write several files of `folder` as one: after a crash at any moment the old ones are there, or the new ones.

    `fill(hidden)` writes them all to a hidden folder; renaming that is the commit. What a crash then leaves to be
    moved is moved by `finish_replacing`, which readers of such files call first.
    """
    folder.mkdir(parents=True, exist_ok=True)
    finish_replacing(folder)
    shutil.rmtree(folder / _UNFINISHED, ignore_errors=True)  # of a run that was killed while writing
    make_folder_whole(folder / _COMMITTED, fill, folder / _UNFINISHED)
    finish_replacing(folder)


def finish_replacing(folder: Path) -> None:
    """Move what `replace_files` has committed into place."""
    committed = folder / _COMMITTED
    if committed.is_dir():
        for file in committed.iterdir():
            file.replace(folder / file.name)
        _sync(folder)
        committed.rmdir()


_UNFINISHED, _COMMITTED = ".unfinished", ".committed"


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
