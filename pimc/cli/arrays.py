"""Arrays in `.npz` files: read without trusting the file, written whole or not at all."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail, file_missing
from pimc.ir.op import Array
from pimc.ir.reading import read_bytes

INPUT, OUTPUT = "in:", "out:"
_BROKEN = (ValueError, EOFError, OSError, KeyError, SyntaxError, OverflowError, MemoryError, RecursionError, zlib.error)


def read_arrays(path: str) -> dict[str, Array]:
    """Every array of an `.npz` file by name; `-` is stdin. Raises CompileError: FILE_MISSING, INPUT_BAD."""
    try:
        with Path(path).open("rb") if Path(path).is_file() else io.BytesIO(read_bytes(path)) as stream:
            return _archived(stream, path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise file_missing(path, f"cannot read {path}: {reason}") from None


def _archived(stream: IO[bytes], path: str) -> dict[str, Array]:
    try:
        archive = zipfile.ZipFile(stream)
    except (zipfile.BadZipFile, *_BROKEN) as error:
        stream.seek(0)
        alone = stream.read(6) == b"\x93NUMPY"
        what = "a single array (.npy), not an archive of named ones" if alone else f"no .npz file: {error}"
        raise fail(
            Kind.INPUT_BAD,
            f"{path} is {what}",
            help="numpy.savez('io.npz', **{'in:x': x, 'out:y': y}) writes one",
        ) from None
    return _members(archive, path)


def _members(archive: zipfile.ZipFile, path: str) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    wrong: list[Diagnostic] = []
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name in arrays:
            wrong.append(Diagnostic(Kind.INPUT_BAD, f"{path} holds '{name}' twice"))
        try:
            with archive.open(member) as file:
                _check_header(file, member.file_size)
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, *_BROKEN) as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            wrong.append(Diagnostic(Kind.INPUT_BAD, f"array '{name}' of {path} cannot be read: {said}"))
    if wrong:
        raise CompileError(wrong)
    return arrays


def _check_header(file: IO[bytes], available: int) -> None:
    """Raises ValueError where the header promises more than the member can hold."""
    version = np.lib.format.read_magic(file)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(file)
    else:
        raise ValueError(f"unknown version {version} of the .npy format")
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded")
    count = 1
    for extent in shape:
        if extent < 0:
            raise ValueError(f"impossible shape {shape}")
        count *= extent
    if count * dtype.itemsize > available:
        raise ValueError(f"its header promises {count * dtype.itemsize} bytes, but there are at most {available}")


def read_values(path: str) -> dict[str, Array]:
    """The arrays of `--values`: `in:<input>`, and `out:<output>` to compare with. Raises CompileError."""
    arrays = read_arrays(path)
    wrong = [n for n in arrays if not n.startswith((INPUT, OUTPUT))]
    if wrong or not arrays:
        what = f"'{wrong[0]}' of {path} is neither an input nor an output" if wrong else f"{path} holds no arrays"
        raise fail(Kind.INPUT_BAD, what, help="name arrays in:<input> and out:<output>")
    return arrays


def write_outputs(path: str, outputs: Mapping[str, Array]) -> None:
    """Write `out:<name>` arrays; the same bytes for the same values. Raises CompileError (FILE_UNWRITABLE)."""
    from pimc.backends.storage import write_atomically
    from pimc.cli.screen import write_bytes

    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **{OUTPUT + name: array for name, array in outputs.items()})
    if path == "-":
        write_bytes(packed.getvalue())
    else:
        write_atomically(Path(path), packed.getvalue())
