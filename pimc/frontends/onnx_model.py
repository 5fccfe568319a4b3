"""Reading ONNX files: the protobuf, element types, and initializers as lazily read contents.

A file is data from anywhere. Whatever is wrong with it becomes a diagnostic, and nothing outside its own folder is
read. `onnx.checker` decides nothing here: it refuses real exports (onnxruntime's `SimplifiedLayerNormalization` lies
in the default domain without being an ONNX op).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.op import Array
from pimc.ir.quantized import Nibbles
from pimc.ir.reading import LARGEST_MODEL, read_bytes
from pimc.ir.source import NodeSource
from pimc.ir.types import DType
from pimc.ir.weights import Contents, External, Inline, Missing
from pimc.record import record

_DTYPES: dict[int, DType] = {
    TensorProto.FLOAT: DType.F32,
    TensorProto.DOUBLE: DType.F64,
    TensorProto.FLOAT16: DType.F16,
    TensorProto.BFLOAT16: DType.BF16,
    TensorProto.INT64: DType.I64,
    TensorProto.INT32: DType.I32,
    TensorProto.INT16: DType.I16,
    TensorProto.INT8: DType.I8,
    TensorProto.INT4: DType.I4,
    TensorProto.UINT64: DType.U64,
    TensorProto.UINT32: DType.U32,
    TensorProto.UINT16: DType.U16,
    TensorProto.UINT8: DType.U8,
    TensorProto.UINT4: DType.U4,
    TensorProto.BOOL: DType.BOOL,
}


@record
class OnnxFile:
    """A model file in memory. `name` is how the user called it, `folder` where its external data lies."""

    name: str
    folder: Path
    proto: onnx.ModelProto
    shapes_only: bool = False

    def source(self, node: str, op_type: str = "") -> NodeSource:
        return NodeSource(self.name, node, op_type)


def read_onnx(path: str | Path, *, shapes_only: bool = False) -> OnnxFile:
    """Read a model file without its external data; `-` is stdin. Raises CompileError for anything that is no model."""
    name = str(path)
    try:
        data = read_bytes(path, LARGEST_MODEL)
    except OSError as error:
        raise fail(Kind.FILE_MISSING, f"cannot read {name}: {error.strerror or error}") from None
    folder = Path.cwd() if name == "-" else Path(path).parent
    return decode_onnx(data, name, folder, shapes_only=shapes_only)


def decode_onnx(data: bytes, name: str, folder: Path, *, shapes_only: bool = False) -> OnnxFile:
    """Decode the bytes of a model file; raises CompileError (MODEL_BROKEN) for anything that is no model."""
    if not data:
        raise _broken(name, "the file is empty")
    if len(data) > LARGEST_MODEL:
        raise fail(
            Kind.MODEL_BROKEN,
            f"{name} has {len(data)} bytes; an ONNX file holds at most {LARGEST_MODEL}",
            help="export the weights as external data (save_as_external_data=True)",
        )
    try:
        proto = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf has no types; whatever decoding raises means the same
        if type(error).__name__ != "DecodeError":
            raise
        raise _broken(name, "its bytes are no protobuf; it may be truncated") from None
    if not _is_text_valid(proto):
        raise _broken(name, "a name in it is not UTF-8; the file may be damaged")
    if not proto.HasField("graph") or not proto.ir_version:
        raise _broken(name, "it holds no graph")
    if not proto.graph.output:
        raise _broken(name, "its graph has no outputs; the file may be truncated")
    return OnnxFile(name, folder, proto, shapes_only)


_STRING, _MESSAGE = 9, 11
"""Protobuf's numbers of field types."""


def _is_text_valid(message: Any) -> bool:
    """Whether all strings of a message are text; protobuf leaves them as bytes where they are not UTF-8."""
    for field, value in message.ListFields():
        if field.type == _STRING:
            if isinstance(value, bytes) or (not isinstance(value, str) and any(isinstance(v, bytes) for v in value)):
                return False
        elif field.type == _MESSAGE:
            parts = (value,) if hasattr(value, "ListFields") else value
            if not all(_is_text_valid(part) for part in parts):
                return False
    return True


def _broken(name: str, why: str) -> CompileError:
    return fail(Kind.MODEL_BROKEN, f"{name} is not an ONNX model: {why}", help="export it again, or fetch it again")


def dtype_of(elem_type: int) -> DType | None:
    """Our element type for ONNX's number of one; None where there is none (strings, complex, 8-bit floats)."""
    return _DTYPES.get(elem_type)


def dtype_name(elem_type: int) -> str:
    try:
        return str(TensorProto.DataType.Name(TensorProto.DataType.ValueType(elem_type))).lower()
    except ValueError:
        return f"number {elem_type}"


@record
class Initializer:
    """A tensor of the model file: its type, and contents that are read when asked for."""

    name: str
    dtype: DType
    shape: tuple[int, ...]
    contents: Contents

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape, dtype=object)) if self.shape else 1


def read_tensor(file: OnnxFile, tensor: TensorProto, label: str = "") -> Initializer:
    """An initializer or tensor attribute; raises CompileError where its type, shape or bytes do not fit together."""
    name = tensor.name or label
    source = file.source(name, "initializer")
    dtype = dtype_of(tensor.data_type)
    if dtype is None:
        kind = dtype_name(tensor.data_type)
        raise fail(Kind.OP_UNSUPPORTED, f"weight '{name}' has elements of type {kind}", source)
    shape = tuple(tensor.dims)
    if any(d < 0 for d in shape) or int(np.prod(shape, dtype=object)) * dtype.bits >= 2**63:
        raise fail(Kind.DIM_BAD, f"weight '{name}' has the impossible shape {list(shape)}", source)
    if tensor.data_location == TensorProto.EXTERNAL:
        return Initializer(name, dtype, shape, _external(file, tensor, name, dtype, shape))
    try:
        array = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, OverflowError) as error:
        raise fail(Kind.MODEL_BROKEN, f"the data of weight '{name}' do not fit its type: {error}", source) from None
    return Initializer(name, dtype, shape, Inline(_storage(array, dtype)))


def _storage(array: Array, dtype: DType) -> Array:
    """The array in the numpy type that stands for `dtype` (onnx gives 4-bit elements a type of their own)."""
    return array if array.dtype == dtype.numpy else array.astype(dtype.numpy)


def _external(file: OnnxFile, tensor: TensorProto, name: str, dtype: DType, shape: tuple[int, ...]) -> Contents:
    source = file.source(name, "initializer")
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if not _is_inside(location):
        raise fail(
            Kind.MODEL_BROKEN,
            f"weight '{name}' lies in '{location}', which is not below the folder of the model",
            source,
            help="external data must be named by a path relative to the model, without '..'",
        )
    size = (int(np.prod(shape, dtype=np.int64)) * dtype.bits + 7) // 8
    try:
        offset, length = int(entries.get("offset", "0")), int(entries.get("length", str(size)))
    except ValueError:
        raise fail(Kind.MODEL_BROKEN, f"weight '{name}' has a bad place in '{location}'", source) from None
    if offset < 0 or length != size:
        raise fail(
            Kind.MODEL_BROKEN,
            f"weight '{name}' needs {size} bytes, but the model gives it {length} at {offset} of '{location}'",
            source,
        )
    path = file.folder / location
    if file.shapes_only and not path.is_file():
        return Missing(name)
    if dtype in (DType.I4, DType.U4):
        return Nibbles(External(path, offset, DType.U8, (size,)), dtype, shape)
    return External(path, offset, dtype, shape)


def _is_inside(location: str) -> bool:
    path = PurePosixPath(location)
    absolute = path.is_absolute() or PureWindowsPath(location).is_absolute()
    return bool(location) and not absolute and ".." not in path.parts and "\\" not in location


def missing_data(initializers: list[Initializer]) -> CompileError | None:
    """One error for all external files that are absent or too short, or None."""
    from pimc.ir.diagnostics import Diagnostic

    found: dict[Path, list[str]] = {}
    short: dict[Path, int] = {}
    for initializer in initializers:
        contents = initializer.contents
        external = contents.packed if isinstance(contents, Nibbles) else contents
        if not isinstance(external, External):
            continue
        need = external.offset + external.dtype.numpy.itemsize * int(np.prod(external.shape, dtype=np.int64))
        if not external.path.is_file():
            found.setdefault(external.path, []).append(initializer.name)
        elif external.path.stat().st_size < need:
            found.setdefault(external.path, []).append(initializer.name)
            short[external.path] = max(need, short.get(external.path, 0))
    if not found:
        return None
    return CompileError(
        [
            Diagnostic(
                Kind.WEIGHT_MISSING,
                f"{path} ends before byte {short[path]}, which weights need"
                if path in short
                else f"the weight file {path} is missing",
                notes=(f"{len(names)} weights lie there: {', '.join(names[:4])}{', ...' * (len(names) > 4)}",),
                help="put the whole file beside the model, or compile with --shapes-only",
            )
            for path, names in sorted(found.items())
        ]
    )
