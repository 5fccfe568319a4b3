"""One door to all frontends: the suffix of a file says what it is, else its first bytes do."""

from __future__ import annotations

import errno
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from pimc.ir.diagnostics import Kind, fail, file_missing
from pimc.ir.graph import Graph
from pimc.ir.op import Array
from pimc.ir.reading import LARGEST_MODEL, read_bytes

_HEADS = (
    ("ir", re.compile(r"(?:\s|//[^\n]*\n)*graph\b")),
    ("dsl", re.compile(r"(?:\s|(?:#|//)[^\n]*\n)*(?:@|model\b)")),
)
_SUFFIXES = {".onnx": "onnx", ".pimc": "dsl", ".pimir": "ir"}


def load_model(
    path: str | Path,
    *,
    shapes_only: bool = False,
    phase: str | None = None,
    inputs: Mapping[str, Array] | None = None,
) -> Graph:
    """The graph of a model: ONNX (`.onnx`), the DSL (`.pimc`) or the text form of the IR (`.pimir`); `-` is stdin.

    shapes_only: weights of an ONNX model may be missing. phase: which phase of a DSL model that has several.
    inputs: arrays whose contents settle shapes, where an ONNX model takes these from its inputs.
    Raises CompileError with what is wrong with the file.
    """
    name = str(path)
    data = _read(name)
    match _SUFFIXES.get(Path(name).suffix.lower()) or _sniff(data):
        case "onnx":
            from pimc.frontends.onnx_import import import_file
            from pimc.frontends.onnx_model import decode_onnx

            return import_file(decode_onnx(data, name, _folder(name), shapes_only=shapes_only), inputs)
        case "dsl":
            from pimc.frontends.dsl import parse_dsl

            return parse_dsl(_text(data, name), name, phase=phase, folder=_folder(name))
        case "ir":
            from pimc.ir.text import parse

            return parse(_text(data, name), name)
    raise fail(
        Kind.MODEL_BROKEN,
        f"{name} is neither ONNX, nor a model in the DSL, nor IR text",
        help="name the file .onnx, .pimc or .pimir to be told what is wrong with it",
    )


def _read(name: str) -> bytes:
    try:
        return _stdin() if name == "-" else read_bytes(name, LARGEST_MODEL)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.EFBIG:
            raise fail(
                Kind.MODEL_BROKEN,
                f"cannot read {name}: {error.strerror}",
                help="an ONNX model keeps so many weights beside it (save_as_external_data=True)",
            ) from None
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise file_missing(name, f"cannot read {name}: {reason}") from None


@cache
def _stdin() -> bytes:
    """What stdin gives; kept, since a compilation may ask for its model more than once."""
    return read_bytes("-", LARGEST_MODEL)


def _folder(name: str) -> Path:
    return Path.cwd() if name == "-" else Path(name).parent


def _sniff(data: bytes) -> str:
    """What the bytes are; protobuf is full of bytes that no text has."""
    head = data[:4096]
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in head):
        return "onnx"
    text = head.decode("utf-8", "replace")
    return next((kind for kind, pattern in _HEADS if pattern.match(text)), "")


def _text(data: bytes, name: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise fail(Kind.SYNTAX, f"{name} is not text in UTF-8 (byte {error.start})") from None
