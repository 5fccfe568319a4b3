"""Element-wise nodes of random models."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.fuzz.builder import Builder
from tests.fuzz.drawing import broadcasts, partner, sides
from tests.fuzz.eager import Rejected

UNARY = (
    "Abs", "Neg", "Sign", "Sqrt", "Reciprocal", "Exp", "Log", "Sin", "Cos", "Tan", "Tanh", "Atan", "Sinh", "Cosh",
    "Erf", "Floor", "Ceil", "Round", "Relu", "Sigmoid", "Softplus", "Softsign", "HardSwish", "Mish", "Identity",
    "Elu", "LeakyRelu", "HardSigmoid", "Swish", "Gelu",
)  # fmt: skip
BINARY = ("Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "PRelu")
COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual")
LOGICAL = ("And", "Or", "Xor")
BITWISE = ("BitwiseAnd", "BitwiseOr", "BitwiseXor")


def unary(b: Builder) -> object:
    op_type = b.pick(UNARY)
    x = b.value(lambda v: v.is_float or op_type in ("Abs", "Neg", "Sign", "Relu", "Identity"))
    if op_type in ("Sqrt", "Log") and b.maybe(0.9):
        x = b.op("Abs", x)
    more: dict[str, Any] = {}
    if op_type in ("Elu", "LeakyRelu", "Swish") and b.maybe():
        more["alpha"] = float(b.pick((0.1, 0.5, 1.0)))
    return b.op(op_type, x, **more)


def binary(b: Builder) -> object:
    op_type = b.pick(BINARY)
    x = b.value(lambda v: v.dtype != np.bool_)
    left, right = sides(b, x, partner(b, x))
    if op_type == "PRelu":
        x = x if x.is_float else b.floats()
        left, right = x, b.constant(b.array(x.dtype, x.shape[1:]))
    if op_type == "Div" and not left.is_float and not right.array.all():
        raise Rejected("division by zero")
    if op_type == "Pow":
        left = b.op("Abs", left)
        right = b.constant(b.pick((2, 3, 1)) if not left.is_float else b.pick((2, 3, 0.5, -1, 0)), left.dtype)
    if op_type in ("Max", "Min", "Sum") and b.maybe(0.3):
        return b.op(op_type, left, right, partner(b, x))
    return b.op(op_type, left, right)


def modulo(b: Builder) -> object:
    x = b.value(lambda v: v.dtype != np.bool_)
    y = b.constant(b.pick((1, 2, 3, -3)), x.dtype)
    return b.op("Mod", x, y, fmod=1 if x.is_float or b.maybe(0.3) else 0)


def comparison(b: Builder) -> object:
    x = b.value(lambda v: v.dtype != np.bool_)
    return b.op(b.pick(COMPARISONS), *sides(b, x, partner(b, x)))


def logical(b: Builder) -> object:
    x = b.value(dtype=np.bool_)
    return b.op("Not", x) if b.maybe(0.2) else b.op(b.pick(LOGICAL), x, partner(b, x))


def bitwise(b: Builder) -> object:
    x = b.value(lambda v: v.dtype.kind in "iu")
    return b.op("BitwiseNot", x) if b.maybe(0.2) else b.op(b.pick(BITWISE), x, partner(b, x))


def where(b: Builder) -> object:
    x = b.value()
    condition = b.value(lambda v: v.dtype == np.bool_ and broadcasts(v.shape, x.shape))
    return b.op("Where", condition, *sides(b, x, partner(b, x)))


def is_nan(b: Builder) -> object:
    return b.op(b.pick(("IsNaN", "IsInf")), b.value(dtype=np.float32))


def clip(b: Builder) -> object:
    x = b.value(lambda v: v.dtype != np.bool_)
    if b.opset < 11:
        return b.op("Clip", x, min=-1.0, max=2.0)
    low = b.constant(-1, x.dtype) if b.maybe(0.7) and x.dtype.kind != "u" else None
    high = b.constant(2, x.dtype) if b.maybe(0.7) else None
    return b.op("Clip", x, low, high)


def cast(b: Builder) -> object:
    to = b.pick((1, 1, 10, 7, 6, 9, 11, 2, 3))
    return b.op("Cast", b.value(), to=to)


def again(b: Builder) -> object:
    """The same node twice."""
    x = b.floats()
    return b.op("Add", b.op("Tanh", x), b.op("Tanh", x))
