"""What fills a weight, as plain data: a file's name, offset and fingerprint, a seed, or a blob of a small constant.

Programs do not carry weights. A weight in a file is named with the size of that file and a fingerprint: the SHA-256 of
the first and the last 4 KiB of the weight's own bytes (shortened to 16 hexadecimal digits). That is cheap for terabytes
and finds a replaced or truncated file, though not a change of a few bytes in the middle of a large weight.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.op import Array
from pimc.ir.quantized import Dequantized, Nibbles
from pimc.ir.types import DType
from pimc.ir.weights import Contents, External, Inline, Missing, Random, Reshaped, Sharded, Sliced
from pimc.record import record

EDGE_BYTES = 4096

Plain = Mapping[str, Any]


@dataclass
class Blobs:
    """Byte strings of a program, each kept once, by number."""

    items: list[bytes] = field(default_factory=list)
    _numbers: dict[bytes, int] = field(default_factory=dict)

    def add(self, data: bytes) -> int:
        if data not in self._numbers:
            self._numbers[data] = len(self.items)
            self.items.append(data)
        return self._numbers[data]


@record
class FileReference:
    """Contents in a file that is named by a stored program; checked against size and fingerprint when read.

    `file_bytes` 0: the file was not there when the program was made, and nothing is checked.
    """

    path: str
    offset: int
    dtype: DType
    shape: tuple[int, ...]
    file_bytes: int
    fingerprint: str
    beside: Path | None = field(default=None, compare=False, repr=False)
    """The folder of the program file: relative paths are looked for there first, then where the user is."""

    def array(self) -> Array:
        path = self.found()
        if self.file_bytes:
            size = path.stat().st_size if path.exists() else self.file_bytes
            weight_bytes = _byte_count(self.dtype, self.shape)
            if size != self.file_bytes or _fingerprint(path, self.offset, weight_bytes) != self.fingerprint:
                raise fail(
                    Kind.WEIGHT_MISSING,
                    f"{path} is not the weight file that the program was compiled with",
                    help="compile again, or give the right file",
                )
        return External(path, self.offset, self.dtype, self.shape).array()

    def found(self) -> Path:
        """Where the file is, or the path as written."""
        path = Path(self.path)
        for candidate in () if self.beside is None else (self.beside / path, self.beside / path.name):
            if candidate.is_file() and not (path.is_absolute() and path.is_file()):
                return candidate
        return path

    def describe(self) -> str:
        return f"{Path(self.path).name}+{self.offset}"


def plain(contents: Contents, blobs: Blobs) -> dict[str, Any]:
    """Contents as data that JSON can hold. Large data is never read, small data goes to `blobs`."""
    match contents:
        case FileReference():
            return _file(contents)
        case External(path=path, offset=offset, dtype=dtype, shape=shape):
            size, mark = _identity(path, offset, _byte_count(dtype, shape))
            return _file(FileReference(path.as_posix(), offset, dtype, shape, size, mark))
        case Random(name=name, dtype=dtype, shape=shape, scale=scale):
            return {"random": name, "dtype": dtype.text, "shape": list(shape), "scale": scale}
        case Missing(name=name):
            return {"missing": name}
        case Sharded(whole=whole, axis=axis, count=count, rank=rank):
            return {"shard": plain(whole, blobs), "axis": axis, "count": count, "rank": rank}
        case Sliced(whole=whole, axis=axis, start=start, stop=stop) if _is_reference(whole):
            return {"slice": plain(whole, blobs), "axis": axis, "start": start, "stop": stop}
        case Reshaped(whole=whole, shape=shape) if _is_reference(whole):
            return {"reshape": plain(whole, blobs), "shape": list(shape)}
        case Nibbles(packed=packed, dtype=dtype, shape=shape):
            return {"nibbles": plain(packed, blobs), "dtype": dtype.text, "shape": list(shape)}
        case Dequantized():
            return _dequantized(contents, blobs)
    return _inline(contents, blobs)


def _dequantized(contents: Dequantized, blobs: Blobs) -> dict[str, Any]:
    zero = contents.zero_point
    return {
        "levels": plain(contents.levels, blobs),
        "scale": plain(contents.scale, blobs),
        "zero_point": None if zero is None else plain(zero, blobs),
        "axis": contents.axis,
        "block_size": contents.block_size,
        "dtype": contents.dtype.text,
        "transposed": contents.transposed,
    }


def _is_reference(contents: Contents) -> bool:
    """Whether contents are named by a program rather than held in it."""
    while isinstance(contents, Sliced | Reshaped):
        contents = contents.whole
    return isinstance(contents, FileReference | External | Random | Missing | Nibbles | Dequantized)


def _inline(contents: Contents, blobs: Blobs) -> dict[str, Any]:
    try:
        value = np.ascontiguousarray(contents.array()).reshape(contents.array().shape)
    except CompileError:
        return {"missing": contents.describe()}
    return {"blob": blobs.add(value.tobytes()), "dtype": DType.of(value).text, "shape": list(value.shape)}


def _file(reference: FileReference) -> dict[str, Any]:
    return {
        "file": reference.path,
        "offset": reference.offset,
        "dtype": reference.dtype.text,
        "shape": list(reference.shape),
        "file_bytes": reference.file_bytes,
        "fingerprint": reference.fingerprint,
    }


def contents_of(data: Plain, blobs: list[bytes], beside: Path | None = None) -> Contents:
    """The contents that `plain` described. Raises KeyError, TypeError, ValueError or IndexError on bad data."""
    if "missing" in data:
        return Missing(_text(data["missing"]))
    if "shard" in data:
        rank = data["rank"]
        return Sharded(
            contents_of(data["shard"], blobs, beside),
            natural(data["axis"]),
            natural(data["count"]),
            None if rank is None else natural(rank),
        )
    if "slice" in data:
        whole = contents_of(data["slice"], blobs, beside)
        return Sliced(whole, natural(data["axis"]), natural(data["start"]), natural(data["stop"]))
    if "reshape" in data:
        return Reshaped(contents_of(data["reshape"], blobs, beside), tuple(natural(n) for n in data["shape"]))
    if "levels" in data:
        zero = data["zero_point"]
        return Dequantized(
            contents_of(data["levels"], blobs, beside),
            contents_of(data["scale"], blobs, beside),
            None if zero is None else contents_of(zero, blobs, beside),
            natural(data["axis"]),
            natural(data["block_size"]),
            DType.parse(data["dtype"]),
            bool(data["transposed"]),
        )
    dtype, shape = DType.parse(data["dtype"]), tuple(natural(n) for n in data["shape"])
    if "nibbles" in data:
        return Nibbles(contents_of(data["nibbles"], blobs, beside), dtype, shape)
    if "random" in data:
        return Random(_text(data["random"]), dtype, shape, float(data["scale"]))
    if "blob" in data:
        value = np.frombuffer(blobs[natural(data["blob"])], dtype.numpy).reshape(shape)
        return Inline(value)
    size, mark = natural(data["file_bytes"]), _text(data["fingerprint"])
    return FileReference(_text(data["file"]), natural(data["offset"]), dtype, shape, size, mark, beside)


def natural(number: object) -> int:
    """A plain number that is not negative; raises ValueError on anything else."""
    if not isinstance(number, int) or isinstance(number, bool) or number < 0:
        raise ValueError(f"{number!r} is not a count")
    return number


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _byte_count(dtype: DType, shape: tuple[int, ...]) -> int:
    return dtype.numpy.itemsize * int(np.prod(shape, dtype=np.int64))


def _identity(path: Path, offset: int, length: int) -> tuple[int, str]:
    try:
        return path.stat().st_size, _fingerprint(path, offset, length)
    except OSError:
        return 0, ""


def _fingerprint(path: Path, offset: int, length: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            head = file.read(min(length, EDGE_BYTES))
            file.seek(offset + max(0, length - EDGE_BYTES))
            tail = file.read(min(length, EDGE_BYTES))
    except OSError:
        return ""
    return hashlib.sha256(head + tail).hexdigest()[:16]
