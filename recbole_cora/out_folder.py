"""The folders that `--out=` and `--resume=` of `compare` and `tune` name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from recbole_cora.errors import WriteError


def wrong_folder(key: str, value: Any) -> list[str]:
    """Say what is wrong with the value of `--key=`: nothing where it may be the name of a folder, or is None."""
    if isinstance(value, (bool, dict, list)) or "\0" in str(value):
        return [f"--{key} is {value!r}; expected the name of a folder, such as results/first"]
    return []


def make_out_folder(folder: Path) -> None:
    """Make the folder; check that files can be written into it before anything long is begun.

    Raises:
        WriteError: the system refuses, as with a read-only disk or a file of that name.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "no permission to write there")
    except OSError as error:
        raise WriteError(f"cannot write into {str(folder)[:200]} ({error.strerror}); give another --out=") from None
