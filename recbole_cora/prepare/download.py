"""Download a file: resume a partial download, check the content, and let the file appear whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

from recbole_cora.errors import DataError
from recbole_cora.files import lock
from recbole_cora.progress import Progress

_BLOCK = 1 << 18
_TIMEOUT_S = 30


def download(url: str, target: Path, md5: str | None, remedy: str, show_progress: bool = True) -> Path:
    """Fetch `url` into `target`. Keep an existing `target`; resume a partial download.

    Args:
        md5: the hex digest that the publisher states; None if there is none: then only the length is checked.
        remedy: what the user can do instead, for the error message.

    Raises:
        DataError: there is no connection, or the content is not as expected; it is then removed.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with lock(target.parent):  # a second process waits, then finds the file
            if target.is_file():
                return target
            _fetch(url, part, show_progress)
            if md5 is not None and (digest := _md5(part)) != md5:
                part.unlink()
                raise DataError(
                    f"{url} is not the expected file (its md5 is {digest}, not {md5}); try again, or {remedy}"
                )
            part.replace(target)
    except (OSError, urllib.error.URLError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"cannot download {url} ({reason}); {remedy}") from None
    return target


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _fetch(url: str, part: Path, show_progress: bool) -> None:
    """Download into `part`. Resume an earlier download if the server supports it."""
    size = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={size}-"} if size else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # no bytes are missing: the file is complete
            return
        raise
    with response:
        if response.status != 206:  # the server starts from the beginning
            size = 0
        rest = response.headers.get("Content-Length")
        total = size + int(rest) if rest else None
        title = f"download {part.name.strip('.').removesuffix('.part')}"
        with (
            part.open("ab" if size else "wb") as file,
            Progress(title, "B", total, done=size, show=show_progress) as bar,
        ):
            while block := response.read(_BLOCK):
                file.write(block)
                bar.update(len(block))
        if total is not None and part.stat().st_size < total:
            raise OSError(f"the connection ended after {part.stat().st_size:,} of {total:,} bytes; run it again")
