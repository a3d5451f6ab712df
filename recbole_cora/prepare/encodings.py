"""Find the encoding of a text file: UTF-8, UTF-16 with its mark, or Windows-1252, which contains latin-1's letters."""

from __future__ import annotations

import codecs
from pathlib import Path

from recbole_cora.errors import SettingError
from recbole_cora.prepare.lines import lines_of

UTF_8, UTF_16, WINDOWS = "utf-8", "utf-16", "cp1252"
#: Characters that hardly any text in Windows-1252 has: bytes that become one of them are rather damage.
_UNLIKELY = set("ÿ×÷¹²³¼½¾¬¦¨¯¸¤¢¥¶ˆ˜‡†ƒ")
_MOST_BYTES = 1 << 26


def find_encoding(path: Path, member: str | None = None) -> str:
    """Return the encoding of a file, judged by its first 64 MB.

    Lines that are not UTF-8 make it Windows-1252 only if they are the majority of the lines with other than ASCII
    characters, and only if they read as plausible text: a single damaged byte does not.
    """
    windows = others = size = 0
    for number, line in enumerate(lines_of(path, show_progress=False, member=member)):
        if number == 0 and line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            return UTF_16
        size += len(line)
        if size > _MOST_BYTES:
            break
        if line.isascii():
            continue
        try:
            line.decode(UTF_8)
            others += 1
        except UnicodeDecodeError:
            if _is_plausible(line):
                windows += 1
            else:
                others += 1
    return WINDOWS if windows > others else UTF_8


def check_encoding(name: str) -> str:
    """Return the usual name of an encoding. Raises SettingError if Python knows none of this name."""
    try:
        usual = codecs.lookup(name).name
        b"a".decode(usual)
    except (LookupError, ValueError):
        raise SettingError(f"{name!r} is no encoding; expected one such as utf-8, latin-1, cp1252 or utf-16") from None
    return UTF_16 if usual.startswith("utf-16") else usual


def _is_plausible(line: bytes) -> bool:
    try:
        text = line.decode(WINDOWS)
    except UnicodeDecodeError:
        return False
    return not _UNLIKELY & set(text)
