"""Which ops move no data: their result is another view of their operand's memory.

`views(node, layout)` gives the layout of each result inside the first operand's memory, or None where the elements
would have to move (a reshape across a transposition, a slice that cuts a bank pattern).
"""

from __future__ import annotations

from collections.abc import Callable

from pimc.ir.graph import Node, Value
from pimc.ir.layout import Layout
from pimc.ir.types import TensorType

_View = Callable[[Node, Layout], "tuple[Layout | None, ...]"]


def views(node: Node, layout: Layout) -> tuple[Layout | None, ...]:
    """For each result, its layout as a view of the first operand that lies at `layout`; None: must be computed.

    The operand may lie in a layout with room to spare; only permutations and slices look through that.
    """
    rule = _VIEWS.get(node.op.name)
    operand = node.operands[0] if node.operands else None
    if rule is None or operand is None:
        return (None,) * len(node.results)
    if layout.shape != operand.type.static_shape and rule not in (_same, _transpose, _slice, _split):
        return (None,) * len(node.results)
    return rule(node, layout)


def unviewed(node: Node, layout: Layout) -> Layout | None:
    """The other way: where the operand's elements lie, given the layout of a result that has all of them and no others;
    None where that is no layout."""
    operand = node.operands[0]
    assert operand is not None
    if _VIEWS.get(node.op.name) is _transpose:
        places = Layout(0, tuple(((1, i),) for i in range(len(layout.dims))))
        (moved,) = _transpose(node, places)
        assert moved is not None
        order = [digits[0][1] for digits in moved.dims]
        return layout.permuted([order.index(i) for i in range(len(order))])
    if _VIEWS.get(node.op.name) in (_same, _reshape):
        return layout.reshaped(operand.type.static_shape)
    return None


def is_view_op(node: Node) -> bool:
    """Whether the op can be a view at all."""
    return node.op.name in _VIEWS


def _same(node: Node, layout: Layout) -> tuple[Layout | None, ...]:
    return (layout,)


def _reshape(node: Node, layout: Layout) -> tuple[Layout | None, ...]:
    return (layout.reshaped(node.result.type.static_shape),)


def _transpose(node: Node, layout: Layout) -> tuple[Layout | None, ...]:
    perm = node.attribute("perm")
    rank = len(layout.dims)
    order = perm if isinstance(perm, tuple) and perm else tuple(reversed(range(rank)))
    return (layout.permuted([int(i) for i in order]),)


def _expand(node: Node, layout: Layout) -> tuple[Layout | None, ...]:
    return (layout.broadcast(node.result.type.static_shape),)


def _slice(node: Node, layout: Layout) -> tuple[Layout | None, ...]:
    rank = len(layout.dims)
    starts, ends = _numbers(node, 1), _numbers(node, 2)
    axes, steps = _numbers(node, 3), _numbers(node, 4)
    if starts is None or ends is None:
        return (None,)
    axes = axes if axes is not None else list(range(len(starts)))
    steps = steps if steps is not None else [1] * len(starts)
    result: Layout | None = layout
    for start, axis, step in zip(starts, axes, steps, strict=True):
        if result is None:
            return (None,)
        axis %= rank
        extent = node.operands[0].type.static_shape[axis] if node.operands[0] is not None else 0
        count = node.result.type.static_shape[axis]
        first = start + extent if start < 0 else start
        first = min(max(first, 0), extent if step > 0 else extent - 1)
        result = result.sliced(axis, first, first + count * step, step)
    return (result,)


def _split(node: Node, layout: Layout) -> tuple[Layout | None, ...]:
    axis = node.attribute("axis")
    assert isinstance(axis, int)
    axis %= len(layout.dims)
    parts: list[Layout | None] = []
    start = 0
    for result in node.results:
        extent = result.type.static_shape[axis]
        parts.append(layout.sliced(axis, start, start + extent))
        start += extent
    return tuple(parts)


def _numbers(node: Node, index: int) -> list[int] | None:
    """The contents of an operand; None where it is absent or unknown."""
    value: Value | None = node.operands[index] if index < len(node.operands) else None
    if value is None:
        return None
    type: TensorType = value.type
    return None if type.array is None else [int(i) for i in type.array.reshape(-1)]


_VIEWS: dict[str, _View] = {
    "identity": _same,
    "reshape": _reshape,
    "flatten": _reshape,
    "squeeze": _reshape,
    "unsqueeze": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "slice": _slice,
    "split": _split,
}
