"""Values as stretches of the last axis of a tensor that they are cut from."""

from __future__ import annotations

from pimc.ir.graph import Node, Rewriter, Value
from pimc.passes.building import Builder
from pimc.passes.match import ints_of, operand, owner
from pimc.passes.views import transpose
from pimc.record import record


@record
class Stretch:
    """Elements `start`, `start + step`, .. (`count` of them) of the last axis of `whole`, its other axes permuted.

    With `rows`, the other axes are then reshaped to these.
    """

    whole: Value
    perm: tuple[int, ...]
    start: int
    count: int
    step: int = 1
    rows: tuple[int, ...] | None = None

    @property
    def stop(self) -> int:
        return self.start + self.count * self.step

    @property
    def shape(self) -> tuple[int, ...]:
        rows = tuple(self.whole.type.static_shape[p] for p in self.perm[:-1])
        return (*(rows if self.rows is None else self.rows), self.count)

    def of(self, start: int, count: int) -> Stretch:
        """So many elements next to one another of the same tensor."""
        return Stretch(self.whole, self.perm, start, count, rows=self.rows)


def width_of(value: Value) -> int:
    return value.type.static_shape[-1] if value.type.rank else 1


def stretch_of(value: Value) -> Stretch:
    """The value as part of the tensor furthest up that it is cut from (slices of slices are followed)."""
    column = _column_of_pairs(value)
    found = column or _slice_bounds(value) or _split_bounds(value)
    if found is not None:
        source, start, step = found
        outer = stretch_of(source)
        count = width_of(value) if column is None else width_of(source) // step
        rows = outer.rows if column is None else _other_rows(value, count, outer)
        return Stretch(outer.whole, outer.perm, outer.start + start * outer.step, count, step * outer.step, rows)
    turn = owner(value, "transpose")
    perm = turn.attribute("perm") if turn is not None else None
    if turn is not None and turn.operands[0] is not None and isinstance(perm, tuple) and perm[-1] == len(perm) - 1:
        inner = stretch_of(turn.operands[0])
        if inner.rows is not None:
            return Stretch(value, tuple(range(value.type.rank)), 0, width_of(value))
        both = tuple(inner.perm[int(p)] for p in perm)
        return Stretch(inner.whole, both, inner.start, inner.count, inner.step)
    return Stretch(value, tuple(range(value.type.rank)), 0, width_of(value))


def _other_rows(column: Value, count: int, outer: Stretch) -> tuple[int, ...] | None:
    """The rows of a column of pairs, where the reshape that made pairs has regrouped those of the tensor, too."""
    shape = column.type.static_shape
    rows = shape[:-1] if shape[-1:] == (count,) else shape[:-2]
    return None if rows == outer.shape[:-1] else rows


def cut(builder: Builder, stretch: Stretch) -> Value:
    """A stretch without gaps as a value; one that is there already, if there is."""
    assert stretch.step == 1
    part = _slice(builder, stretch.whole, stretch.start, stretch.stop)
    if list(stretch.perm) != sorted(stretch.perm):
        part = transpose(builder.rewriter, part, stretch.perm)
    return builder.reshape(part, stretch.shape)


def _slice(builder: Builder, whole: Value, start: int, stop: int) -> Value:
    if (start, stop) == (0, width_of(whole)):
        return whole
    for user in builder.rewriter.graph.users(whole):
        if _slice_bounds(user.result) == (whole, start, 1) and width_of(user.result) == stop - start:
            return user.result
    return builder.slice(whole, whole.type.rank - 1, start, stop)


def _slice_bounds(value: Value) -> tuple[Value, int, int] | None:
    node = owner(value, "slice")
    if node is None or node.operands[0] is None:
        return None
    source = node.operands[0]
    starts, axes, steps = (ints_of(operand(node, i)) for i in (1, 3, 4))
    if starts is None or len(starts) != 1:
        return None
    axis = axes[0] if axes else 0
    step = steps[0] if steps else 1
    if axis not in (-1, source.type.rank - 1) or step < 1:
        return None
    width = width_of(source)
    return source, max(0, starts[0] + width) if starts[0] < 0 else min(starts[0], width), step


def _split_bounds(value: Value) -> tuple[Value, int, int] | None:
    node = owner(value, "split")
    if node is None or node.operands[0] is None or node.attribute("axis") not in (-1, value.type.rank - 1):
        return None
    return node.operands[0], sum(width_of(r) for r in node.results[: value.index]), 1


def _column_of_pairs(value: Value) -> tuple[Value, int, int] | None:
    """`slice(reshape(x, [.., n, 2]), i:i+1)`, with or without its last axis of 1: every second element of x."""
    source: Value | None = value
    if width_of(value) != 1 or _slice_bounds(value) is None:
        column = owner(value, "reshape", "squeeze")
        source = column.operands[0] if column is not None else None
        if source is None or source.type.shape != (*value.type.shape, 1):
            return None
    bounds = _slice_bounds(source) if source is not None else None
    split = owner(bounds[0], "reshape") if bounds is not None else None
    whole = split.operands[0] if split is not None else None
    if bounds is None or whole is None:
        return None
    *_, count, size = bounds[0].type.static_shape
    return (whole, bounds[1], size) if whole.type.shape[-1:] == (count * size,) else None


def is_last_axis(node: Node) -> bool:
    """Whether a node (a concat, say) works along the last axis of its result."""
    return node.attribute("axis") in (-1, node.result.type.rank - 1)


def interleaved(concat: Node, rewriter: Rewriter) -> tuple[Value, Value, Node] | None:
    """`a`, `b` and the last node of `reshape(concat(unsqueeze(a), unsqueeze(b)), [.., 2 n])`: a0 b0 a1 b1 .."""
    if len(concat.operands) != 2 or not is_last_axis(concat) or concat.result.type.shape[-1] != 2:
        return None
    parts = [_without_last(v) for v in concat.operands]
    users = rewriter.graph.users(concat.result)
    if len(users) != 1 or users[0].op.name != "reshape" or rewriter.graph.is_output(concat.result):
        return None
    first, second = parts
    shape = concat.result.type.static_shape
    if first is None or second is None or users[0].result.type.shape != (*shape[:-2], shape[-2] * 2):
        return None
    return first, second, users[0]


def _without_last(value: Value | None) -> Value | None:
    """x of `unsqueeze(x, -1)`; a value that was computed with a last axis of 1, as it is."""
    node = owner(value, "reshape", "unsqueeze")
    source = node.operands[0] if node is not None else value
    if value is None or source is None or value.type.shape[-1:] != (1,):
        return None
    return source if source is value or (*source.type.shape, 1) == value.type.shape else None
