"""Recognise rotary position embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import (
    contents_of,
    halves_equal,
    ints_of,
    opdef,
    operand,
    owner,
    pair,
    scaled,
    skip_float_casts,
    used_only_by,
)
from pimc.passes.views import Factor, origins, reshape

_UNARY = frozenset({"cos", "sin", "identity", "cast"})
_MOVES = frozenset({"unsqueeze", "squeeze", "reshape", "transpose", "expand"})


@dataclass(frozen=True)
class FuseRotaryPass(Pass):
    """Rotary embedding by rotated halves becomes one op with tables of half width.

        %y = %x * %cos + concat(-%x[R/2:], %x[:R/2]) * %sin
    ->  %y = rotary(%x, %cos[..., :R/2], %sin[..., :R/2])

    Asked for: both halves of the tables provably equal (a constant, or made by `concat(f, f)`), x of rank 4 with the
    tables the same for all heads. `concat(rotated, rest)` of a partial rotation is taken in. Tables are halved where
    the equality arises, so that cosine and sine are computed once for each pair; x of [B,S,H,D] is transposed first.
    """

    name: ClassVar[str] = "fuse-rotary"
    before: ClassVar[GraphStage] = GraphStage.BOUND

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        tables = _HalfTables(rewriter)
        version = graph.version
        for node in graph.order():
            if node in graph and node.op.name == "concat":
                found = _match(node, graph)
                if found is not None:
                    _fuse(found, tables, rewriter)
        if graph.version != version:
            rewriter.remove_dead()


@dataclass(frozen=True)
class _Rotation:
    x: Value
    cos: Value
    sin: Value
    width: int
    end: Node
    absorbed: tuple[Node, ...]


@dataclass(frozen=True)
class _Part:
    """Elements `start` to `stop` of the last axis of `whole`."""

    whole: Value
    start: int
    stop: int


def _match(turn: Node, graph: Graph) -> _Rotation | None:
    """A rotation by halves, anchored at the concat of the negated upper half and the lower half."""
    halves = _turned_halves(turn)
    if halves is None:
        return None
    x, width = halves
    with_sin = _only_user(graph, turn.result, "mul")
    total = _only_user(graph, with_sin.result, "add") if with_sin is not None else None
    if with_sin is None or total is None:
        return None
    sin = _other(with_sin, turn.result)
    straight = owner(_other(total, with_sin.result), "mul")
    if straight is None or straight is with_sin or not used_only_by(graph, straight.result, (total,)):
        return None
    left, right = pair(straight)
    cos = right if _same_part(left, x) else left if _same_part(right, x) else None
    if cos is None:
        return None
    return _widen(_Rotation(x.whole, cos, sin, width, total, (with_sin, straight, turn)), x, graph)


def _turned_halves(turn: Node) -> tuple[_Part, int] | None:
    """The stretch of x that `concat(-hi, lo)` turns, and its width."""
    if len(turn.operands) != 2 or turn.attribute("axis") not in (-1, turn.result.type.rank - 1):
        return None
    first, second = pair(turn)
    negated = owner(first, "neg")
    minus = scaled(first)
    source = negated.operands[0] if negated is not None else minus[0] if minus is not None and minus[1] == -1 else None
    if source is None:
        return None
    high, low = _part(source), _part(second)
    if high.whole is not low.whole or high.start != low.stop or high.stop - high.start != low.stop - low.start:
        return None
    return _Part(low.whole, low.start, high.stop), high.stop - low.start


def _part(value: Value) -> _Part:
    """The value as a stretch of the last axis of the tensor it is cut from (slices of slices are followed)."""
    width = _last(value)
    cut = _slice_bounds(value) or _split_bounds(value)
    if cut is None:
        return _Part(value, 0, width)
    source, start = cut
    outer = _part(source)
    return _Part(outer.whole, outer.start + start, outer.start + start + width)


def _slice_bounds(value: Value) -> tuple[Value, int] | None:
    node = owner(value, "slice")
    if node is None or node.operands[0] is None:
        return None
    source = node.operands[0]
    starts, axes, steps = (ints_of(operand(node, i)) for i in (1, 3, 4))
    if starts is None or len(starts) != 1 or (steps is not None and steps != [1]):
        return None
    axis = axes[0] if axes else 0
    if axis not in (-1, source.type.rank - 1):
        return None
    width = _last(source)
    start = max(0, starts[0] + width) if starts[0] < 0 else min(starts[0], width)
    return source, start


def _split_bounds(value: Value) -> tuple[Value, int] | None:
    node = owner(value, "split")
    if node is None or node.operands[0] is None or node.attribute("axis") not in (-1, value.type.rank - 1):
        return None
    return node.operands[0], sum(_last(r) for r in node.results[: value.index])


def _last(value: Value) -> int:
    return value.type.static_shape[-1] if value.type.rank else 1


def _same_part(value: Value, part: _Part) -> bool:
    return _part(value) == part


def _other(node: Node, value: Value) -> Value:
    left, right = pair(node)
    return right if left is value else left


def _only_user(graph: Graph, value: Value, op: str) -> Node | None:
    users = graph.users(value)
    if len(users) != 1 or graph.is_output(value) or users[0].op.name != op:
        return None
    return users[0]


def _widen(found: _Rotation, part: _Part, graph: Graph) -> _Rotation | None:
    """Take the untouched rest of x in, where only a stretch of it is rotated."""
    width = _last(part.whole)
    if (part.start, part.stop) == (0, width):
        return found
    joined = _only_user(graph, found.end.result, "concat")
    if joined is None or part.start != 0 or joined.attribute("axis") not in (-1, joined.result.type.rank - 1):
        return None
    if len(joined.operands) != 2 or joined.operands[0] is not found.end.result:
        return None
    rest = joined.operands[1]
    if rest is None or _part(rest) != _Part(part.whole, part.stop, width):
        return None
    return _Rotation(found.x, found.cos, found.sin, found.width, joined, (found.end, *found.absorbed))


def _fuse(found: _Rotation, tables: _HalfTables, rewriter: Rewriter) -> None:
    if found.x.type.rank != 4 or found.end.result.type.shape != found.x.type.shape:
        return
    heads_first = _heads_first(found)
    if heads_first is None:
        return
    positions = found.x.type.static_shape[2 if heads_first else 1]
    cos = tables.three_dimensional(found.cos, positions, found.width)
    sin = tables.three_dimensional(found.sin, positions, found.width)
    if cos is None or sin is None:
        return
    cos, sin = tables.equal_batch(cos, sin)
    dtype = found.x.type.dtype
    if cos.type.dtype is not dtype or sin.type.dtype is not dtype or cos.type.shape != sin.type.shape:
        return
    if heads_first:
        rewriter.replace(found.end, opdef("rotary"), (found.x, cos, sin), absorbing=found.absorbed)
        return
    swap = {"perm": (0, 2, 1, 3)}
    turned = rewriter.add(opdef("transpose"), (found.x,), swap, origins=(found.end,))
    rotary = rewriter.add(opdef("rotary"), (turned.result, cos, sin), origins=(found.end, *found.absorbed))
    rewriter.replace(found.end, opdef("transpose"), (rotary.result,), swap, absorbing=found.absorbed)


def _heads_first(found: _Rotation) -> bool | None:
    """Whether x is [B,H,S,D] (True) or [B,S,H,D] (False), by the axis that the tables do not have; None: neither."""
    x = found.x.type.static_shape
    tables = [_padded(t.type.static_shape) for t in (found.cos, found.sin)]
    if any(t is None for t in tables):
        return None
    batch, first, second, _ = zip(*[t for t in tables if t is not None], strict=True)
    if any(b not in (1, x[0]) for b in batch):
        return None
    if set(first) == {1} and set(second) == {x[2]}:
        return True
    if set(second) == {1} and set(first) == {x[1]}:
        return False
    return None


def _padded(shape: tuple[int, ...]) -> tuple[int, ...] | None:
    return (1,) * (4 - len(shape)) + shape if len(shape) <= 4 else None


class _HalfTables:
    """Makes tables of half width out of full ones whose halves are equal; each once."""

    def __init__(self, rewriter: Rewriter) -> None:
        self.rewriter = rewriter
        self.made: dict[Value, Value | None] = {}
        self.flat: dict[Value, Value | None] = {}
        self.repeated: dict[tuple[Value, int], Value] = {}

    def three_dimensional(self, table: Value, positions: int, width: int) -> Value | None:
        """The first half of a table as [B|1, S, width/2]."""
        if table.type.static_shape[-1:] != (width,):
            return None
        if table not in self.flat:
            half = self.half(table)
            elements = table.type.elements // 2
            batch = elements // (positions * (width // 2))
            self.flat[table] = None if half is None else self._shaped(half, (batch, positions, width // 2))
        return self.flat[table]

    def equal_batch(self, cos: Value, sin: Value) -> tuple[Value, Value]:
        """Both tables with the larger one's batch."""
        batch = max(cos.type.static_shape[0], sin.type.static_shape[0])
        return self._expanded(cos, batch), self._expanded(sin, batch)

    def _expanded(self, table: Value, batch: int) -> Value:
        if table.type.static_shape[0] == batch:
            return table
        if (table, batch) not in self.repeated:
            shape = self.rewriter.constant("table_shape", np.array([batch, 1, 1], np.int64))
            self.repeated[table, batch] = self.rewriter.add(opdef("expand"), (table, shape)).result
        return self.repeated[table, batch]

    def _shaped(self, half: Value, shape: tuple[int, int, int]) -> Value:
        for origin in origins(half):
            straight = [f for axis in origin.view for f in axis]
            whole = [Factor(i, 1, n) for i, n in enumerate(origin.base.type.static_shape) if n != 1]
            if origin.scale == 1.0 and origin.base.type.static_shape == shape and straight == whole:
                return origin.base
        return reshape(self.rewriter, half, shape)

    def half(self, table: Value) -> Value | None:
        """The first half along the last axis, if the second one is provably the same."""
        if table not in self.made:
            self.made[table] = self._make(table)
        return self.made[table]

    def _make(self, table: Value) -> Value | None:
        array = contents_of(table)
        if array is not None:
            if array.ndim == 0 or not halves_equal(array):
                return None
            half = np.ascontiguousarray(array[..., : array.shape[-1] // 2])
            return self.rewriter.constant(f"{table.name}_half", half)
        node = table.owner
        if node is None:
            return None
        if node.op.name == "concat":
            return self._of_concat(node)
        if node.op.name in _UNARY:
            return self._again(node)
        product = scaled(table)
        if product is not None:
            index = 0 if node.operands[0] is product[0] else 1
            return self._again(node, index)
        if node.op.name in _MOVES:
            return self._of_move(node)
        if node.op.name in ("gather", "gather_nd"):
            return self._of_gather(node)
        return None

    def _of_concat(self, node: Node) -> Value | None:
        first = operand(node, 0)
        last = node.attribute("axis") in (-1, node.result.type.rank - 1)
        if first is None or not last or len(node.operands) != 2:
            return None
        second = operand(node, 1)
        return first if second is not None and _same_computation(first, second) else None

    def _again(self, node: Node, index: int = 0, rest: tuple[Value | None, ...] | None = None) -> Value | None:
        """The same op on the half of its operand `index`."""
        source = node.operands[index]
        half = self.half(source) if source is not None else None
        if half is None:
            return None
        operands = list(node.operands) if rest is None else [half, *rest]
        operands[index] = half
        return self.rewriter.add(node.op, operands, node.attributes, origins=(node,)).result

    def _of_move(self, node: Node) -> Value | None:
        source = node.operands[0]
        if source is None or not source.type.rank or _last(source) != _last(node.result):
            return None
        name = node.op.name
        if name == "transpose":
            perm = node.attribute("perm")
            keeps = isinstance(perm, tuple) and bool(perm) and perm[-1] == source.type.rank - 1
            return self._again(node) if keeps else None
        if name in ("reshape", "expand"):
            shape = node.result.type.static_shape
            target = np.array([*shape[:-1], shape[-1] // 2], np.int64)
            if self.half(source) is None:
                return None
            return self._again(node, rest=(self.rewriter.constant(f"{node.name}_half_shape", target),))
        return self._again(node)

    def _of_gather(self, node: Node) -> Value | None:
        """Rows of a constant table [P, R]."""
        table = node.operands[0]
        if table is None or table.type.rank != 2 or _last(table) != _last(node.result):
            return None
        if node.op.name == "gather" and node.attribute("axis") not in (0, -2):
            return None
        if node.op.name == "gather_nd" and node.result.type.rank != _rank(operand(node, 1)):
            return None
        return self._again(node)


def _rank(value: Value | None) -> int:
    return value.type.rank if value is not None else -1


def _same_computation(left: Value, right: Value, depth: int = 4) -> bool:
    """Whether two values are the same, if need be because the same ops made them from the same operands."""
    left, right = skip_float_casts(left), skip_float_casts(right)
    if left is right:
        return True
    a, b = left.owner, right.owner
    if a is None or b is None or depth == 0 or a.op is not b.op or dict(a.attributes) != dict(b.attributes):
        return False
    if left.index != right.index or len(a.operands) != len(b.operands) or left.type != right.type:
        return False
    return all(
        x is y or (x is not None and y is not None and _same_computation(x, y, depth - 1))
        for x, y in zip(a.operands, b.operands, strict=True)
    )
