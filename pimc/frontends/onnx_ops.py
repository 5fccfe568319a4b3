"""What each ONNX op means in our vocabulary, whatever the opset: one `Call` for one node.

Our ops bear the names, operands and attributes of the newest ONNX opset, so most nodes go through as they are. The
table `NORMALISE` brings older forms up to date: what was an attribute becomes the operand it is today.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
from onnx import helper

from pimc.frontends.onnx_model import Initializer, OnnxFile, dtype_name, dtype_of, read_tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Value
from pimc.ir.op import REGISTRY, Array, Attribute, OpDef, is_of
from pimc.ir.types import DType
from pimc.record import record

Given = Value | Array | None
"""An operand of a call: a value of the graph, an array that becomes a constant, or nothing."""

MICROSOFT = "com.microsoft"

CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})
DATA_DEPENDENT = frozenset({"Unique", "Compress", "NonMaxSuppression"})
_REPLACED = frozenset({"CastLike"})
"""Op types that become another op."""
STANDARD = frozenset({"", "ai.onnx.preview"})
"""ONNX's own domains with ops of tensors."""

_NAMES = {
    ("", "Attention"): "onnx_attention",
    ("", "IsNaN"): "is_nan",
    ("", "MatMul"): "matmul",
    ("", "MatMulInteger"): "matmul_integer",
    ("", "PRelu"): "prelu",
    ("", "Scatter"): "scatter_elements",
    ("", "SimplifiedLayerNormalization"): "ms_simplified_layer_normalization",
    (MICROSOFT, "DequantizeLinear"): "dequantize_linear",
    (MICROSOFT, "FusedMatMul"): "ms_fused_matmul",
    (MICROSOFT, "Gelu"): "gelu",
    (MICROSOFT, "MatMulNBits"): "ms_matmul_nbits",
    (MICROSOFT, "QuantizeLinear"): "quantize_linear",
    (MICROSOFT, "QuickGelu"): "swish",
}
"""Op types whose name here is not their snake_case. ONNX Runtime writes one of its ops in the default domain."""

_NO_MEANING = frozenset({"stash_type", "accuracy_level", "enable_skip_layer_norm_strict_mode", "saturate"})
"""Attributes about how precisely or how fast to compute, not about what."""


class Unsupported(Exception):
    """This node cannot be imported; the text says why in a few words."""


class NeedsContents(Unsupported):
    """What the node means depends on the contents of an operand, which are not known."""

    def __init__(self, why: str, value: Value) -> None:
        super().__init__(why)
        self.value = value


class DataDependent(Unsupported):
    """The shape of a result depends on data, so that no static compiler can take the node."""


@record
class Call:
    """One node in our terms."""

    op: str
    operands: tuple[Given, ...]
    attributes: Mapping[str, Attribute]


@record
class OnnxNode:
    """A node of a model, attributes decoded (tensors as `Initializer`s) and operands looked up."""

    op_type: str
    domain: str
    version: int
    inputs: tuple[Value | None, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Attribute | Initializer]

    def input(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def ints(self, name: str) -> tuple[int, ...] | None:
        value = self.attributes.get(name)
        return None if value is None else tuple(int(v) for v in value) if isinstance(value, tuple) else (_int(value),)

    def int(self, name: str, default: int) -> int:
        value = self.attributes.get(name)
        return default if value is None else _int(value)

    def float(self, name: str, default: float) -> float:
        value = self.attributes.get(name)
        return value if isinstance(value, float) else default

    def dtype(self, name: str) -> DType | None:
        """The element type that an attribute names by ONNX's number; None where it is not given."""
        number = self.int(name, 0)
        found = dtype_of(number) if number else None
        if number and found is None:
            raise Unsupported(f"elements of type {dtype_name(number)}")
        return found


def require_input(node: OnnxNode, index: int) -> Value:
    value = node.input(index)
    if value is None:
        raise Unsupported(f"its operand {index} is missing")
    return value


def _int(value: object) -> int:
    if not isinstance(value, int):
        raise Unsupported(f"an attribute has the value {value!r} where an integer belongs")
    return value


def op_name(op_type: str, domain: str = "") -> str:
    """Our name of an ONNX op type."""
    if (domain, op_type) in _NAMES:
        return _NAMES[domain, op_type]
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", op_type).lower()
    return f"ms_{words}" if domain == MICROSOFT else words


def decode_attributes(file: OnnxFile, node: onnx.NodeProto) -> dict[str, Attribute | Initializer]:
    """The attributes of a node; raises Unsupported for kinds that have no place in our ops (graphs, sparse tensors)."""
    found: dict[str, Attribute | Initializer] = {}
    for attribute in node.attribute:
        if attribute.ref_attr_name:
            raise Unsupported(f"attribute '{attribute.name}' refers to '{attribute.ref_attr_name}' outside a function")
        if attribute.type == onnx.AttributeProto.TENSOR:
            found[attribute.name] = read_tensor(file, attribute.t, f"{node.name}.{attribute.name}")
            continue
        try:
            value = helper.get_attribute_value(attribute)
        except ValueError:
            raise Unsupported(f"attribute '{attribute.name}' has no known type") from None
        found[attribute.name] = _plain(attribute.name, value)
    return found


def _plain(name: str, value: object) -> Attribute:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, Sequence):
        items = [_plain(name, item) for item in value]
        if all(isinstance(i, int) for i in items):
            return tuple(i for i in items if isinstance(i, int))
        if all(isinstance(i, str) for i in items):
            return tuple(i for i in items if isinstance(i, str))
        return tuple(float(i) for i in items if isinstance(i, (int, float)))
    raise Unsupported(f"attribute '{name}' is a {type(value).__name__}")


# -- the table ------------------------------------------------------------------------------------------------------


def check_supported(op_type: str, domain: str) -> None:
    """Raises Unsupported where no node of this type can be imported, whatever its operands and attributes."""
    if op_type == "SequenceMap":
        raise Unsupported("control flow over sequences")
    if op_type in DATA_DEPENDENT:
        raise DataDependent("the shape of its result depends on data")
    if domain not in ("", MICROSOFT):
        raise Unsupported(f"pimc knows no op of domain {domain}")
    if not is_imported(op_type, domain):
        raise Unsupported("pimc does not declare it")


def is_standard(domain: str) -> bool:
    return domain in STANDARD


def is_imported(op_type: str, domain: str) -> bool:
    """Whether nodes of a type have a meaning here: as an op that is declared, or as several."""
    if domain not in ("", MICROSOFT):
        return False
    if not domain and op_type in CONTROL_FLOW:
        return True
    from pimc.frontends.onnx_expand import EXPANSIONS

    return op_type in _REPLACED or (domain, op_type) in EXPANSIONS or op_name(op_type, domain) in REGISTRY


def convert(node: OnnxNode) -> Call:
    """The call that a node stands for; raises Unsupported."""
    rule = NORMALISE.get(node.op_type)
    call = rule(node) if rule else _as_is(node)
    if call.op not in REGISTRY:
        raise Unsupported("pimc does not declare it")
    return _fit(node, call, REGISTRY[call.op])


def _as_is(node: OnnxNode, **changes: Attribute) -> Call:
    attributes: dict[str, Attribute] = {}
    for name, value in node.attributes.items():
        if isinstance(value, Initializer):
            raise Unsupported(f"attribute '{name}' is a tensor")
        attributes[name] = value
    return Call(op_name(node.op_type, node.domain), node.inputs, {**attributes, **changes})


def _fit(node: OnnxNode, call: Call, op: OpDef) -> Call:
    """Drop attributes that say nothing new, give the others the types that the declaration has."""
    if not call.attributes:
        return call
    kept: dict[str, Attribute] = {}
    declared = _declared(op.name)
    for name, value in call.attributes.items():
        if name in op.attributes or name in op.required:
            wanted = declared[name]
            if not is_of(value, wanted):
                raise fail(Kind.ATTRIBUTE, f"attribute '{name}' is {value!r}, but should be of type {wanted}")
            kept[name] = _coerce(value, op.attributes.get(name))
        elif name not in _NO_MEANING and value != _schema_default(node, name):
            raise Unsupported(f"attribute {name}={value}")
    return replace(call, attributes=kept)


@cache
def _declared(op: str) -> dict[str, str]:
    """The annotations of an op's parameters by name."""
    return {name: str(p.annotation) for name, p in inspect.signature(REGISTRY[op].rule).parameters.items()}


def _coerce(value: Attribute, default: Attribute) -> Attribute:
    if isinstance(default, bool) and isinstance(value, int):
        return bool(value)
    if isinstance(default, float) and isinstance(value, int):
        return float(value)
    return value


def _schema_default(node: OnnxNode, name: str) -> object:
    """ONNX's own default of an attribute, or None where it has none."""
    try:
        schema = onnx.defs.get_schema(node.op_type, node.version, node.domain)
        default = schema.attributes[name].default_value
    except (onnx.defs.SchemaError, KeyError):
        return None
    return None if default.type == onnx.AttributeProto.UNDEFINED else _plain(name, helper.get_attribute_value(default))


def _without(node: OnnxNode, *names: str) -> OnnxNode:
    return replace(node, attributes={k: v for k, v in node.attributes.items() if k not in names})


def _i64(values: Sequence[int]) -> Array:
    return np.asarray(values, np.int64)


def _axes_operand(index: int, name: str = "axes") -> Callable[[OnnxNode], Call]:
    """An op that took `name` as an attribute and takes it as operand `index` since."""

    def rule(node: OnnxNode) -> Call:
        given = node.ints(name)
        call = _as_is(_without(node, name))
        if given is None:
            return call
        operands = [*call.operands, *[None] * (index - len(call.operands))]
        return replace(call, operands=(*operands[:index], _i64(given)))

    return rule


def _split(node: OnnxNode) -> Call:
    call = _axes_operand(1, "split")(node)
    if node.input(1) is None and "split" not in node.attributes and "num_outputs" not in node.attributes:
        return replace(call, attributes={**call.attributes, "num_outputs": len(node.outputs)})
    return call


def _slice(node: OnnxNode) -> Call:
    starts, ends, axes = node.ints("starts"), node.ints("ends"), node.ints("axes")
    if starts is None or ends is None:
        return _as_is(node)
    operands: tuple[Given, ...] = (node.input(0), _i64(starts), _i64(ends))
    return Call("slice", operands if axes is None else (*operands, _i64(axes)), {})


def _clip(node: OnnxNode) -> Call:
    low, high = node.attributes.get("min"), node.attributes.get("max")
    if low is None and high is None:
        return _as_is(node)
    x = node.input(0)
    dtype = x.type.dtype.numpy if x is not None else np.dtype(np.float32)
    bounds = tuple(np.asarray(v, dtype) if isinstance(v, (int, float)) else None for v in (low, high))
    return Call("clip", (x, *bounds), {})


def _pad(node: OnnxNode) -> Call:
    pads = node.ints("pads")
    if pads is None:
        return _as_is(node)
    x, value = node.input(0), node.attributes.get("value", 0.0)
    dtype = x.type.dtype.numpy if x is not None else np.dtype(np.float32)
    fill = np.asarray(value if isinstance(value, (int, float)) else 0.0, dtype)
    return replace(_as_is(_without(node, "pads", "value")), operands=(x, _i64(pads), fill))


def _cast(node: OnnxNode) -> Call:
    number = node.int("to", 0)
    dtype = dtype_of(number)
    if dtype is None:
        raise Unsupported(f"cast to {dtype_name(number)}")
    return Call("cast", (node.input(0),), {"to": dtype.text})


def _cast_like(node: OnnxNode) -> Call:
    like = node.input(1)
    if like is None:
        raise Unsupported("its second operand is missing")
    return Call("cast", (node.input(0),), {"to": like.type.dtype.text})


def _constant_of_shape(node: OnnxNode) -> Call:
    value = node.attributes.get("value")
    if value is None:
        return Call("constant_of_shape", (node.input(0),), {"value": 0.0, "dtype": "f32"})
    if not isinstance(value, Initializer) or value.elements != 1:
        raise Unsupported("its value is not a tensor of one element")
    scalar = np.asarray(value.contents.array()).reshape(()).item()
    if not isinstance(scalar, (bool, int, float)):
        scalar = float(scalar)
    return Call("constant_of_shape", (node.input(0),), {"value": scalar, "dtype": value.dtype.text})


def _topk(node: OnnxNode) -> Call:
    if node.version < 10:
        k = node.int("k", 1)
        return replace(_as_is(_without(node, "k")), operands=(node.input(0), _i64([k])))
    return _as_is(node)


def _quantized(node: OnnxNode) -> Call:
    number = node.int("output_dtype", 0)
    dtype = dtype_of(number)
    if number and dtype is None:
        raise Unsupported(f"elements of type {dtype_name(number)}")
    return _as_is(_without(node, "output_dtype"), **({"output_dtype": dtype.text} if dtype else {}))


def _quick_gelu(node: OnnxNode) -> Call:
    alpha = node.attributes.get("alpha", 1.702)
    return _as_is(node, alpha=alpha if isinstance(alpha, float) else 1.702)


NORMALISE: dict[str, Callable[[OnnxNode], Call]] = {
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _axes_operand(1)),
    **dict.fromkeys(
        (
            "ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd",
            "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
        ),
        _axes_operand(1),
    ),
    "Split": _split,
    "Reshape": _axes_operand(1, "shape"),
    "Tile": _axes_operand(1, "repeats"),
    "Slice": _slice,
    "Clip": _clip,
    "Pad": _pad,
    "Cast": _cast,
    "CastLike": _cast_like,
    "ConstantOfShape": _constant_of_shape,
    "TopK": _topk,
    "QuickGelu": _quick_gelu,
    "DequantizeLinear": _quantized,
    "QuantizeLinear": _quantized,
}  # fmt: skip
"""Op types whose older forms, or whose attributes, differ from our declaration."""
