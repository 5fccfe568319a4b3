"""Element types, symbolic dimensions and tensor types. All immutable."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from pimc.ir.diagnostics import Kind, fail
from pimc.record import record

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DType(Enum):
    """An element type: its name in text, its width in bits, and its numpy type."""

    F64 = "f64", 64
    F32 = "f32", 32
    F16 = "f16", 16
    BF16 = "bf16", 16
    I64 = "i64", 64
    I32 = "i32", 32
    I16 = "i16", 16
    I8 = "i8", 8
    U64 = "u64", 64
    U32 = "u32", 32
    U16 = "u16", 16
    U8 = "u8", 8
    I4 = "i4", 4
    U4 = "u4", 4
    BOOL = "bool", 8

    def __init__(self, text: str, bits: int) -> None:
        self.text = text
        self.bits = bits

    @property
    def is_float(self) -> bool:
        return self in _FLOATS

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The numpy type that holds one element (int4 in int8)."""
        if self is DType.BF16:
            import ml_dtypes

            bfloat16: np.dtype[np.generic] = np.dtype(ml_dtypes.bfloat16)
            return bfloat16
        return np.dtype(_NUMPY[self])

    @staticmethod
    def of(array: np.dtype[np.generic] | NDArray[np.generic]) -> DType:
        """The element type of an array or numpy type; raises ValueError where there is none."""
        dtype = array if isinstance(array, np.dtype) else array.dtype
        try:
            return _BY_NUMPY[dtype.name]
        except KeyError:
            raise ValueError(f"no element type for numpy type {dtype}") from None

    @staticmethod
    def parse(text: str) -> DType:
        try:
            return _BY_TEXT[text]
        except KeyError:
            raise ValueError(f"unknown element type '{text}'") from None


_FLOATS = frozenset({DType.F64, DType.F32, DType.F16, DType.BF16})
_NUMPY = {
    DType.F64: "float64", DType.F32: "float32", DType.F16: "float16",
    DType.I64: "int64", DType.I32: "int32", DType.I16: "int16", DType.I8: "int8", DType.I4: "int8",
    DType.U64: "uint64", DType.U32: "uint32", DType.U16: "uint16", DType.U8: "uint8", DType.U4: "uint8",
    DType.BOOL: "bool",
}  # fmt: skip
_BY_NUMPY = {name: d for d, name in _NUMPY.items() if d not in (DType.I4, DType.U4)} | {
    "bfloat16": DType.BF16,
    "int4": DType.I4,
    "uint4": DType.U4,
}
_BY_TEXT = {d.text: d for d in DType}

_Monomial = tuple[str, ...]


@record
class Sym:
    """A symbolic dimension: a polynomial with integer coefficients over named dimensions.

    `terms` maps a sorted tuple of names to its coefficient and holds no zero. Constants never appear as `Sym`:
    arithmetic gives a plain int as soon as no name is left.
    """

    terms: tuple[tuple[_Monomial, int], ...]

    @staticmethod
    def named(name: str) -> Sym:
        return Sym((((name,), 1),))

    @property
    def names(self) -> frozenset[str]:
        return frozenset(name for monomial, _ in self.terms for name in monomial)

    def __add__(self, other: Dim) -> Dim:
        return _sum([*self.terms, *_terms(other)])

    def __radd__(self, other: int) -> Dim:
        return self + other

    def __neg__(self) -> Dim:
        return self * -1

    def __sub__(self, other: Dim) -> Dim:
        return self + (other * -1)

    def __rsub__(self, other: int) -> Dim:
        return other + self * -1

    def __mul__(self, other: Dim) -> Dim:
        return _sum((tuple(sorted(left + right)), c * d) for left, c in self.terms for right, d in _terms(other))

    def __rmul__(self, other: int) -> Dim:
        return self * other

    def divided(self, by: int) -> Dim | None:
        """The exact quotient by a number, or None where a coefficient does not divide."""
        if by == 0 or any(c % by for _, c in self.terms):
            return None
        return _sum((m, c // by) for m, c in self.terms)

    def bind(self, values: Mapping[str, int]) -> Dim:
        """This dimension with the named ones replaced by numbers."""
        total: Dim = 0
        for monomial, coefficient in self.terms:
            product: Dim = coefficient
            for name in monomial:
                product = product * (values[name] if name in values else Sym.named(name))
            total = total + product
        return total

    def __str__(self) -> str:
        parts = []
        for monomial, c in self.terms:
            factors = [*([str(abs(c))] if abs(c) != 1 or not monomial else []), *monomial]
            parts.append(("- " if c < 0 else "+ ") + "*".join(factors))
        text = " ".join(parts)
        return text[2:] if text.startswith("+ ") else "-" + text[2:]


Dim = int | Sym


def _terms(dim: Dim) -> Iterable[tuple[_Monomial, int]]:
    return dim.terms if isinstance(dim, Sym) else (((), dim),)


def _sum(terms: Iterable[tuple[_Monomial, int]]) -> Dim:
    total: dict[_Monomial, int] = {}
    for monomial, c in terms:
        total[monomial] = total.get(monomial, 0) + c
    left = {m: c for m, c in total.items() if c}
    if not left:
        return 0
    if set(left) == {()}:
        return left[()]
    # Names first, by degree then name, the constant last: "past + seq", "2*seq + 1".
    return Sym(tuple(sorted(left.items(), key=lambda item: (not item[0], len(item[0]), item[0]))))


_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][\w.]*)|(.))")


def parse_dim(text: str) -> Dim:
    """Read `str(dim)` back: sums of products of names and integers. Raises ValueError on anything else."""
    total: Dim = 0
    product: Dim | None = None
    sign = 1
    expect_factor = True
    for number, name, mark in _TOKEN.findall(text.strip()):
        if number or name:
            if not expect_factor:
                raise ValueError(f"not a dimension: '{text}'")
            factor: Dim = int(number) if number else Sym.named(name)
            product = factor if product is None else product * factor
            expect_factor = False
        elif mark == "*" and not expect_factor:
            expect_factor = True
        elif mark in "+-" and not expect_factor and product is not None:
            total, product = total + sign * product, None
            sign, expect_factor = (1 if mark == "+" else -1), True
        elif mark == "-" and product is None and total == 0:
            sign = -sign
        else:
            raise ValueError(f"not a dimension: '{text}'")
    if expect_factor or product is None:
        raise ValueError(f"not a dimension: '{text}'")
    return total + sign * product


Shape = tuple[Dim, ...]


@record
class TensorType:
    """Element type and shape of a value. `array` is its contents where the compiler knows them.

    `array` takes no part in equality: it is what a type rule may look at (the target of a reshape, the axes of a
    reduction), not part of the type.
    """

    dtype: DType
    shape: Shape
    array: NDArray[np.generic] | None = field(default=None, compare=False, repr=False)

    @property
    def rank(self) -> int:
        return len(self.shape)

    @cached_property
    def is_static(self) -> bool:
        return all(isinstance(d, int) for d in self.shape)

    @cached_property
    def static_shape(self) -> tuple[int, ...]:
        """The shape as numbers; raises where a dimension is still symbolic."""
        dims = tuple([d for d in self.shape if isinstance(d, int)])
        if len(dims) != len(self.shape):
            names = sorted({n for d in self.shape if isinstance(d, Sym) for n in d.names})
            raise fail(
                Kind.DIM_UNBOUND,
                f"{self} has dimensions without a value: {', '.join(names)}",
                help=f"give each a number, for instance --dim {names[0]}=1",
            )
        return dims

    @property
    def elements(self) -> int:
        count = 1
        for d in self.static_shape:
            count *= d
        return count

    @property
    def bytes(self) -> int:
        """Bytes of the whole tensor, packed (two int4 share a byte)."""
        return (self.elements * self.dtype.bits + 7) // 8

    def bind(self, values: Mapping[str, int]) -> TensorType:
        return TensorType(
            self.dtype, tuple(d.bind(values) if isinstance(d, Sym) else d for d in self.shape), self.array
        )

    def __str__(self) -> str:
        return f"{self.dtype.text}[{', '.join(str(d) for d in self.shape)}]"


def parse_type(text: str) -> TensorType:
    """Read `str(type)` back, e.g. `f16[batch, 2*seq, 64]`. Raises ValueError on anything else."""
    match = re.fullmatch(r"\s*(\w+)\[(.*)\]\s*", text)
    if match is None:
        raise ValueError(f"not a tensor type: '{text}'")
    dims = [d for d in match[2].split(",") if d.strip()]
    return TensorType(DType.parse(match[1]), tuple(parse_dim(d) for d in dims))
