"""Element-wise ops as sequences of vector functions.

`RECIPES` maps an op to the function that writes its commands. Ops that are one function of the vector units stand in
`DIRECT`; the others are composed of those.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from pimc.backends.kernels.lanes import Lanes, Ref, Source
from pimc.backends.kernels.pointwise import work_type
from pimc.ir.op import Attribute
from pimc.ir.types import DType

Attributes = Callable[[str], Attribute]
OpRecipe = Callable[[Lanes, Sequence[Source], Ref, Attributes], None]

DIRECT: Mapping[str, str] = {
    "cast": "copy",
    "identity": "copy",
    "where": "select",
    "bitwise_and": "and",
    "bitwise_or": "or",
    "bitwise_xor": "xor",
    "bitwise_not": "not",
    **{
        name: name
        for name in (
            "add", "sub", "mul", "div", "and", "or", "xor", "not", "neg", "abs", "sign", "sqrt", "reciprocal", "exp",
            "log", "sin", "cos", "tanh", "atan", "erf", "floor", "ceil", "round", "equal", "less", "less_or_equal",
            "is_nan",
        )
    },
}  # fmt: skip

RECIPES: dict[str, OpRecipe] = {}


def _recipe(*names: str) -> Callable[[OpRecipe], OpRecipe]:
    def register(function: OpRecipe) -> OpRecipe:
        RECIPES.update(dict.fromkeys(names, function))
        return function

    return register


def _direct(function: str) -> OpRecipe:
    def write(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
        v(function, *sources, out=out)

    return write


def _swapped(function: str) -> OpRecipe:
    def write(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
        v(function, sources[1], sources[0], out=out)

    return write


def _folded(function: str) -> OpRecipe:
    """A function of two operands over any number of them."""

    def write(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
        total = sources[0]
        if len(sources) == 1:
            v("copy", total, out=out)
        for i, source in enumerate(sources[1:], 2):
            total = v(function, total, source, out=out if i == len(sources) else None, dtype=work_type(*sources))

    return write


RECIPES.update({name: _direct(function) for name, function in DIRECT.items()})
RECIPES.update(greater=_swapped("less"), greater_or_equal=_swapped("less_or_equal"))
RECIPES.update(max=_folded("max"), min=_folded("min"), sum=_folded("add"))


@_recipe("mod")
def _mod(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    v("fmod" if attribute("fmod") else "mod", *sources, out=out)


@_recipe("pow")
def _pow(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    x, y = sources
    if y == 2:
        v("mul", x, x, out=out)
    elif y == 3:
        v("mul", v("mul", x, x, dtype=work_type(x)), x, out=out)
    elif y == 0.5:
        v("sqrt", x, out=out)
    elif y == -0.5:
        v("rsqrt", x, out=out)
    elif y == -1 and work_type(x).is_float:
        v("reciprocal", x, out=out)
    else:
        v("pow", x, y, out=out)


@_recipe("clip")
def _clip(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    x, *bounds = sources
    low = bounds[0] if attribute("min") else None
    high = bounds[-1] if attribute("max") else None
    if low is None and high is None:
        v("copy", x, out=out)
    if low is not None:
        x = v("max", x, low, out=out if high is None else None, dtype=work_type(x))
    if high is not None:
        v("min", x, high, out=out)


@_recipe("relu")
def _relu(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    v("max", sources[0], 0.0, out=out)


def sigmoid(v: Lanes, x: Source, factor: float = 1.0, out: Ref | None = None) -> Ref:
    """`1 / (1 + exp(-factor * x))`."""
    t = v("sub", 0.0, x) if factor == 1 else v("mul", x, -factor)
    v("exp", t, out=t)
    v("add", t, 1.0, out=t)
    return v("reciprocal", t, out=out or t)


@_recipe("sigmoid")
def _sigmoid(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    sigmoid(v, sources[0], out=out)


@_recipe("silu")
def _silu(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    v("mul", sources[0], sigmoid(v, sources[0]), out=out)


@_recipe("swish")
def _swish(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    v("mul", sources[0], sigmoid(v, sources[0], _float(attribute("alpha"))), out=out)


@_recipe("gelu")
def _gelu(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    """`h * f + h` with h = x / 2 and f = erf(x / sqrt(2)), or tanh of a cubic."""
    x = sources[0]
    if attribute("approximate") == "tanh":
        t = v("mul", x, x)
        v("mul", t, x, out=t)
        v("mul_add", t, 0.044715, x, out=t)
        v("mul", t, math.sqrt(2 / math.pi), out=t)
        v("tanh", t, out=t)
    else:
        t = v("mul", x, math.sqrt(0.5))
        v("erf", t, out=t)
    half = v("mul", x, 0.5)
    v("mul_add", half, t, half, out=out)


def softplus(v: Lanes, x: Source, out: Ref | None = None) -> Ref:
    """`max(x, 0) + log(1 + exp(-|x|))`."""
    t = v("abs", x)
    v("neg", t, out=t)
    v("exp", t, out=t)
    v("add", t, 1.0, out=t)
    v("log", t, out=t)
    return v("add", t, v("max", x, 0.0), out=out or t)


@_recipe("softplus")
def _softplus(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    softplus(v, sources[0], out=out)


@_recipe("mish")
def _mish(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    t = softplus(v, sources[0])
    v("tanh", t, out=t)
    v("mul", t, sources[0], out=out)


@_recipe("softsign")
def _softsign(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    t = v("abs", sources[0])
    v("add", t, 1.0, out=t)
    v("div", sources[0], t, out=out)


def _gate(v: Lanes, x: Source, slope: float, offset: float, out: Ref | None) -> Ref:
    """`slope * x + offset` held between 0 and 1."""
    t = v("mul", x, slope)
    v("add", t, offset, out=t)
    v("max", t, 0.0, out=t)
    return v("min", t, 1.0, out=out or t)


@_recipe("hard_sigmoid")
def _hard_sigmoid(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    _gate(v, sources[0], _float(attribute("alpha")), _float(attribute("beta")), out)


@_recipe("hard_swish")
def _hard_swish(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    v("mul", sources[0], _gate(v, sources[0], 1 / 6, 0.5, None), out=out)


def _two_sided(v: Lanes, x: Source, negative: Source, out: Ref) -> None:
    v("add", v("max", x, 0.0), negative, out=out)


@_recipe("leaky_relu")
def _leaky_relu(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    t = v("min", sources[0], 0.0)
    _two_sided(v, sources[0], v("mul", t, _float(attribute("alpha")), out=t), out)


@_recipe("prelu")
def _prelu(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    t = v("min", sources[0], 0.0)
    _two_sided(v, sources[0], v("mul", t, sources[1], out=t), out)


@_recipe("elu")
def _elu(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    t = v("min", sources[0], 0.0)
    v("exp", t, out=t)
    v("sub", t, 1.0, out=t)
    _two_sided(v, sources[0], v("mul", t, _float(attribute("alpha")), out=t), out)


@_recipe("tan")
def _tan(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
    v("div", v("sin", sources[0]), v("cos", sources[0]), out=out)


def _hyperbolic(function: str) -> OpRecipe:
    def write(v: Lanes, sources: Sequence[Source], out: Ref, _: Attributes) -> None:
        up = v("exp", sources[0])
        down = v("reciprocal", up)
        v(function, up, down, out=up)
        v("mul", up, 0.5, out=out)

    return write


RECIPES.update(sinh=_hyperbolic("sub"), cosh=_hyperbolic("add"))


@_recipe("is_inf")
def _is_inf(v: Lanes, sources: Sequence[Source], out: Ref, attribute: Attributes) -> None:
    x = sources[0]
    positive, negative = attribute("detect_positive"), attribute("detect_negative")
    found = v("is_inf", x, out=out if positive and negative else None, dtype=DType.BOOL)
    if positive and not negative:
        v("and", found, v("less", 0.0, x, dtype=DType.BOOL), out=out)
    elif not positive:
        sign = v("less", x, 0.0 if negative else -math.inf, dtype=DType.BOOL)
        v("and", found, sign, out=out)


def _float(value: Attribute) -> float:
    assert isinstance(value, int | float)
    return float(value)
