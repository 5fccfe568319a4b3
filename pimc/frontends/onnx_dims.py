"""Dimensions as ONNX models name them, and the types of graph inputs."""

from __future__ import annotations

import re

import onnx

from pimc.frontends.onnx_model import OnnxFile, dtype_name, dtype_of
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.types import Dim, Sym, TensorType, parse_dim

LARGEST_DIM = 2**31 - 1


def input_type(file: OnnxFile, info: onnx.ValueInfoProto) -> TensorType:
    """The type of a graph input; raises CompileError (OP_UNSUPPORTED, MODEL_BROKEN, DIM_BAD)."""
    source = file.source(info.name, "input")
    kind = info.type.WhichOneof("value")
    if kind != "tensor_type":
        given = (kind or "no type").removesuffix("_type")
        raise fail(Kind.OP_UNSUPPORTED, f"input '{info.name}' is a {given}; pimc takes tensors", source)
    dtype = dtype_of(info.type.tensor_type.elem_type)
    if dtype is None:
        given = dtype_name(info.type.tensor_type.elem_type)
        raise fail(Kind.OP_UNSUPPORTED, f"input '{info.name}' has elements of type {given}", source)
    if not info.type.tensor_type.HasField("shape"):
        help = "export the model with shapes; dimensions may be symbolic"
        raise fail(Kind.MODEL_BROKEN, f"input '{info.name}' has no shape", source, help=help)
    dims = [_input_dim(file, info.name, i, d) for i, d in enumerate(info.type.tensor_type.shape.dim)]
    return TensorType(dtype, tuple(dims))


def _input_dim(file: OnnxFile, name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> Dim:
    if dim.HasField("dim_value") and dim.dim_value >= 0:
        if dim.dim_value > LARGEST_DIM:
            raise fail(
                Kind.DIM_BAD,
                f"dimension {axis} of input '{name}' is {dim.dim_value}; the largest is {LARGEST_DIM}",
                file.source(name, "input"),
            )
        return dim.dim_value
    return symbolic(dim.dim_param) if dim.dim_param else Sym.named(f"{identifier(name)}_dim{axis}")


def symbolic(text: str) -> Dim:
    """A dimension from the model's name for it; names that are no expressions become identifiers."""
    try:
        return parse_dim(text)
    except ValueError:
        return Sym.named(identifier(text) or "dim")


def dim_of(given: int | str) -> Dim:
    return symbolic(given) if isinstance(given, str) else given


def identifier(text: str) -> str:
    """A name without the characters that an expression gives a meaning."""
    cleaned = re.sub(r"\W+", "_", text).strip("_")
    return f"d{cleaned}" if cleaned[:1].isdigit() else cleaned
