"""What a model says of itself, checked: the opsets that its ops are of, and the types that it declares for outputs."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from pimc.frontends.onnx_model import OnnxFile, dtype_name, dtype_of
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail
from pimc.ir.graph import Value

OLDEST_OPSET = 7
"""Before it, ops broadcast by attributes of their own and said `consumed_inputs`."""


def check_opsets(file: OnnxFile) -> None:
    """Raises CompileError (MODEL_BROKEN, OP_UNSUPPORTED) unless the standard ops are of one opset that is known."""
    versions = {o.version for o in file.proto.opset_import if o.domain in ("", "ai.onnx")}
    standard = any(n.domain in ("", "ai.onnx") for n in file.proto.graph.node)
    if not file.proto.opset_import or (standard and not versions):
        raise fail(Kind.MODEL_BROKEN, f"{file.name} does not say which opset its ops are of")
    if len(versions) > 1:
        numbers = " and ".join(str(v) for v in sorted(versions))
        raise fail(Kind.MODEL_BROKEN, f"{file.name} says that its ops are of opset {numbers}")
    newest = onnx.defs.onnx_opset_version()
    wrong = next((v for v in versions if v > newest or (v < OLDEST_OPSET and not _is_as_later(file, v))), None)
    if wrong is not None:
        raise fail(
            Kind.OP_UNSUPPORTED,
            f"{file.name} is of opset {wrong}; opsets {OLDEST_OPSET} to {newest} are known",
            help="convert it (onnx.version_converter), or export it again with another opset_version",
        )


def _is_as_later(file: OnnxFile, version: int) -> bool:
    """Whether all ops of a file of an older opset are what they still were in the oldest one that is known."""
    for op_type in {n.op_type for n in file.proto.graph.node if n.domain in ("", "ai.onnx")}:
        try:
            was, became = (onnx.defs.get_schema(op_type, v, "") for v in (version, OLDEST_OPSET))
        except onnx.defs.SchemaError:
            return False
        if was.since_version != became.since_version:
            return False
    return True


def check_outputs(file: OnnxFile, values: Mapping[str, Value]) -> None:
    """Raises CompileError (TYPE) where a model declares another type for an output than its nodes make.

    Dimensions are compared where both are numbers.
    """
    wrong = [d for info in file.proto.graph.output if (d := _contradiction(file, info, values[info.name])) is not None]
    if wrong:
        raise CompileError(wrong)


def _contradiction(file: OnnxFile, info: onnx.ValueInfoProto, value: Value) -> Diagnostic | None:
    tensor = info.type.tensor_type
    if info.type.WhichOneof("value") != "tensor_type":
        return None
    dtype = dtype_of(tensor.elem_type)
    declared = dtype.text if dtype is not None else dtype_name(tensor.elem_type)
    agrees = dtype is value.type.dtype or not tensor.elem_type
    if tensor.HasField("shape"):
        dims = [d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim]
        declared += f"[{', '.join(map(str, dims))}]"
        agrees = agrees and len(dims) == value.type.rank
        pairs = zip(dims, value.type.shape, strict=False)
        agrees = agrees and not any(isinstance(d, int) and isinstance(v, int) and d != v for d, v in pairs)
    if agrees:
        return None
    return Diagnostic(
        Kind.TYPE,
        f"output '{info.name}' is declared as {declared}, but is {value.type}",
        value.source or file.source(info.name, "output"),
        help="correct the declared type in the file, or leave it out",
    )
