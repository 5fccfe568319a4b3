"""What the vector commands of all machines have in common: their operands, regions, and what each function means.

A vector command works on a grid of `rows` x `columns` elements in the on-chip buffer. Each operand has its own byte
strides (0: broadcast) and element type; floats are computed in float32, integers in int64, and rounded to the
destination's type. Machines declare their own mnemonics on top of these and say what they take.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Set
from functools import lru_cache
from operator import attrgetter
from typing import Any

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command, Region, address, choice, element_type, operand, real
from pimc.backends.state import DeviceState
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.record import record

FORMS = ("i", "a", "ab", "ai", "ia", "abc", "abi", "aib", "abci")
"""Where the operands of a function come from, in order: memory (a, b, c) or the immediate (i)."""


@record
class Function:
    """An element-wise function: how many operands it takes and what it computes."""

    arity: int
    meaning: Callable[..., Any]
    doc: str


_erf = np.frompyfunc(math.erf, 1, 1)


def _error_function(x: Array) -> Array:
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(np.float32)


def _divide(x: Array, y: Array) -> Array:
    """Integers are divided towards zero (and by one instead of zero), as a scalar core does."""
    if x.dtype.kind == "f" or y.dtype.kind == "f":
        return np.asarray(x / y)
    y = np.where(y == 0, 1, y)
    return np.asarray(np.abs(x) // np.abs(y) * (np.sign(x) * np.sign(y)))


def _power(x: Array, y: Array) -> Array:
    if x.dtype.kind == "f":
        return np.asarray(np.power(x, y.astype(x.dtype)))
    return np.asarray(np.power(x.astype(np.float64), y)).astype(np.int64) if y.min() < 0 else np.asarray(x**y)


FUNCTIONS: Mapping[str, Function] = {
    "copy": Function(1, lambda x: x, "a, in the destination's element type"),
    "index": Function(1, lambda start: start, "the immediate plus the column's number"),
    "add": Function(2, np.add, "a + b"),
    "sub": Function(2, np.subtract, "a - b"),
    "mul": Function(2, np.multiply, "a * b"),
    "div": Function(2, _divide, "a / b; integers towards zero"),
    "mod": Function(2, np.mod, "the remainder of a / b with the sign of b"),
    "fmod": Function(2, np.fmod, "the remainder of a / b with the sign of a"),
    "pow": Function(2, _power, "a to the power of b"),
    "max": Function(2, np.maximum, "the larger of a and b"),
    "min": Function(2, np.minimum, "the smaller of a and b"),
    "mul_add": Function(3, lambda a, b, c: a * b + c, "a * b + c"),
    "neg": Function(1, np.negative, "-a"),
    "abs": Function(1, np.abs, "|a|"),
    "sign": Function(1, np.sign, "-1, 0 or 1"),
    "sqrt": Function(1, np.sqrt, "the square root"),
    "rsqrt": Function(1, lambda x: 1 / np.sqrt(x), "1 / sqrt(a)"),
    "reciprocal": Function(1, lambda x: 1 / x, "1 / a"),
    "exp": Function(1, np.exp, "e to the power of a"),
    "log": Function(1, np.log, "the natural logarithm"),
    "sin": Function(1, np.sin, "the sine"),
    "cos": Function(1, np.cos, "the cosine"),
    "tanh": Function(1, np.tanh, "the hyperbolic tangent"),
    "atan": Function(1, np.arctan, "the arc tangent"),
    "erf": Function(1, _error_function, "the error function"),
    "floor": Function(1, np.floor, "the largest integer not above a"),
    "ceil": Function(1, np.ceil, "the smallest integer not below a"),
    "round": Function(1, np.rint, "the nearest integer, halves to even"),
    "equal": Function(2, np.equal, "a == b"),
    "less": Function(2, np.less, "a < b"),
    "less_or_equal": Function(2, np.less_equal, "a <= b"),
    "is_nan": Function(1, np.isnan, "whether a is not a number"),
    "is_inf": Function(1, np.isinf, "whether a is infinite"),
    "and": Function(2, np.bitwise_and, "a and b, bit by bit"),
    "or": Function(2, np.bitwise_or, "a or b, bit by bit"),
    "xor": Function(2, np.bitwise_xor, "a exclusive-or b, bit by bit"),
    "not": Function(1, np.invert, "every bit of a inverted; for bool, logical not"),
    "select": Function(3, np.where, "b where a holds, else c"),
    "scale": Function(3, lambda a, b, c: (a - c) * b, "(a - c) * b: a level by its scale b and zero point c"),
    "scale_low": Function(3, lambda a, b, c: ((a & 15) - c) * b, "the same of the low half of a byte"),
    "scale_low_signed": Function(3, lambda a, b, c: (((a & 15) ^ 8) - 8 - c) * b, "the same of a signed low half"),
    "scale_high": Function(3, lambda a, b, c: ((a >> 4) - c) * b, "the same of the high half, signed as a's type is"),
    "keep": Function(4, lambda a, b, c, d: np.where(b <= c, a, d), "a where b <= c, else the immediate"),
}
"""The element-wise functions. `a` is the first operand of the command's form, `b` the second, and so on."""


@record
class Elementwise(Command):
    """One function over a grid of elements in the buffer."""

    function: str = choice("what is computed", tuple(FUNCTIONS))
    form: str = choice("where the function's operands come from: memory a, b, c, or the immediate i", FORMS)
    rows: Scalar = operand("rows of the grid")
    columns: Scalar = operand("columns of the grid")
    dst: Scalar = address("first result")
    dst_type: DType = element_type("element type of the results")
    dst_row: Scalar = operand("bytes from row to row of the results")
    dst_column: Scalar = operand("bytes from column to column of the results")
    a: Scalar = address("first element of a", 0)
    a_type: DType = element_type("element type of a", DType.F32)
    a_row: Scalar = operand("bytes from row to row of a", 0)
    a_column: Scalar = operand("bytes from column to column of a", 0)
    b: Scalar = address("first element of b", 0)
    b_type: DType = element_type("element type of b", DType.F32)
    b_row: Scalar = operand("bytes from row to row of b", 0)
    b_column: Scalar = operand("bytes from column to column of b", 0)
    c: Scalar = address("first element of c", 0)
    c_type: DType = element_type("element type of c", DType.F32)
    c_row: Scalar = operand("bytes from row to row of c", 0)
    c_column: Scalar = operand("bytes from column to column of c", 0)
    immediate: float = real("the operand i", 0.0)

    def regions(self) -> Iterator[Region]:
        for letter in self.form:
            if letter != "i":
                start, row, column, dtype = _GRIDS[letter](self)
                yield grid_region(start, self.rows, self.columns, row, column, dtype, write=False)
        yield grid_region(self.dst, self.rows, self.columns, self.dst_row, self.dst_column, self.dst_type, write=True)

    def execute(self, state: DeviceState) -> None:
        buffer = state.spaces["buffer"]
        rows, columns = plain(self.rows), plain(self.columns)
        given = {
            x: widened(buffer.read(plain(getattr(self, x)), ((rows, plain(getattr(self, f"{x}_row"))),
                       (columns, plain(getattr(self, f"{x}_column")))), getattr(self, f"{x}_type")))
            for x in self.form if x != "i"
        }  # fmt: skip
        kinds = {array.dtype.kind for array in given.values()} or {"f" if self.dst_type.is_float else "i"}
        given["i"] = _immediate(self.immediate, kinds)
        with np.errstate(all="ignore"):
            out = np.asarray(FUNCTIONS[self.function].meaning(*(given[x] for x in self.form)))
            if self.function == "index":
                out = out + np.arange(columns)
            target = ((rows, plain(self.dst_row)), (columns, plain(self.dst_column)))
            buffer.write(plain(self.dst), target, self.dst_type, np.broadcast_to(out, (rows, columns)))


_GRIDS = {x: attrgetter(x, f"{x}_row", f"{x}_column", f"{x}_type") for x in "abc"}
"""By letter of an operand: where it begins, its strides, and its type."""


def _immediate(value: float, kinds: Set[str]) -> Array:
    """The immediate in the type that the other operands are computed in, of kinds as numpy names them; the largest
    integer where it is beyond."""
    if "f" not in kinds and float(value).is_integer() and abs(value) <= 1 << 63:
        return np.asarray(min(int(value), (1 << 63) - 1), np.int64)
    return np.asarray(value, np.float32)


REDUCTIONS: Mapping[str, tuple[Callable[..., Any], str]] = {
    "sum": (np.sum, "the sum"),
    "prod": (np.prod, "the product"),
    "max": (np.max, "the largest"),
    "min": (np.min, "the smallest"),
    "arg_max": (np.argmax, "the column of the first largest"),
    "arg_min": (np.argmin, "the column of the first smallest"),
}


@record
class Reduce(Command):
    """Each row of a grid brought down to one value."""

    function: str = choice("what is computed of each row", tuple(REDUCTIONS))
    rows: Scalar = operand("rows of the grid")
    columns: Scalar = operand("columns of the grid")
    dst: Scalar = address("result of the first row")
    dst_type: DType = element_type("element type of the results")
    dst_row: Scalar = operand("bytes from result to result")
    a: Scalar = address("first element")
    a_type: DType = element_type("element type of the grid")
    a_row: Scalar = operand("bytes from row to row")
    a_column: Scalar = operand("bytes from column to column")

    def regions(self) -> Iterator[Region]:
        yield grid_region(self.a, self.rows, self.columns, self.a_row, self.a_column, self.a_type, write=False)
        yield grid_region(self.dst, self.rows, 1, self.dst_row, 0, self.dst_type, write=True)

    def execute(self, state: DeviceState) -> None:
        buffer = state.spaces["buffer"]
        rows, columns = plain(self.rows), plain(self.columns)
        grid = ((rows, plain(self.a_row)), (columns, plain(self.a_column)))
        values = widened(buffer.read(plain(self.a), grid, self.a_type))
        with np.errstate(all="ignore"):
            out = np.asarray(REDUCTIONS[self.function][0](values, axis=1))
            buffer.write(plain(self.dst), ((rows, plain(self.dst_row)),), self.dst_type, out)


@record
class Scan(Command):
    """Running sums along each row of a grid."""

    rows: Scalar = operand("rows of the grid")
    columns: Scalar = operand("columns of the grid")
    dst: Scalar = address("first result")
    dst_type: DType = element_type("element type of the results")
    dst_row: Scalar = operand("bytes from row to row of the results")
    dst_column: Scalar = operand("bytes from column to column of the results")
    a: Scalar = address("first element")
    a_type: DType = element_type("element type of the grid")
    a_row: Scalar = operand("bytes from row to row")
    a_column: Scalar = operand("bytes from column to column")

    def regions(self) -> Iterator[Region]:
        yield grid_region(self.a, self.rows, self.columns, self.a_row, self.a_column, self.a_type, write=False)
        yield grid_region(self.dst, self.rows, self.columns, self.dst_row, self.dst_column, self.dst_type, write=True)

    def execute(self, state: DeviceState) -> None:
        buffer = state.spaces["buffer"]
        rows, columns = plain(self.rows), plain(self.columns)
        grid = ((rows, plain(self.a_row)), (columns, plain(self.a_column)))
        target = ((rows, plain(self.dst_row)), (columns, plain(self.dst_column)))
        with np.errstate(all="ignore"):
            sums = np.cumsum(widened(buffer.read(plain(self.a), grid, self.a_type)), axis=1)
            buffer.write(plain(self.dst), target, self.dst_type, sums)


def plain(scalar: Scalar) -> int:
    """An operand of a command that is being executed or timed, where no variable is left."""
    if isinstance(scalar, int):
        return scalar
    raise TypeError(f"operand {scalar} is not resolved")


def widened(values: Array) -> Array:
    """Integers as int64, so that no intermediate overflows its storage; floats and booleans as they are."""
    return values.astype(np.int64) if values.dtype.kind in "iu" else values


def grid_region(
    start: Scalar, rows: Scalar, columns: Scalar, row: Scalar, column: Scalar, dtype: DType, *, write: bool
) -> Region:
    """The bytes of the buffer between the first and the last element of a grid."""
    back, length = _reach(rows, columns, row, column)
    return Region("buffer", start + back if back else start, length + dtype.bits // 8, write)


@lru_cache(maxsize=1024)  # a program's commands have few shapes
def _reach(rows: Scalar, columns: Scalar, row: Scalar, column: Scalar) -> tuple[int, int]:
    """How far the elements of a grid lie before its first one at most, and how far apart."""
    down, across = (plain(rows) - 1) * plain(row), (plain(columns) - 1) * plain(column)
    return min(down, 0) + min(across, 0), abs(down) + abs(across)
