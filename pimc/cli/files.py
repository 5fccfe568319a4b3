"""Files that commands write: checked before the work starts, written whole or not at all; `-` is stdin or stdout."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pimc.ir.diagnostics import Kind, fail, file_missing
from pimc.ir.reading import LARGEST, read_bytes, read_within

if TYPE_CHECKING:
    from pimc.backends.program import Program
    from pimc.results import Result
    from pimc.sim.check.issued import Issued


def check_writable(path: str | None) -> None:
    """Raises CompileError (FILE_UNWRITABLE) where writing would fail at the end of long work."""
    if not path or path == "-":
        return
    file = Path(path)
    reason = ""
    if file.is_dir():
        reason = "it is a folder"
    elif not file.parent.is_dir():
        reason = f"there is no folder {file.parent}"
    elif not os.access(file.parent, os.W_OK):
        reason = f"the folder {file.parent} is not writable"
    elif _is_named_again(file):
        reason = "the command is given the same file for something else"
    if reason:
        raise fail(Kind.FILE_UNWRITABLE, f"cannot write {path}: {reason}")


def _is_named_again(file: Path) -> bool:
    """Whether a file that is there is more than one thing that the command is given: its input as a rule."""
    context = click.get_current_context(silent=True)
    if context is None or not file.is_file():
        return False
    values = (value if isinstance(value, tuple | list) else (value,) for value in context.params.values())
    return sum(_is_same(file, each) for value in values for each in value) > 1


def _is_same(file: Path, other: object) -> bool:
    try:
        return isinstance(other, str) and file.samefile(other)
    except (OSError, ValueError):
        return False


def write_file(path: str, data: bytes) -> None:
    """Write a file atomically, or stdout for `-`."""
    from pimc.backends.storage import write_atomically
    from pimc.cli.screen import write_bytes

    if path == "-":
        if sys.stdout.isatty():
            raise click.UsageError("binary data is not written to a terminal; pipe it or name a file with -o")
        write_bytes(data)
    else:
        write_atomically(Path(path), data)


def read_file(path: str) -> bytes:
    """The bytes of a file, or of stdin for `-`. Raises CompileError (FILE_MISSING)."""
    try:
        return read_bytes(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise file_missing(path, f"cannot read {path}: {reason}") from None


def read_program(path: str) -> Program:
    """A stored program; `-` is stdin. Raises CompileError: FILE_MISSING, PROGRAM_BROKEN."""
    from pimc.backends.storage import from_bytes, load

    return from_bytes(read_file("-"), "<stdin>", Path.cwd()) if path == "-" else load(path)


def read_runs(paths: Sequence[str], say: Callable[[str], object], *, whole: bool = False) -> list[Result]:
    """The runs of stored results, in their order; `-` is stdin. whole: where all have phases, these are one run each.

    Raises CompileError: FILE_MISSING, PROGRAM_BROKEN, SYNTAX, RESULT_BAD.
    """
    from pimc.results import has_phases, read_results

    if list(paths).count("-") > 1:
        raise click.UsageError("stdin holds one result: - may be given once")
    files = [read_file(path) for path in paths]
    whole = whole and all(map(has_phases, files))
    runs: list[Result] = []
    for path, data in zip(paths, files, strict=True):
        say(f"reading {path}")
        name, folder = ("<stdin>", Path.cwd()) if path == "-" else (path, Path(path).parent)
        runs += read_results(data, name, folder, whole=whole)
    return runs


def read_text(path: str) -> str:
    """A text in UTF-8. Raises CompileError: FILE_MISSING, SYNTAX."""
    return _decoded(read_file(path), path, "utf-8")


def read_lines(path: str) -> list[str]:
    """The lines of a text in UTF-8, which may be compressed by gzip. Raises CompileError: FILE_MISSING, SYNTAX."""
    return _decoded(read_unpacked(path), path, "utf-8-sig").splitlines()


def _decoded(data: bytes, path: str, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        name = "stdin" if path == "-" else path
        raise fail(Kind.SYNTAX, f"{name} is not text in UTF-8 (byte {error.start})") from None


def read_unpacked(path: str) -> bytes:
    """The bytes of a file, which may be compressed by gzip. Raises CompileError: FILE_MISSING, SYNTAX."""
    data = read_file(path)
    if data[:2] != b"\x1f\x8b":
        return data
    import gzip
    import zlib

    try:
        return read_within(gzip.GzipFile(fileobj=io.BytesIO(data)), LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        name = "stdin" if path == "-" else path
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise fail(Kind.SYNTAX, f"{name} is not a whole gzip file: {reason}") from None


def write_issue_trace(path: str, issued: Issued) -> None:
    """Write issued commands as CSV, compressed if the name ends in .gz, or to stdout for `-`."""
    from pimc.cli.screen import write_text
    from pimc.sim.issue_trace import csv_text, write_issues

    if path == "-":
        for text in csv_text(issued):
            write_text(text)
    else:
        write_issues(path, issued)


def write_tables(folder: str, tables: Mapping[str, str]) -> None:
    """Write texts by their file names into a folder, which is made. Raises CompileError (FILE_UNWRITABLE)."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise fail(Kind.FILE_UNWRITABLE, f"cannot make the folder {folder}: {error.strerror}") from None
    for name, text in tables.items():
        write_file(str(Path(folder) / name), text.encode("utf-8"))


def write_text_file(path: str, text: str) -> None:
    """Write a text atomically, or to stdout for `-`."""
    from pimc.cli.screen import write_text

    if path == "-":
        write_text(text)
    else:
        write_file(path, text.encode("utf-8"))
