"""Chains of data movement, understood as regroupings of axes.

Reshapes, transposes, expands and the like neither compute nor reorder elements within a stretch of an axis. Each axis
of their result is a product of `Factor`s, stretches of the axes of the tensor they began with. With that, a pattern
can ask what an operand *is* without caring how an exporter got there: a key cache repeated for grouped queries,
flattened to three dimensions, transposed and unflattened again is still batch, heads, positions and elements.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pimc.ir.graph import Node, Rewriter, Value
from pimc.passes.match import opdef, scaled
from pimc.record import record

_RESHAPES = frozenset({"reshape", "squeeze", "unsqueeze", "flatten", "identity"})
_LONGEST_CHAIN = 24


@record
class Factor:
    """A stretch of axis `axis` of a base tensor: position i of the axis has coordinate `(i // step) % size` in it.

    A negative axis is none of the base's: the factor was made by broadcasting.
    """

    axis: int
    step: int
    size: int

    @property
    def is_broadcast(self) -> bool:
        return self.axis < 0

    def split(self, inner: int) -> tuple[Factor, Factor]:
        """The outer and the inner factor, the inner one of `inner` steps (which must divide the size)."""
        return Factor(self.axis, self.step * inner, self.size // inner), Factor(self.axis, self.step, inner)


Axis = tuple[Factor, ...]
"""An axis as a product of factors, outermost first; an axis of length 1 has none."""
View = tuple[Axis, ...]


def size_of(axis: Axis) -> int:
    return math.prod(f.size for f in axis)


def identity_view(shape: Sequence[int]) -> View:
    return tuple((Factor(i, 1, n),) if n != 1 else () for i, n in enumerate(shape))


def joined(factors: Iterable[Factor]) -> Axis:
    """The factors, in order, with those that continue one another as one."""
    found: list[Factor] = []
    for f in factors:
        if found and found[-1].axis == f.axis and found[-1].step == f.step * f.size:
            f = Factor(f.axis, f.step, found.pop().size * f.size)
        found.append(f)
    return tuple(found)


def regroup(factors: Iterable[Factor], shape: Sequence[int]) -> View | None:
    """The factors, in order, grouped into axes of the given lengths; None where an axis cuts across a factor."""
    pending = [f for f in factors if f.size != 1][::-1]
    axes: list[Axis] = []
    for length in shape:
        axis: list[Factor] = []
        left = length
        while left > 1:
            if not pending:
                return None
            factor = pending.pop()
            if left % factor.size == 0:
                axis.append(factor)
                left //= factor.size
            elif factor.size % left == 0:
                outer, inner = factor.split(factor.size // left)
                axis.append(outer)
                pending.append(inner)
                left = 1
            else:
                return None
        axes.append(tuple(axis))
    return None if pending else tuple(axes)


def refine(left: Axis, right: Axis) -> tuple[Axis, Axis] | None:
    """Both axes with their factors split until they have the same lengths pairwise; None where that cannot be."""
    ours, theirs = list(left[::-1]), list(right[::-1])
    first: list[Factor] = []
    second: list[Factor] = []
    while ours and theirs:
        a, b = ours.pop(), theirs.pop()
        if a.size > b.size and a.size % b.size == 0:
            a, rest = a.split(a.size // b.size)
            ours.append(rest)
        elif b.size > a.size and b.size % a.size == 0:
            b, rest = b.split(b.size // a.size)
            theirs.append(rest)
        if a.size != b.size:
            return None
        first.append(a)
        second.append(b)
    return None if ours or theirs else (tuple(first), tuple(second))


def is_movement(node: Node) -> bool:
    return node.op.name in _RESHAPES or node.op.name in ("transpose", "expand")


def push(view: View, node: Node) -> View | None:
    """The view of the result of a movement, given that of its operand."""
    name = node.op.name
    shape = node.result.type.static_shape
    if name == "transpose":
        perm = node.attribute("perm") or tuple(reversed(range(len(view))))
        assert isinstance(perm, tuple)
        return tuple(view[int(p)] for p in perm)
    if name == "expand":
        return _expand(view, shape)
    return regroup((f for axis in view for f in axis), shape)


def _expand(view: View, shape: Sequence[int]) -> View:
    fresh = min([0, *(f.axis for axis in view for f in axis)]) - 1
    padded: list[Axis] = [(), *[()] * (len(shape) - len(view)), *view][1:]
    for i, (axis, length) in enumerate(zip(padded, shape, strict=True)):
        if size_of(axis) != length:
            padded[i] = (Factor(fresh, 1, length),)
            fresh -= 1
    return tuple(padded)


@record
class Origin:
    """A value seen from a tensor above it: `value = scale * base`, its axes regrouped as `view` says."""

    base: Value
    view: View
    scale: float = 1.0


def origins(value: Value) -> list[Origin]:
    """The value seen from itself, and from each tensor above it as far as only movement and scaling lie between."""
    path: list[Node] = []
    base, scale = value, 1.0
    found = [Origin(value, identity_view(value.type.static_shape))]
    while len(path) < _LONGEST_CHAIN:
        step = _above(base)
        if step is None:
            break
        above, node, factor = step
        if node is not None:
            path.append(node)
        scale *= factor
        base = above
        view = _view_along(base, path)
        if view is None:
            break
        found.append(Origin(base, view, scale))
    return found


def _above(value: Value) -> tuple[Value, Node | None, float] | None:
    """One step up: the operand, the movement (if it is one), and the factor."""
    node = value.owner
    if node is None:
        return None
    product = scaled(value)
    if product is not None:
        return product[0], None, product[1]
    source = node.operands[0] if node.operands else None
    if source is None:
        return None
    if is_movement(node):
        return source, node, 1.0
    if node.op.name == "cast" and source.type.dtype is value.type.dtype:
        return source, None, 1.0
    return None


def _view_along(base: Value, path: Sequence[Node]) -> View | None:
    view: View | None = identity_view(base.type.static_shape)
    for node in reversed(path):
        if view is None:
            return None
        view = push(view, node)
    return view


def steps_to_arrange(shape: Sequence[int], groups: Sequence[Axis]) -> int:
    """How many movements `arrange` needs."""
    split, perm, merged = _plan(shape, groups)
    return (tuple(split) != tuple(shape)) + (perm != sorted(perm)) + ([split[p] for p in perm] != merged)


def arrange(rewriter: Rewriter, base: Value, groups: Sequence[Axis], origins: Iterable[Node] = ()) -> Value:
    """`base` with one axis for each group of its factors: reshaped, transposed and reshaped, as far as needed.

    The groups together must hold every element of the base once.
    """
    shape = base.type.static_shape
    split, perm, merged = _plan(shape, groups)
    if perm == sorted(perm):
        return reshape(rewriter, base, merged, origins)
    value = transpose(rewriter, reshape(rewriter, base, split, origins), tuple(perm), origins)
    return reshape(rewriter, value, merged, origins)


def transpose(rewriter: Rewriter, value: Value, perm: tuple[int, ...], origins: Iterable[Node] = ()) -> Value:
    """The value with its axes permuted; one that is there already, if there is."""
    for user in rewriter.graph.users(value):
        if user.op.name == "transpose" and user.attribute("perm") == perm:
            return user.result
    return rewriter.add(opdef("transpose"), (value,), {"perm": perm}, origins=origins).result


def reshape(rewriter: Rewriter, value: Value, shape: Sequence[int], origins: Iterable[Node] = ()) -> Value:
    """The value in another shape; itself where it has it already."""
    if value.type.static_shape == tuple(shape):
        return value
    import numpy as np

    target = rewriter.constant(f"shape_{'x'.join(map(str, shape))}", np.array(shape, np.int64))
    return rewriter.add(opdef("reshape"), (value, target), origins=origins).result


def _plan(shape: Sequence[int], groups: Sequence[Axis]) -> tuple[list[int], list[int], list[int]]:
    """Shape to split the base into, permutation of those axes, and shape to merge them into.

    Where no factor of a size-1 axis is named, the axis goes wherever it does the least harm.
    """
    factors = sorted((f for g in groups for f in g), key=lambda f: (f.axis, -f.step))
    merged = [size_of(g) for g in groups]
    if [f for g in groups for f in g] == factors:
        return list(shape), list(range(len(shape))), merged
    unsplit = len(factors) == len({f.axis for f in factors})
    if unsplit and len(groups) == len(shape) and all(len(g) <= 1 for g in groups):
        return list(shape), _whole_axes(shape, groups), merged
    place = {f: i for i, f in enumerate(factors)}
    return [f.size for f in factors], [place[f] for g in groups for f in g], merged


def _whole_axes(shape: Sequence[int], groups: Sequence[Axis]) -> list[int]:
    """The permutation that takes whole axes to their groups; axes of length 1 fill the rest in order."""
    named = {g[0].axis for g in groups if g}
    spare = iter([i for i in range(len(shape)) if i not in named])
    return [g[0].axis if g else next(spare) for g in groups]
