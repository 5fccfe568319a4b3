"""The stored form: the same bytes for the same program, nothing half-written, and nothing damaged believed."""

from __future__ import annotations

import dataclasses
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.backends.numbering import canonical
from pimc.backends.program import FORMAT_VERSION, MapEntry, Program
from pimc.backends.references import FileReference
from pimc.backends.storage import HEADER, MAGIC, from_bytes, load, save, to_bytes
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.ir.weights import External
from tests.backends.test_assembly import small
from tests.programs import programs


@settings(max_examples=80, deadline=None)
@given(programs())
def test_what_is_stored_is_read_back(program: Program) -> None:
    data = to_bytes(program)
    again = from_bytes(data)
    assert to_bytes(again) == data
    assert again.streams == canonical(program).streams
    assert (again.dims, again.ops, again.target) == (program.dims, program.ops, program.target)


@settings(max_examples=200, deadline=None)
@given(programs(), st.data())
def test_damage_is_found(program: Program, data: st.DataObject) -> None:
    """With a check sum and lengths that fit, so that every number inside is looked at."""
    stored = to_bytes(program)
    _, version, manifest, _, streams, blobs, _ = HEADER.unpack_from(stored)
    text = bytearray(zlib.decompress(stored[HEADER.size : HEADER.size + manifest]))
    rest = bytearray(stored[HEADER.size + manifest :])
    part = data.draw(st.sampled_from([text, rest] if rest else [text]))
    at = data.draw(st.integers(0, len(part) - 1))
    part[at] = data.draw(st.sampled_from(b'0123456789-[]{}",:\x00\x7f\xff'))
    packed = zlib.compress(bytes(text))
    body = packed + bytes(rest)
    digest = hashlib.sha256(body).digest()
    changed = HEADER.pack(MAGIC, version, len(packed), len(text), streams, blobs, digest) + body
    assert _broken(changed) in (None, Kind.PROGRAM_BROKEN)


def test_a_manifest_that_unpacks_to_more_than_it_says_is_refused() -> None:
    packed = zlib.compress(b" " * 10**7)
    digest = hashlib.sha256(packed).digest()
    with pytest.raises(CompileError, match="does not have the length"):
        from_bytes(HEADER.pack(MAGIC, FORMAT_VERSION, len(packed), 100, 0, 0, digest) + packed)
    with pytest.raises(CompileError, match="its manifest has 1099511627776 bytes"):
        from_bytes(HEADER.pack(MAGIC, FORMAT_VERSION, len(packed), 1 << 40, 0, 0, digest) + packed)


def _broken(stored: bytes) -> Kind | None:
    try:
        from_bytes(stored)
    except CompileError as error:
        return error.diagnostics[0].kind
    return None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda d: d[:20], "does not start as a .pimprog"),
        (lambda d: b"PK\x03\x04" + d[4:], "does not start as a .pimprog"),
        (lambda d: d[:-1], "is truncated"),
        (lambda d: d + b"x", "has bytes behind its end"),
        (lambda d: d[:-1] + bytes([d[-1] ^ 1]), "check sum"),
        (lambda d: d[:8] + b"\x09" + d[9:], "format version 9"),
        (lambda d: d[:16] + b"\xff" * 8 + d[24:], "is truncated"),
    ],
)
def test_a_damaged_file_says_what_is_wrong(tmp_path: Path, change: Callable[[bytes], bytes], says: str) -> None:
    path = tmp_path / "a.pimprog"
    path.write_bytes(change(to_bytes(small())))
    with pytest.raises(CompileError, match=says) as caught:
        load(path)
    assert caught.value.diagnostics[0].kind is Kind.PROGRAM_BROKEN


def test_a_file_that_cannot_be_written_is_not_begun(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        save(small(), tmp_path / "no" / "a.pimprog")
    assert caught.value.diagnostics[0].kind is Kind.FILE_UNWRITABLE
    (tmp_path / "folder").mkdir()
    with pytest.raises(CompileError):
        save(small(), tmp_path / "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(CompileError) as caught:
        load(tmp_path / "a.pimprog")
    assert caught.value.diagnostics[0].kind is Kind.FILE_MISSING


def test_weights_stay_in_their_file_and_are_checked(tmp_path: Path) -> None:
    values = np.arange(4096, dtype=np.float32)
    weights = tmp_path / "w.bin"
    weights.write_bytes(b"head" + values.tobytes())
    contents = External(weights, 4, DType.F32, (4096,))
    entry = MapEntry("w", "weight", "dram", DType.F16, Layout.dense((4096,), 2), DType.F32, contents=contents)
    program = dataclasses.replace(small(), memory=(entry,), extent={"dram": 8192})
    save(program, tmp_path / "a.pimprog")
    assert (tmp_path / "a.pimprog").stat().st_size < 2000

    kept = load(tmp_path / "a.pimprog").memory[0].contents
    assert isinstance(kept, FileReference)
    np.testing.assert_array_equal(kept.array(), values)

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "a.pimprog").rename(moved / "a.pimprog")
    weights.rename(moved / "w.bin")
    kept = load(moved / "a.pimprog").memory[0].contents
    assert kept is not None
    np.testing.assert_array_equal(kept.array(), values)

    (moved / "w.bin").write_bytes(b"head" + (values + 1).tobytes())
    with pytest.raises(CompileError, match="is not the weight file") as caught:
        kept.array()
    assert caught.value.diagnostics[0].kind is Kind.WEIGHT_MISSING
