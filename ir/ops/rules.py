"""What type rules have in common: dimensions that must agree, axes, broadcasting, and contents that must be known.

A rule never guesses about symbolic dimensions: where agreement cannot be decided it raises `UnknownContents`, which
says "not yet", while a real misfit is rejected.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pimc.ir.op import Array, UnknownContents, known, reject, require
from pimc.ir.types import Dim, DType, Shape, Sym, TensorType

INTEGERS = frozenset(
    {DType.I64, DType.I32, DType.I16, DType.I8, DType.U64, DType.U32, DType.U16, DType.U8, DType.I4, DType.U4}
)


def agree(left: Dim, right: Dim, what: str) -> Dim:
    """The one dimension that both must be."""
    if left == right:
        return left
    if isinstance(left - right, int):
        reject(f"{what}: {left} does not match {right}")
    raise UnknownContents(f"{what}: it is not known whether {left} equals {right}")


def compatible(given: Sequence[Dim], wanted: Sequence[Dim | None], name: str) -> None:
    """Reject a shape that cannot be the wanted one (None: any extent), whatever symbols turn out to be."""
    require(len(given) == len(wanted), f"{name} must have rank {len(wanted)}, but has {len(given)}")
    for i, (left, right) in enumerate(zip(given, wanted, strict=True)):
        if right is not None and left != right and isinstance(left - right, int):
            reject(f"dimension {i} of {name} must be {right}, but is {left}")


def broadcast_dim(left: Dim, right: Dim) -> Dim:
    if left == right or right == 1:
        return left
    if left == 1:
        return right
    if isinstance(left, Sym) and isinstance(right, int) and right > 1:
        return right
    if isinstance(right, Sym) and isinstance(left, int) and left > 1:
        return left
    if isinstance(left - right, int) and not (isinstance(left, Sym) and isinstance(right, Sym)):
        reject(f"dimensions {left} and {right} do not broadcast")
    raise UnknownContents(f"it is not known whether dimensions {left} and {right} broadcast")


def broadcast(*shapes: Shape) -> Shape:
    """The shape that numpy broadcasting gives."""
    rank = max((len(s) for s in shapes), default=0)
    result: list[Dim] = [1] * rank
    for shape in shapes:
        for i, dim in enumerate(shape, rank - len(shape)):
            result[i] = broadcast_dim(result[i], dim)
    return tuple(result)


def axis_of(axis: int, rank: int) -> int:
    """The axis counted from the front."""
    require(-rank <= axis < rank, f"axis {axis} is out of range for rank {rank}")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> list[int]:
    found = [axis_of(axis, rank) for axis in axes]
    require(len(set(found)) == len(found), f"axes {list(axes)} name the same axis twice")
    return found


def known_ints(operand: TensorType, what: str) -> list[int]:
    """The contents of an operand (a vector, or one number) as Python ints."""
    require(operand.rank <= 1, f"{what} must be a vector, but are {operand}")
    require(operand.dtype in INTEGERS, f"{what} must be integers, but are {operand}")
    return [int(v) for v in np.asarray(known(operand, f"{what} are not known")).reshape(-1)]


CHECKED = 2**16
"""Of so many known indices at most it is checked that they are in range, while types are inferred."""


def in_range(indices: TensorType, *extents: Dim) -> None:
    """Reject known indices beyond the extents; several: for the entries of the index vectors in the last dimension."""
    array = indices.array
    if array is None or not 0 < array.size <= CHECKED:
        return
    columns = array.astype(np.int64).reshape(-1, max(1, len(extents)))
    for column, extent in zip(columns.T, extents, strict=True):
        wrong = column[(column < -extent) | (column >= extent)] if isinstance(extent, int) else column[:0]
        require(not wrong.size, f"index {wrong[:1].tolist()} is out of range for a dimension of {extent}")


def known_scalar(operand: TensorType, what: str) -> int:
    require(operand.dtype in INTEGERS, f"{what} must be an integer, but is {operand}")
    values = np.asarray(known(operand, f"{what} is not known")).reshape(-1)
    require(values.size == 1, f"{what} must be one number, not {values.size}")
    return int(values[0])


def product(dims: Sequence[Dim]) -> Dim:
    total: Dim = 1
    for dim in dims:
        total = total * dim
    return total


def quotient(source: Sequence[Dim], target: Sequence[Dim], what: str) -> Dim:
    """product(source) / product(target), which must be exact; equal dimensions cancel first (zeros and symbols too)."""
    above, below = list(source), []
    for dim in target:
        if dim in above:
            above.remove(dim)
        else:
            below.append(dim)
    total, divisor = product(above), product(below)
    if total == divisor:
        return 1
    if isinstance(divisor, int):
        if isinstance(total, int):
            require(divisor != 0 and total % divisor == 0, f"{what}: {total} is not divisible by {divisor}")
            return total // divisor
        exact = total.divided(divisor)
        if exact is not None:
            return exact
    elif isinstance(total, Sym):
        ratio = _monomial_quotient(total, divisor)
        if ratio is not None:
            return ratio
    raise UnknownContents(f"{what}: it is not known whether {total} is divisible by {divisor}")


def _monomial_quotient(total: Sym, divisor: Sym) -> Dim | None:
    if len(divisor.terms) != 1:
        return None
    (names, factor), *_ = divisor.terms
    result: Dim = 0
    for monomial, coefficient in total.terms:
        left = list(monomial)
        for name in names:
            if name not in left:
                return None
            left.remove(name)
        if coefficient % factor:
            return None
        result = result + product([coefficient // factor, *(Sym.named(n) for n in left)])
    return result


def divide(dim: Dim, by: int, what: str) -> Dim:
    return quotient([dim], [by], what)


def want_rank(x: TensorType, ranks: int | tuple[int, ...], name: str) -> None:
    allowed = (ranks,) if isinstance(ranks, int) else ranks
    require(x.rank in allowed, f"{name} must have rank {' or '.join(map(str, allowed))}, but is {x}")


def want_float(x: TensorType, name: str = "the operand") -> None:
    require(x.dtype.is_float, f"{name} must be of a float type, but is {x}")


def want_integer(x: TensorType, name: str) -> None:
    require(x.dtype in INTEGERS, f"{name} must be of an integer type, but is {x}")


def same_dtype(first: TensorType, *others: TensorType | None) -> DType:
    for other in others:
        if other is not None and other.dtype is not first.dtype:
            reject(f"operands have different element types: {first.dtype.text} and {other.dtype.text}")
    return first.dtype


def dtype_named(text: str) -> DType:
    try:
        return DType.parse(text)
    except ValueError as error:
        reject(str(error))


def wide(x: Array) -> Array:
    """Half-precision floats as float32, so that a chain of operations rounds once; everything else as it is."""
    return x.astype(np.float32) if x.dtype.itemsize == 2 and x.dtype.kind not in "iub" else x
