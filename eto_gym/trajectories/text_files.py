"""Text files as people have them: any Unicode encoding, any line end, compressed or not."""

from __future__ import annotations

import codecs
import gzip
import io
import os
import re
import stat
import zlib
from pathlib import Path
from typing import BinaryIO

from eto_gym.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins as UTF-16's does: looked for first
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_GZIP = b"\x1f\x8b"
_OTHER = {
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"BZh": "compressed by bzip2",
    b"\xfd7zXZ\x00": "compressed by xz",
    b"\x28\xb5\x2f\xfd": "compressed by zstd",
    b"SQLite format 3": "an SQLite database",
}
"""How files begin that hold no text, and what they are."""

LINE_END = re.compile(r"\r\n|\n|\r")
"""What ends a line, and nothing else does."""

_ESCAPED = re.compile("[\udc80-\udcff]")


def read_text(path: str | Path, *, lenient: bool = False) -> str:
    """Read a text file: UTF-8, UTF-16 or UTF-32, with or without a byte order mark, or gzip of it.

    Args:
        path: The file.
        lenient: Keep bytes that are no UTF-8 as surrogates (U+DC80 to U+DCFF) instead of refusing
            the file; see `damaged_byte`.

    Raises:
        DataError: There is no such file, it cannot be read, or it is no text.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            if _is_endless(file):
                raise DataError(f"{path} is a device: expected a file")
            data = file.read()
    except FileNotFoundError as err:
        raise DataError(f"there is no file {path}") from err
    except (OSError, ValueError) as err:  # a name with a NUL is a ValueError
        raise DataError(f"could not read {path}: {getattr(err, 'strerror', None) or err}") from err
    if data.startswith(_GZIP):
        data = _unzipped(data, path)
    return decode_text(data, name=str(path), lenient=lenient)


def _is_endless(file: BinaryIO) -> bool:
    """Whether a file is a device that may never end, as /dev/zero does; a terminal ends by hand."""
    found = os.fstat(file.fileno())
    null = Path(os.devnull)
    return stat.S_ISCHR(found.st_mode) and not (
        file.isatty() or (null.exists() and os.path.samestat(found, null.stat()))
    )


def decode_text(data: bytes, *, name: str, lenient: bool = False) -> str:
    """Decode what a text file holds; see `read_text`.

    Raises:
        DataError: It is no text.
    """
    for magic, kind in _OTHER.items():
        if data.startswith(magic):
            raise DataError(f"{name} is {kind}: expected text, as it is or compressed by gzip")
    encoding, mark = _encoding(data)
    errors = "surrogateescape" if lenient and encoding == "utf-8" else "strict"
    try:
        return data[mark:].decode(encoding, errors)
    except UnicodeDecodeError as err:
        line = data[: mark + err.start].count(b"\n") + 1
        raise DataError(
            f"{name}:{line}: expected text in {encoding.upper()}, got the byte "
            f"0x{data[mark + err.start]:02x} ({err.reason}): save the file as UTF-8"
        ) from err


def damaged_byte(text: str) -> int | None:
    """Return the first byte that was no UTF-8 in what `read_text` read leniently, if any."""
    found = None if text.isascii() else _ESCAPED.search(text)
    return ord(found.group()) - 0xDC00 if found else None


def split_lines(text: str) -> list[str]:
    r"""Split at the ends of lines: `\n`, `\r\n` or `\r`, and at nothing else.

    Example:
        >>> split_lines("a\u2028b\r\nc\rd\n")
        ['a\u2028b', 'c', 'd']
    """
    lines = LINE_END.split(text)
    return lines[:-1] if not lines[-1] else lines


def _encoding(data: bytes) -> tuple[str, int]:
    """Return the encoding, and the length of the byte order mark."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return encoding, len(mark)
    # The first character of our files is ASCII, and none of them is NUL.
    first = data[:4]
    if len(first) == 4 and first.count(0) == 3:
        if first[0]:
            return "utf-32-le", 0
        if first[3]:
            return "utf-32-be", 0
    if len(data) >= 2 and len(data) % 2 == 0:
        if data[0] and not data[1]:
            return "utf-16-le", 0
        if data[1] and not data[0]:
            return "utf-16-be", 0
    return "utf-8", 0


def _unzipped(data: bytes, path: Path) -> bytes:
    try:
        # It may hold thousands of members, one after the other; here, not one copies the rest.
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as file:
            return file.read()
    except EOFError as err:
        raise DataError(f"{path} is cut off: its gzip stream does not end") from err
    except (OSError, zlib.error) as err:
        raise DataError(f"{path} is no gzip file as a whole: {err}") from err
