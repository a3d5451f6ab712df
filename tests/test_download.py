"""Laws of a download, tested with a small local server."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from recbole_cora.errors import DataError
from recbole_cora.prepare.download import download

CONTENT = bytes(range(256)) * 4096
MD5 = hashlib.md5(CONTENT).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    """Serves CONTENT from the requested offset. /cut breaks off half-way; /whole ignores the offset."""

    ranges: list[str | None] = []  # noqa: RUF012  (the Range header of each request)

    def do_GET(self) -> None:
        header = self.headers["Range"]
        self.ranges.append(header)
        start = int(header.removeprefix("bytes=").removesuffix("-")) if header and self.path != "/whole" else 0
        if start >= len(CONTENT):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        stop = len(CONTENT) // 2 if self.path == "/cut" else len(CONTENT)
        self.wfile.write(CONTENT[start:stop])

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    _Handler.ranges.clear()
    yield f"http://127.0.0.1:{running.server_address[1]}"
    running.shutdown()


def _get(url: str, target: Path, md5: str = MD5) -> Path:
    return download(url, target, md5, "fetch it by hand", show_progress=False)


def test_a_file_comes_whole_and_once(server: str, tmp_path: Path) -> None:
    """An existing file is not requested again."""
    assert _get(f"{server}/a", tmp_path / "x/a.zip").read_bytes() == CONTENT
    _get(f"{server}/a", tmp_path / "x/a.zip")
    assert len(_Handler.ranges) == 1 and [p.name for p in (tmp_path / "x").iterdir()] == ["a.zip"]


def test_a_broken_download_goes_on_where_it_stopped(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ended after"):
        _get(f"{server}/cut", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()
    assert _get(f"{server}/a", tmp_path / "a.zip").read_bytes() == CONTENT
    assert _Handler.ranges[-1] == f"bytes={len(CONTENT) // 2}-"


@pytest.mark.parametrize("path", ["/a", "/whole"])
def test_what_is_there_is_used_or_replaced(server: str, tmp_path: Path, path: str) -> None:
    """A complete part file needs no more bytes. A server that cannot resume is read from the beginning."""
    (tmp_path / ".a.zip.part").write_bytes(CONTENT if path == "/a" else CONTENT[:100])
    assert _get(f"{server}{path}", tmp_path / "a.zip").read_bytes() == CONTENT


def test_another_content_is_refused_and_removed(server: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not the expected file"):
        _get(f"{server}/a", tmp_path / "a.zip", md5="0" * 32)
    assert list(tmp_path.iterdir()) == []


def test_no_connection_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fetch it by hand"):
        _get("http://127.0.0.1:9/a.zip", tmp_path / "a.zip")
