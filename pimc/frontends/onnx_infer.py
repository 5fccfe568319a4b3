"""Result types that ONNX's shape inference knows, for nodes whose type our rules cannot tell yet."""

from __future__ import annotations

from collections.abc import Sequence

import onnx

from pimc.frontends.onnx_model import OnnxFile, dtype_of
from pimc.ir.op import TypeRuleError, UnknownContents
from pimc.ir.types import DType, TensorType

Guess = tuple[DType, list[int | str | None]]
"""Element type and dimensions: numbers, the model's own names, or nothing known."""


class ResultTypes:
    """What ONNX says about the results of a model; inference runs once, when first asked."""

    def __init__(self, file: OnnxFile) -> None:
        self._file = file
        self._found: dict[str, onnx.TypeProto.Tensor] | None = None

    @staticmethod
    def is_final(error: TypeRuleError) -> bool:
        """Whether a type rule has refused for good, rather than for lack of knowledge."""
        return not isinstance(error, UnknownContents)

    def of(self, name: str) -> Guess | None:
        """The type of a value, or None where not even its rank is known."""
        if self._found is None:
            self._found = _infer(self._file.proto)
        tensor = self._found.get(name)
        dtype = dtype_of(tensor.elem_type) if tensor is not None else None
        if tensor is None or dtype is None or not tensor.HasField("shape"):
            return None
        dims: list[int | str | None] = [
            d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim
        ]
        return dtype, dims

    @staticmethod
    def by_rank(op: str, types: Sequence[TensorType | None], index: int = 0) -> Guess | None:
        """What an op's operands alone say of result `index`: an element type and a rank."""
        first = types[0] if types else None
        if first is None:
            return None
        if op in _LIKE_FIRST and index not in _STATISTICS.get(op, ()):
            return first.dtype, [None] * first.rank
        if op in _STATISTICS:
            return DType.F32, [None] * first.rank
        if op in ("ms_group_query_attention", "ms_multi_head_attention", "onnx_attention"):
            return first.dtype, [None] * (4 if index else first.rank)
        target = types[1] if len(types) > 1 else None
        length = target.shape[0] if target is not None and target.rank == 1 else None
        if op == "range":
            return first.dtype, [None]
        if op == "constant_of_shape" and first.rank == 1 and isinstance(first.shape[0], int):
            return DType.F32, [None] * first.shape[0]
        if op == "reshape" and isinstance(length, int):
            return first.dtype, [None] * length
        if op == "expand" and isinstance(length, int):
            return first.dtype, [None] * max(length, first.rank)
        if op in _BROADCAST and all(t is not None for t in types):
            return _broadcast_rank(op, [t for t in types if t is not None])
        if op in _OF_THE_SAME_RANK:
            return first.dtype, [None] * first.rank
        return None


_STATISTICS: dict[str, tuple[int, ...]] = dict.fromkeys(
    ("ms_skip_layer_normalization", "ms_skip_simplified_layer_normalization"), (1, 2)
)
"""Results of norms that are float32 whatever their operands are."""
_LIKE_FIRST = frozenset(
    {
        "layer_normalization", "rms_normalization", "rotary_embedding", "ms_rotary_embedding", "ms_matmul_nbits",
        "ms_simplified_layer_normalization", *_STATISTICS,
    }
)  # fmt: skip
"""Ops whose results have the element type and the rank of the first operand."""
_BROADCAST = frozenset({"add", "sub", "mul", "div", "pow", "where", "equal", "matmul", "ms_fused_matmul"})
RESULTS = {
    "ms_group_query_attention": 3,
    "ms_multi_head_attention": 3,
    "onnx_attention": 4,
    **dict.fromkeys(_STATISTICS, 4),
}
"""How many results an op has, where a node may name fewer."""


_OF_THE_SAME_RANK = frozenset(
    {"slice", "tile", "pad", "trilu", "cum_sum", "concat", "split", "clip", "scatter_nd", "scatter_elements"}
)


def _broadcast_rank(op: str, types: Sequence[TensorType]) -> Guess:
    dtype = DType.BOOL if op == "equal" else types[-1].dtype if op == "where" else types[0].dtype
    return dtype, [None] * max(t.rank for t in types)


def _infer(model: onnx.ModelProto) -> dict[str, onnx.TypeProto.Tensor]:
    """Types by name after inference with data propagation, on a copy without the bytes of big weights."""
    copy = onnx.ModelProto()
    copy.CopyFrom(_without_weights(model))
    known = [*model.graph.value_info, *model.graph.output]
    try:
        inferred = onnx.shape_inference.infer_shapes(copy, check_type=False, strict_mode=False, data_prop=True)
        known += [*inferred.graph.value_info, *inferred.graph.output]
    except (onnx.shape_inference.InferenceError, onnx.checker.ValidationError, RuntimeError, ValueError):
        pass  # the model's own annotations are all there is
    return {v.name: v.type.tensor_type for v in known if v.type.WhichOneof("value") == "tensor_type"}


def _without_weights(model: onnx.ModelProto, limit: int = 4096) -> onnx.ModelProto:
    """The model with initializers above `limit` bytes turned into inputs of the same type."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    graph.value_info.extend(model.graph.value_info)
    inputs = {i.name for i in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.data_location != onnx.TensorProto.EXTERNAL and tensor.ByteSize() <= limit:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
    return light
