"""Read the lines of a raw file with a progress bar: plain, gzipped, or a member of a zip archive."""

from __future__ import annotations

import codecs
import gzip
import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from recbole_cora.errors import DataError
from recbole_cora.progress import Progress

_LINES_PER_UPDATE = 10_000


def lines_of(
    path: Path, show_progress: bool = True, member: str | None = None, encoding: str | None = None
) -> Iterator[bytes]:
    """Yield the lines without their line ends. The progress bar counts the bytes of the file or of the member.

    Args:
        member: the name of a file in the zip archive `path`, in any of its folders.
        encoding: an encoding in which a line does not end with the byte 10, such as UTF-16; the lines are yielded in
            UTF-8.

    Raises:
        DataError: there is no such file or member, or it is damaged.
    """
    try:
        with ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(path.open("rb"))
            stream = file
            if member is not None:
                archive = stack.enter_context(zipfile.ZipFile(file))
                name = next((name for name in archive.namelist() if Path(name).name == member), None)
                if name is None:
                    raise DataError(f"{path} holds no {member}; is it the right archive?")
                stream = stack.enter_context(archive.open(name))
            elif file.read(2) == b"\x1f\x8b":
                file.seek(0)
                stream = stack.enter_context(gzip.open(file))  # type: ignore[arg-type]
            else:
                file.seek(0)
            total = None if member else path.stat().st_size
            bar = stack.enter_context(Progress(member or path.name, "B", total, show=show_progress))
            lines: Iterable[bytes] = stream
            if encoding is not None:
                texts = io.TextIOWrapper(stream, encoding, errors="replace", newline="\n")  # type: ignore[type-var]
                lines = (text.encode() for text in texts)
            for number, line in enumerate(lines, start=1):
                if number % _LINES_PER_UPDATE == 0:
                    bar.update((stream if member else file).tell() - bar.done)
                yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path} is damaged, truncated or encrypted ({error}); download it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); check the path") from None
