"""Lines of a raw file, plain, gzipped, or a member of a zip archive, under one progress bar."""

from __future__ import annotations

import codecs
import gzip
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO

from tqdm import tqdm

from recbole_cora.errors import DataError

_BEAT = 10_000


def lines_of(path: Path, show_progress: bool = True, member: str | None = None) -> Iterator[bytes]:
    """The lines without their end; the bar counts bytes of the file as it lies on disk.

    Args:
        member: of the zip archive `path`, found by its file name in any folder of it.

    Raises:
        DataError: no such file or member, or a damaged archive.
    """
    try:
        with ExitStack() as stack:
            file: IO[bytes] = stack.enter_context(path.open("rb"))
            stream = file
            if member is not None:
                archive = stack.enter_context(zipfile.ZipFile(file))
                found = next((name for name in archive.namelist() if Path(name).name == member), None)
                if found is None:
                    raise DataError(f"{path} holds no {member}; is it the right archive?")
                stream = stack.enter_context(archive.open(found))
            elif file.read(2) == b"\x1f\x8b":
                file.seek(0)
                stream = stack.enter_context(gzip.open(file))  # type: ignore[arg-type]
            else:
                file.seek(0)
            total = None if member else path.stat().st_size
            bar = stack.enter_context(
                tqdm(total=total, desc=member or path.name, unit="B", unit_scale=True, disable=not show_progress)
            )
            for number, line in enumerate(stream, start=1):
                if number % _BEAT == 0:
                    bar.update((stream if member else file).tell() - bar.n)
                yield (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).rstrip(b"\r\n")
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path} is damaged, cut short or locked ({error}); remove it and download it again") from None
    except OSError as error:
        raise DataError(f"cannot read {path} ({error.strerror}); check the path") from None
