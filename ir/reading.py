"""Reads files that a user names: pipes as far as they go, and nothing without end."""

from __future__ import annotations

import errno
import io
import os
import stat
import sys
from pathlib import Path
from typing import Protocol

LARGEST = 1 << 30
"""Bytes beyond which a text is a mistake."""
LARGEST_MODEL = 2**31 - 1
"""Bytes of the largest message that protobuf can hold; bigger models keep their weights outside."""
_PIECE = 1 << 20


class Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def read_bytes(path: str | Path, most: int = LARGEST) -> bytes:
    """The bytes of a file or a pipe, of stdin for `-`.

    Raises OSError where it cannot be read, and for devices and what has more bytes; its `strerror` says what is wrong.
    """
    if str(path) == "-":
        return read_within(sys.stdin.buffer, most)
    with open(path, "rb") as stream:
        found = os.fstat(stream.fileno())
        if stat.S_ISBLK(found.st_mode) or (stat.S_ISCHR(found.st_mode) and not stream.isatty()):
            raise OSError(errno.EINVAL, "it is a device")
        if found.st_size > most:
            raise _too_large(most)
        return read_within(stream, most)


def read_text(path: str | Path, encoding: str = "utf-8") -> str:
    """The same as text, whose lines end as Python's do. Raises OSError and UnicodeDecodeError."""
    return io.TextIOWrapper(io.BytesIO(read_bytes(path)), encoding).read()


def read_within(stream: Readable, most: int) -> bytes:
    """What is left of a stream. Raises OSError where that is more than so many bytes."""
    found = bytearray()
    while piece := stream.read(_PIECE):
        found += piece
        if len(found) > most:
            raise _too_large(most)
    return bytes(found)


def _too_large(most: int) -> OSError:
    return OSError(errno.EFBIG, f"it has more than {most / 2**20:.0f} MiB")
