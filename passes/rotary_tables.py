"""Tables of cosines and sines at half width, made where exporters repeat each number."""

from __future__ import annotations

from dataclasses import field

import numpy as np

from pimc.ir.graph import Node, Rewriter, Value
from pimc.ir.op import Array
from pimc.passes.last_axis import interleaved, is_last_axis, stretch_of, width_of
from pimc.passes.match import contents_of, opdef, operand, scaled, skip_float_casts
from pimc.passes.views import identity_view, joined, origins, reshape
from pimc.record import record

_UNARY = frozenset({"cos", "sin", "identity", "cast"})
_MOVES = frozenset({"unsqueeze", "squeeze", "reshape", "transpose", "expand"})


@record
class HalfTables:
    """Makes tables of half width out of full ones that hold each number twice; each table once.

    Twice means in both halves of the last axis, or, with `pairs`, in elements 2i and 2i + 1.
    """

    rewriter: Rewriter
    made: dict[tuple[Value, bool], Value | None] = field(default_factory=dict)
    flat: dict[tuple[Value, bool, int], Value] = field(default_factory=dict)
    repeated: dict[tuple[Value, int], Value] = field(default_factory=dict)

    def three_dimensional(self, table: Value, positions: int, width: int, *, pairs: bool = False) -> Value | None:
        """A table for `width` rotated elements as [B|1, S, width/2]; one of half the width already, as it is."""
        if table.type.static_shape[-1:] == (width,):
            half = self.half(table, pairs)
        else:
            half = self._above(table, pairs) if table_shape(table, width)[-1:] == (width // 2,) else None
        if half is None or half.type.elements % (positions * (width // 2)):
            return None
        key = half, pairs, positions
        if key not in self.flat:
            batch = half.type.elements // (positions * (width // 2))
            self.flat[key] = self._shaped(half, (batch, positions, width // 2))
        return self.flat[key]

    def _above(self, table: Value, pairs: bool) -> Value:
        """A table of half width, or the half of the full one that it was cut from."""
        for origin in origins(table):
            part = stretch_of(origin.base)
            last = identity_view(origin.base.type.static_shape)[-1:]
            if origin.scale == 1.0 and origin.view[-1:] == last and part.whole is not origin.base:
                doubled = width_of(part.whole) == 2 * part.count and contents_of(part.whole) is None
                half = self.half(part.whole, pairs=part.step == 2) if doubled else None
                return table if half is None else half
        return table

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
        """A table in another shape; the one that it was reshaped from, if that has the shape."""
        for origin in origins(half):
            in_order = joined(f for axis in origin.view for f in axis) == _straight(origin.base)
            if origin.scale == 1.0 and origin.base.type.static_shape == shape and in_order:
                return origin.base
        return reshape(self.rewriter, half, shape)

    def half(self, table: Value, pairs: bool) -> Value | None:
        """The table with every number once, if it provably holds each twice."""
        if (table, pairs) not in self.made:
            self.made[table, pairs] = self._make(table, pairs)
        return self.made[table, pairs]

    def _make(self, table: Value, pairs: bool) -> Value | None:
        array = contents_of(table)
        if array is not None:
            return self._of_contents(table, array, pairs)
        node = table.owner
        if node is None:
            return None
        repetition = _repeated(table, pairs)
        if repetition is not None:
            return repetition
        if node.op.name == "concat" and not pairs:
            return self._of_concat(node)
        if node.op.name in _UNARY:
            return self._again(node, pairs)
        product = scaled(table)
        if product is not None:
            return self._again(node, pairs, 0 if node.operands[0] is product[0] else 1)
        if node.op.name in _MOVES:
            return self._of_pairs(node) if pairs and node.op.name == "reshape" else self._of_move(node, pairs)
        if node.op.name in ("gather", "gather_nd"):
            return self._of_gather(node, pairs)
        return None

    def _of_contents(self, table: Value, array: Array, pairs: bool) -> Value | None:
        width = array.shape[-1] if array.ndim else 1
        first, second = (array[..., ::2], array[..., 1::2]) if pairs else np.split(array, [width // 2], -1)
        if width % 2 or not np.array_equal(first, second):
            return None
        return self.rewriter.constant(f"{table.name}_half", np.ascontiguousarray(first))

    def _of_concat(self, node: Node) -> Value | None:
        first, second = operand(node, 0), operand(node, 1)
        if first is None or second is None or not is_last_axis(node) or len(node.operands) != 2:
            return None
        return first if same_computation(first, second) else None

    def _of_pairs(self, node: Node) -> Value | None:
        """`f` of `reshape(concat(unsqueeze(f), unsqueeze(f)))`, else what holds of any reshape."""
        source = node.operands[0]
        concat = source.owner if source is not None else None
        parts = interleaved(concat, self.rewriter) if concat is not None and concat.op.name == "concat" else None
        if parts is not None and parts[2] is node:
            return parts[0] if same_computation(parts[0], parts[1]) else None
        return self._of_move(node, pairs=True)

    def _again(
        self, node: Node, pairs: bool, index: int = 0, rest: tuple[Value | None, ...] | None = None
    ) -> Value | None:
        """The same op on the half of its operand `index`."""
        source = node.operands[index]
        half = self.half(source, pairs) if source is not None else None
        if half is None:
            return None
        operands = list(node.operands) if rest is None else [half, *rest]
        operands[index] = half
        return self.rewriter.add(node.op, operands, node.attributes, origins=(node,)).result

    def _of_move(self, node: Node, pairs: bool) -> Value | None:
        source = node.operands[0]
        if source is None or not source.type.rank or width_of(source) != width_of(node.result):
            return None
        name = node.op.name
        if name == "transpose":
            perm = node.attribute("perm")
            keeps = isinstance(perm, tuple) and bool(perm) and perm[-1] == source.type.rank - 1
            return self._again(node, pairs) if keeps else None
        if name in ("reshape", "expand"):
            half = self.half(source, pairs)
            if half is None:
                return None
            shape = (*node.result.type.static_shape[:-1], width_of(half))
            target = self.rewriter.constant(f"{node.name}_half_shape", np.array(shape, np.int64))
            return self._again(node, pairs, rest=(target,))
        return self._again(node, pairs)

    def _of_gather(self, node: Node, pairs: bool) -> Value | None:
        """Rows of a constant table [P, R]."""
        table, indices = node.operands[0], operand(node, 1)
        if table is None or indices is None or table.type.rank != 2 or width_of(table) != width_of(node.result):
            return None
        if node.op.name == "gather" and node.attribute("axis") not in (0, -2):
            return None
        if node.op.name == "gather_nd" and node.result.type.rank != indices.type.rank:
            return None
        return self._again(node, pairs)


def table_shape(table: Value, width: int) -> tuple[int, ...]:
    """The shape of a table for `width` elements, without an axis of 1 behind its columns."""
    shape = table.type.static_shape
    return shape[:-1] if shape[-2:] == (width // 2, 1) else shape


def _repeated(table: Value, pairs: bool) -> Value | None:
    """The tensor, of any shape, whose elements a table repeats: each twice in a row, or whole rows twice."""
    for origin in origins(table):
        last, rows = origin.view[-1], [f for axis in origin.view[:-1] for f in axis]
        at = -1 if pairs else 0
        if len(last) < 2 or not last[at].is_broadcast or last[at].size != 2 or origin.scale != 1.0:
            continue
        rest = (*last[:at], *(last[at + 1 :] if at == 0 else ()))
        if joined((*rows, *rest)) == _straight(origin.base):
            return _as_rows(origin.base, width_of(table) // 2)
    return None


def _as_rows(base: Value, width: int) -> Value | None:
    """A tensor whose last axis has the given length; the one above it, if a last axis of 1 was only added."""
    if width_of(base) == width:
        return base
    node = base.owner
    above = node.operands[0] if node is not None and node.op.name in ("reshape", "unsqueeze") else None
    return above if above is not None and width_of(above) == width and width_of(base) == 1 else None


def _straight(value: Value) -> tuple[object, ...]:
    return joined(f for axis in identity_view(value.type.static_shape) for f in axis)


def same_computation(left: Value, right: Value, depth: int = 4) -> bool:
    """Whether two values are the same, if need be because the same ops made them from the same operands."""
    left, right = skip_float_casts(left), skip_float_casts(right)
    if left is right:
        return True
    a, b = left.owner, right.owner
    if a is None and b is None and left.type == right.type and left.type.array is not None:
        return right.type.array is not None and np.array_equal(left.type.array, right.type.array)
    if a is None or b is None or depth == 0 or a.op is not b.op or dict(a.attributes) != dict(b.attributes):
        return False
    if left.index != right.index or len(a.operands) != len(b.operands) or left.type != right.type:
        return False
    return all(
        x is y or (x is not None and y is not None and same_computation(x, y, depth - 1))
        for x, y in zip(a.operands, b.operands, strict=True)
    )
