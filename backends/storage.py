"""The stored form of programs, `.pimprog`: one file, the same bytes for the same program.

    magic (8 bytes)  version, manifest bytes, its bytes when unpacked, stream bytes, blob bytes (u64, little endian)
    SHA-256 of what follows
    manifest (JSON, zlib)  streams (`encoding.py`)  blobs

The manifest holds everything but commands and constants. Weights are not in the file: they are named by file, offset
and fingerprint (`references.py`).
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pimc.backends.batches import plain_request, plain_rows, request_from, rows_from
from pimc.backends.encoding import Damaged, Tables, decode, encode, signature
from pimc.backends.engines import commands
from pimc.backends.numbering import canonical
from pimc.backends.plain_blocks import blocks_from, plain_blocks
from pimc.backends.program import FORMAT_VERSION, Flight, Item, MapEntry, OpRow, Program, Stream, choice_from
from pimc.backends.provenance import costs_from, pass_from, plain_costs
from pimc.backends.references import Blobs, contents_of, plain
from pimc.ir.diagnostics import CompileError, Kind, fail, file_missing
from pimc.ir.layout import Layout
from pimc.ir.reading import read_bytes
from pimc.ir.types import DType

MAGIC = b"\x89PIMPRG\n"
HEADER = struct.Struct("<8s5Q32s")
LARGEST_FILE = 1 << 32
"""Bytes beyond which a file is not read."""
LARGEST_MANIFEST = 1 << 28
"""Bytes beyond which a manifest is not unpacked."""


def save(program: Program, path: Path | str) -> None:
    """Write the program; the file appears complete or not at all. Raises CompileError (FILE_UNWRITABLE)."""
    write_atomically(Path(path), to_bytes(program))


def load(path: Path | str) -> Program:
    """Read a stored program. Raises CompileError: FILE_MISSING; PROGRAM_BROKEN for what `save` does not write."""
    path = Path(path)
    try:
        data = read_bytes(path, LARGEST_FILE)
    except OSError as error:
        raise file_missing(path, f"cannot read {path}: {error.strerror}") from None
    return from_bytes(data, str(path), path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Put bytes into a new file beside `path`, then let it take its place; devices and pipes are written to."""
    temporary = ""
    path = path.resolve() if path.is_symlink() else path
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as stream:
                stream.write(data)
            return
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
        raise fail(Kind.FILE_UNWRITABLE, f"cannot write {path}: {error.strerror}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# -- bytes ----------------------------------------------------------------------------------------------------------


def to_bytes(program: Program) -> bytes:
    """The stored form."""
    program = canonical(program)
    tables = Tables.of(program.streams)
    firsts = _firsts(program.streams)
    encoded = [encode(s, tables) if firsts[i] == i else b"" for i, s in enumerate(program.streams)]
    blobs = Blobs()
    description = _manifest(program, tables, encoded, blobs)
    plain_text = json.dumps(description, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "surrogatepass")
    manifest = zlib.compress(plain_text, 9)
    streams = b"".join(encoded)
    constants = b"".join(blobs.items)
    body = manifest + streams + constants
    digest = hashlib.sha256(body).digest()
    lengths = (len(manifest), len(plain_text), len(streams), len(constants))
    return HEADER.pack(MAGIC, program.version, *lengths, digest) + body


def _manifest(program: Program, tables: Tables, encoded: list[bytes], blobs: Blobs) -> dict[str, Any]:
    return {
        "graph": program.graph,
        "phase": program.phase,
        "dims": dict(program.dims),
        "target_name": program.target_name,
        "target_hash": program.target_hash,
        "target": program.target,
        "devices": program.devices,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "notes": list(program.notes),
        **({"no_values": program.no_values} if program.no_values else {}),
        **({"flight": asdict(program.flight)} if program.flight is not None else {}),
        **({"stages": program.stages} if program.stages > 1 else {}),
        **({"turns": program.turns} if program.turns > 1 else {}),
        "extent": dict(program.extent),
        **({"command": program.command} if program.command else {}),
        **({"choice": program.choice.to_json()} if program.choice is not None else {}),
        **({"passes": [[p.name, p.changed, p.ops] for p in program.passes]} if program.passes else {}),
        "requests": [plain_request(r) for r in program.requests],
        "memory": [_entry(entry, blobs) for entry in program.memory],
        "ops": [_op(row) for row in program.ops],
        "commands": tables.signatures(),
        "words": list(tables.words),
        "streams": [
            {
                "engine": s.engine,
                "devices": list(s.devices),
                "instances": list(s.instances),
                "bytes": len(data),
                **({"like": first} if first != i else {}),
            }
            for i, (s, data, first) in enumerate(
                zip(program.streams, encoded, _firsts(program.streams), strict=True)
            )
        ],
        "blobs": [len(blob) for blob in blobs.items],
    }


def _firsts(streams: Sequence[Stream]) -> list[int]:
    """For each stream the first one with the same commands: they are stored once."""
    known: dict[tuple[str, tuple[Item, ...]], int] = {}
    return [known.setdefault((s.engine, s.items), i) for i, s in enumerate(streams)]


def _entry(entry: MapEntry, blobs: Blobs) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": entry.name,
        "role": entry.role,
        "space": entry.space,
        "dtype": entry.dtype.text,
        "logical": entry.logical.text,
        "offset": entry.layout.offset,
        "dims": [[list(digit) for digit in digits] for digits in entry.layout.dims],
        "devices": list(entry.devices),
    }
    if entry.shard is not None:
        row["shard"] = list(entry.shard)
    if entry.alias is not None:
        row["alias"] = entry.alias
    if entry.extents is not None:
        row["extents"] = list(entry.extents)
    if entry.rows is not None:
        row["rows"] = plain_rows(entry.rows)
    if entry.blocks is not None:
        row["blocks"] = plain_blocks(entry.blocks)
    if entry.contents is not None:
        row["fill"] = plain(entry.contents, blobs)
    return row


_OP_COUNTS = ("flops", "bytes", "layer", "shares")
_OP_FIELDS = ("name", "op", "source", "passes", "phase", "nature", "engine", "reason", *_OP_COUNTS, "beat", "weight")


def _op(row: OpRow) -> list[Any]:
    """The fields in their order, without names; costs come last, where there are any."""
    values = [getattr(row, name) for name in _OP_FIELDS]
    return [*(list(v) if isinstance(v, tuple) else v for v in values), *([plain_costs(row)] if row.costs else [])]


# -- reading --------------------------------------------------------------------------------------------------------


def from_bytes(data: bytes, file: str = "<bytes>", beside: Path | None = None) -> Program:
    """Read the stored form. Raises CompileError (PROGRAM_BROKEN)."""
    if len(data) < HEADER.size or not data.startswith(MAGIC):
        raise _broken(file, "it does not start as a .pimprog does")
    _, version, manifest_bytes, unpacked_bytes, stream_bytes, blob_bytes, digest = HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise _broken(file, f"it has format version {version}, this pimc reads {FORMAT_VERSION}")
    body = memoryview(data)[HEADER.size :]
    expected = manifest_bytes + stream_bytes + blob_bytes
    if len(body) != expected:
        what = "is truncated" if len(body) < expected else "has bytes behind its end"
        raise _broken(file, f"it {what}: {len(body)} bytes instead of {expected}")
    if hashlib.sha256(body).digest() != digest:
        raise _broken(file, "its check sum does not fit")
    streams = bytes(body[manifest_bytes : manifest_bytes + stream_bytes])
    try:
        manifest = json.loads(_unpacked(bytes(body[:manifest_bytes]), unpacked_bytes).decode("utf-8", "surrogatepass"))
        return _program(manifest, streams, bytes(body[manifest_bytes + stream_bytes :]), beside)
    except Damaged as error:
        raise _broken(file, str(error)) from None
    except KeyError as error:
        raise _broken(file, f"its manifest lacks {error}") from None
    except (TypeError, ValueError, IndexError, AttributeError, RecursionError, OverflowError) as error:
        raise _broken(file, f"its manifest is not understood: {error}") from None


def _unpacked(packed: bytes, size: int) -> bytes:
    """The manifest, which must have the size that the header gives: never more is unpacked."""
    if size > LARGEST_MANIFEST:
        raise Damaged(f"its manifest has {size} bytes")
    try:
        unpacked = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as error:
        raise Damaged(f"its manifest cannot be unpacked: {error}") from None
    if len(unpacked) != size:
        raise Damaged("its manifest does not have the length that the header gives")
    return unpacked


def _items(manifest: dict[str, Any], chunks: Sequence[bytes], tables: Tables, ops: int) -> list[tuple[Item, ...]]:
    """The commands of each stream."""
    found: list[tuple[Item, ...]] = []
    for row, chunk in zip(manifest["streams"], chunks, strict=True):
        like = row.get("like")
        if like is None:
            found.append(decode(chunk, _text(row["engine"]), tables, ops))
        elif 0 <= _number(like) < len(found):
            found.append(found[_number(like)])
        else:
            raise Damaged(f"a stream is like stream {like}, which does not come before it")
    return found


def _program(manifest: dict[str, Any], streams: bytes, constants: bytes, beside: Path | None) -> Program:
    blobs = _cut(constants, manifest["blobs"])
    tables = Tables(_commands(manifest["commands"]), [_text(w) for w in manifest["words"]])
    ops = tuple(_op_row(row) for row in manifest["ops"])
    chunks = _cut(streams, [row["bytes"] for row in manifest["streams"]])
    return Program(
        graph=_text(manifest["graph"]),
        dims={_text(k): _number(v) for k, v in manifest["dims"].items()},
        phase=_text(manifest["phase"]),
        target=dict(manifest["target"]),
        target_name=_text(manifest["target_name"]),
        target_hash=_text(manifest["target_hash"]),
        devices=_number(manifest["devices"]),
        streams=tuple(
            Stream(
                _text(row["engine"]),
                tuple(_number(n) for n in row["devices"]),
                tuple(_number(n) for n in row["instances"]),
                items,
            )
            for row, items in zip(manifest["streams"], _items(manifest, chunks, tables, len(ops)), strict=True)
        ),
        memory=tuple(_map_entry(row, blobs, beside) for row in manifest["memory"]),
        ops=ops,
        inputs=tuple(_text(n) for n in manifest["inputs"]),
        outputs=tuple(_text(n) for n in manifest["outputs"]),
        notes=tuple(_text(n) for n in manifest["notes"]),
        no_values=_text(manifest.get("no_values", "")),
        stages=_positive(manifest.get("stages", 1)),
        turns=_positive(manifest.get("turns", 1)),
        requests=tuple(request_from(r) for r in manifest.get("requests", ())),
        flight=Flight(**{k: _number(v) for k, v in manifest["flight"].items()}) if "flight" in manifest else None,
        extent={_text(k): _number(v) for k, v in manifest["extent"].items()},
        command=_text(manifest.get("command", "")),
        choice=choice_from(manifest["choice"]) if "choice" in manifest else None,
        passes=tuple(pass_from(row) for row in manifest.get("passes", ())),
    )


def _commands(signatures: dict[str, list[str]]) -> dict[str, Any]:
    known = commands()
    for mnemonic, operands in signatures.items():
        if mnemonic not in known:
            raise Damaged(f"it uses a command '{mnemonic}' that this pimc does not have")
        if signature(known[mnemonic]) != operands:
            raise Damaged(f"its command '{mnemonic}' has other operands than this pimc's")
    return {mnemonic: known[mnemonic] for mnemonic in signatures}


def _cut(data: bytes, lengths: list[int]) -> list[bytes]:
    if sum(_number(n) for n in lengths) != len(data):
        raise Damaged("its parts do not have the lengths that the manifest gives")
    parts, at = [], 0
    for length in lengths:
        parts.append(data[at : at + length])
        at += length
    return parts


def _op_row(row: list[Any]) -> OpRow:
    *row, costs = row if len(row) > len(_OP_FIELDS) else [*row, []]
    given = dict(zip(_OP_FIELDS, row, strict=True))
    for name in _OP_FIELDS:
        if name == "passes":
            given[name] = tuple(_text(p) for p in given[name])
        else:
            (_number if name in _OP_COUNTS else _text)(given[name])
    return OpRow(**given, costs=costs_from(costs))


def _map_entry(row: dict[str, Any], blobs: list[bytes], beside: Path | None) -> MapEntry:
    dims = tuple(tuple((_number(c), _number(s)) for c, s in digits) for digits in row["dims"])
    shard = row.get("shard")
    fill = row.get("fill")
    alias, extents = row.get("alias"), row.get("extents")
    return MapEntry(
        name=_text(row["name"]),
        role=_text(row["role"]),
        space=_text(row["space"]),
        dtype=DType.parse(row["dtype"]),
        layout=Layout(_number(row["offset"]), dims),
        logical=DType.parse(row["logical"]),
        devices=tuple(_number(n) for n in row["devices"]),
        shard=None if shard is None else (_number(shard[0]), _number(shard[1])),
        contents=None if fill is None else contents_of(fill, blobs, beside),
        alias=None if alias is None else _text(alias),
        extents=None if extents is None else tuple(_number(n) for n in extents),
        rows=rows_from(row["rows"]) if "rows" in row else None,
        blocks=blocks_from(row["blocks"]) if "blocks" in row else None,
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise ValueError(f"{value!r} is not a number")
    return value


def _positive(value: object) -> int:
    number = _number(value)
    if number < 1:
        raise ValueError(f"{number} is not a count")
    return number


def _broken(file: str, why: str) -> CompileError:
    return fail(
        Kind.PROGRAM_BROKEN,
        f"{file} is not a sound program: {why}",
        help="compile the model again with this pimc",
    )
