"""Element-wise ops: a table of names, numpy meanings and element types, turned into declarations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np

from pimc.ir.op import Array, OpClass, OpDef, op, require
from pimc.ir.ops.rules import INTEGERS, broadcast, compatible, dtype_named, same_dtype, wide
from pimc.ir.types import DType, TensorType

Ufunc = Callable[..., Array]

FLOATS = frozenset(d for d in DType if d.is_float)
NUMBERS = FLOATS | INTEGERS
BOOLS = frozenset({DType.BOOL})
ANY = NUMBERS | BOOLS
_CALLED = {FLOATS: "floats", NUMBERS: "numbers", BOOLS: "bool", INTEGERS: "integers"}


def erf(x: Array) -> Array:
    """The error function, computed in float64."""
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(x.dtype)


_erf = np.frompyfunc(math.erf, 1, 1)


def sigmoid(x: Array) -> Array:
    """Without overflow: each sign has its own form."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small)).astype(x.dtype)


def softplus(x: Array) -> Array:
    return cast(Array, np.logaddexp(x, x.dtype.type(0)))


def _div(x: Array, y: Array) -> Array:
    """Integers are divided towards zero, as in C."""
    if np.issubdtype(x.dtype, np.integer):
        y = np.where(y == 0, 1, y)
        quotient = np.abs(x) // np.abs(y)
        return cast(Array, (quotient * (np.sign(x) * np.sign(y))).astype(x.dtype))
    return cast(Array, x / y)


def _pow(x: Array, y: Array) -> Array:
    return np.asarray(np.power(x, y.astype(x.dtype) if x.dtype.kind != "i" else y)).astype(x.dtype)


UNARY: tuple[tuple[str, Ufunc, frozenset[DType], str], ...] = (
    ("abs", np.abs, NUMBERS, "The absolute value."),
    ("neg", np.negative, NUMBERS, "`-x`."),
    ("sign", np.sign, NUMBERS, "-1, 0 or 1."),
    ("sqrt", np.sqrt, FLOATS, "The square root."),
    ("reciprocal", lambda x: x.dtype.type(1) / x, FLOATS, "`1 / x`."),
    ("exp", np.exp, FLOATS, "e to the power of x."),
    ("log", np.log, FLOATS, "The natural logarithm."),
    ("sin", np.sin, FLOATS, "The sine of x in radians."),
    ("cos", np.cos, FLOATS, "The cosine of x in radians."),
    ("tan", np.tan, FLOATS, "The tangent of x in radians."),
    ("tanh", np.tanh, FLOATS, "The hyperbolic tangent."),
    ("atan", np.arctan, FLOATS, "The arc tangent, in radians."),
    ("sinh", np.sinh, FLOATS, "The hyperbolic sine."),
    ("cosh", np.cosh, FLOATS, "The hyperbolic cosine."),
    ("erf", erf, FLOATS, "The error function."),
    ("floor", np.floor, FLOATS, "The largest integer not above x."),
    ("ceil", np.ceil, FLOATS, "The smallest integer not below x."),
    ("round", np.rint, FLOATS, "The nearest integer, halves to even."),
    ("not", np.logical_not, BOOLS, "Logical not."),
    ("bitwise_not", np.invert, INTEGERS, "Every bit inverted."),
    ("relu", lambda x: np.maximum(x, x.dtype.type(0)), NUMBERS, "`max(x, 0)`."),
    ("sigmoid", sigmoid, FLOATS, "`1 / (1 + exp(-x))`."),
    ("softplus", softplus, FLOATS, "`log(1 + exp(x))`."),
    ("softsign", lambda x: x / (1 + np.abs(x)), FLOATS, "`x / (1 + |x|)`."),
    ("silu", lambda x: x * sigmoid(x), FLOATS, "`x * sigmoid(x)`."),
    ("mish", lambda x: x * np.tanh(softplus(x)), FLOATS, "`x * tanh(softplus(x))`."),
    ("hard_swish", lambda x: x * np.clip(x / 6 + 0.5, 0, 1), FLOATS, "`x * hard_sigmoid(x, 1/6, 1/2)`."),
)

BINARY: tuple[tuple[str, Ufunc, frozenset[DType], str], ...] = (
    ("add", np.add, NUMBERS, "`x + y`."),
    ("sub", np.subtract, NUMBERS, "`x - y`."),
    ("mul", np.multiply, NUMBERS, "`x * y`."),
    ("div", _div, NUMBERS, "`x / y`; integers are divided towards zero."),
    ("and", np.logical_and, BOOLS, "Logical and."),
    ("or", np.logical_or, BOOLS, "Logical or."),
    ("xor", np.logical_xor, BOOLS, "Logical exclusive or."),
    ("bitwise_and", np.bitwise_and, INTEGERS, "And of every bit."),
    ("bitwise_or", np.bitwise_or, INTEGERS, "Or of every bit."),
    ("bitwise_xor", np.bitwise_xor, INTEGERS, "Exclusive or of every bit."),
)

COMPARISON: tuple[tuple[str, Ufunc, frozenset[DType], str], ...] = (
    ("equal", np.equal, ANY, "`x == y`."),
    ("less", np.less, NUMBERS, "`x < y`."),
    ("less_or_equal", np.less_equal, NUMBERS, "`x <= y`."),
    ("greater", np.greater, NUMBERS, "`x > y`."),
    ("greater_or_equal", np.greater_equal, NUMBERS, "`x >= y`."),
)

VARIADIC: tuple[tuple[str, Ufunc, str], ...] = (
    ("max", np.maximum, "The largest of all operands."),
    ("min", np.minimum, "The smallest of all operands."),
    ("sum", np.add, "The sum of all operands."),
)


def _allow(allowed: frozenset[DType], *operands: TensorType) -> None:
    for x in operands:
        require(x.dtype in allowed, f"operands must be {_CALLED.get(allowed, 'of another type')}, not {x.dtype.text}")


def _declare_unary(name: str, function: Ufunc, allowed: frozenset[DType], doc: str) -> OpDef:
    def rule(x: TensorType) -> TensorType:
        _allow(allowed, x)
        return TensorType(x.dtype, x.shape)

    rule.__doc__ = doc
    return op(name, cls=OpClass.ELEMENTWISE)(rule).reference(
        lambda x: np.asarray(function(wide(x))).astype(x.dtype, copy=False)
    )


def _declare_binary(name: str, function: Ufunc, allowed: frozenset[DType], doc: str, result: DType | None) -> OpDef:
    def rule(x: TensorType, y: TensorType) -> TensorType:
        _allow(allowed, x, y)
        return TensorType(result or same_dtype(x, y), broadcast(x.shape, y.shape))

    def meaning(x: Array, y: Array) -> Array:
        out = np.asarray(function(x, y))
        return out if result else out.astype(x.dtype, copy=False)

    rule.__doc__ = doc
    return op(name, cls=OpClass.ELEMENTWISE)(rule).reference(meaning)


def _declare_variadic(name: str, function: Ufunc, doc: str) -> OpDef:
    def rule(*xs: TensorType) -> TensorType:
        require(bool(xs), f"{name} needs at least one operand")
        _allow(NUMBERS, *xs)
        return TensorType(same_dtype(*xs), broadcast(*(x.shape for x in xs)))

    def meaning(*xs: Array) -> Array:
        total = xs[0]
        for x in xs[1:]:
            total = np.asarray(function(total, x))
        return total

    rule.__doc__ = doc
    return op(name, cls=OpClass.ELEMENTWISE)(rule).reference(meaning)


for _row in UNARY:
    _declare_unary(*_row)
for _row in BINARY:
    _declare_binary(*_row, None)
for _row in COMPARISON:
    _declare_binary(*_row, DType.BOOL)
for _name, _function, _doc in VARIADIC:
    _declare_variadic(_name, _function, _doc)


@op("pow", cls=OpClass.ELEMENTWISE)
def pow(x: TensorType, y: TensorType) -> TensorType:
    """`x` to the power of `y`; the exponent may be of another element type, the result is of the base's."""
    _allow(NUMBERS, x, y)
    return TensorType(x.dtype, broadcast(x.shape, y.shape))


pow.reference(_pow)


@op("mod", cls=OpClass.ELEMENTWISE)
def mod(x: TensorType, y: TensorType, *, fmod: int = 0) -> TensorType:
    """The remainder of `x / y`, with the sign of `y`; with the sign of `x` where `fmod` is 1."""
    _allow(NUMBERS, x, y)
    require(fmod in (0, 1), f"fmod must be 0 or 1, not {fmod}")
    return TensorType(same_dtype(x, y), broadcast(x.shape, y.shape))


@mod.reference
def _(x: Array, y: Array, *, fmod: int = 0) -> Array:
    return np.asarray(np.fmod(x, y) if fmod else np.mod(x, y))


@op("clip", cls=OpClass.ELEMENTWISE)
def clip(x: TensorType, min: TensorType | None = None, max: TensorType | None = None) -> TensorType:
    """`x` held between `min` and `max` (scalars, each optional)."""
    _allow(NUMBERS, x)
    for bound in (min, max):
        if bound is not None:
            compatible(bound.shape, () if bound.rank == 0 else (1,), "a bound")
    same_dtype(x, min, max)
    return TensorType(x.dtype, x.shape)


@clip.reference
def _(x: Array, min: Array | None = None, max: Array | None = None) -> Array:
    low = x if min is None else np.maximum(x, min.reshape(()))
    return np.asarray(low if max is None else np.minimum(low, max.reshape(())))


@op("where", cls=OpClass.ELEMENTWISE)
def where(condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
    """`x` where the condition holds, else `y`."""
    _allow(BOOLS, condition)
    return TensorType(same_dtype(x, y), broadcast(condition.shape, x.shape, y.shape))


@where.reference
def _(condition: Array, x: Array, y: Array) -> Array:
    return np.asarray(np.where(condition, x, y))


@op("is_nan", cls=OpClass.ELEMENTWISE)
def is_nan(x: TensorType) -> TensorType:
    """Whether each element is not a number."""
    _allow(FLOATS, x)
    return TensorType(DType.BOOL, x.shape)


is_nan.reference(lambda x: np.isnan(x))


@op("is_inf", cls=OpClass.ELEMENTWISE)
def is_inf(x: TensorType, *, detect_negative: int = 1, detect_positive: int = 1) -> TensorType:
    """Whether each element is infinite; the attributes choose the signs that count."""
    _allow(FLOATS, x)
    return TensorType(DType.BOOL, x.shape)


@is_inf.reference
def _(x: Array, *, detect_negative: int = 1, detect_positive: int = 1) -> Array:
    return np.asarray(np.isinf(x) & (((x > 0) & bool(detect_positive)) | ((x < 0) & bool(detect_negative))))


@op("cast", cls=OpClass.ELEMENTWISE)
def cast_(x: TensorType, *, to: str) -> TensorType:
    """`x` in another element type; floats become integers by dropping the fraction."""
    return TensorType(dtype_named(to), x.shape)


@cast_.reference
def _(x: Array, *, to: str) -> Array:
    return x.astype(DType.parse(to).numpy)


@cast_.flops
def _(x: TensorType, *, to: str, results: tuple[TensorType, ...]) -> int:
    return 0


@op("identity", cls=OpClass.MOVEMENT)
def identity(x: TensorType) -> TensorType:
    """`x` itself."""
    return x


identity.reference(lambda x: x)
