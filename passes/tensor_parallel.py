"""Tensor parallelism: follows how values are split over a group of devices, and inserts exchanges where they must meet.

A value is either whole on every device, or split along one axis. Heads of attention may be fewer than devices: they are
then split over as many devices of each group as divide them, and the rest of the group does the same work again, so
that caches lie there too. Exchanges of such values stay among those devices. Each op has a rule that says how its
result is split when its operands are; an op without a rule gets whole operands. A product whose contraction is split
gives partial sums, which are reduced at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import gcd

import numpy as np

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.op import OpClass
from pimc.ir.ops.caches import IN_PLACE
from pimc.passes.building import content_name
from pimc.passes.match import opdef

_FOLLOWS = frozenset({"reshape", "transpose", "rotary", *IN_PLACE, "identity", "cast"})
_HELD = (Role.WEIGHT, Role.CONSTANT)
"""What a device may hold as a whole and in parts."""
_GIVEN = (Role.INPUT, Role.CACHE)
"""What a device is given as a whole or as a part."""


class TensorParallel:
    """Splits a graph over a group of `ways` devices, in place."""

    def __init__(self, graph: Graph, rewriter: Rewriter, ways: int) -> None:
        self.graph = graph
        self.rewriter = rewriter
        self.ways = ways
        self.head_ways = _ways_of_heads(graph, ways)
        """How many devices heads are split over."""
        self.axis: dict[Value, int] = {}
        """The axis along which a value is split; values that are not here are whole."""
        self.count: dict[Value, int] = {}
        """Over how many devices, for values that are split."""
        self._read_whole: set[Value] = set()
        """What earlier nodes take whole."""
        self._whole: dict[Value, Value] = {}
        self._parts: dict[tuple[Value, int, int], Value] = {}
        self._rules: dict[str, Callable[[Node], None]] = {
            "matmul": self._matmul,
            "attention": self._attention,
            "reshape": self._reshape,
            "transpose": self._transpose,
            "rotary": self._first_operand,
            **dict.fromkeys(IN_PLACE, self._append),
        }

    def run(self) -> None:
        for node in self.graph.order():
            rule = self._rules.get(node.op.name)
            if rule is None:
                rule = self._elementwise if node.op.cls is OpClass.ELEMENTWISE else self._needs_whole
            rule(node)
            self._read_whole.update(value for value in node.inputs() if value not in self.axis)
        for name, value in list(self.graph.outputs):
            if value in self.axis and not self._is_cache(value):
                self.rewriter.set_output(name, self._gathered(value))
        self.rewriter.remove_dead()

    # -- rules ----------------------------------------------------------------------------------------------------

    def _matmul(self, node: Node) -> None:
        left, right = node.operands[0], node.operands[1]
        assert left is not None and right is not None
        last = left.type.rank - 1
        ways = self.count[left] if left in self.axis else self._worth_splitting(node)
        static = self._is_splittable(right, right.type.rank - (2 if left in self.axis else 1), ways)
        if left in self.axis and self.axis[left] == last and static:
            self._set(node, 1, self._split_static(right, right.type.rank - 2, ways))
            self._reduced(node, ways)
        elif left in self.axis and self.axis[left] != last and static and right.type.rank == 2:
            self._done(node, self.axis[left], ways)
        elif left not in self.axis and static and right.type.rank == 2 and ways > 1:
            self._set(node, 1, self._split_static(right, 1, ways))
            self._done(node, node.result.type.rank - 1, ways)
        else:
            self._needs_whole(node)

    def _is_splittable(self, value: Value, axis: int, ways: int) -> bool:
        """Whether a value is a weight or constant, seen through transposes; if quantized, cut between its blocks."""
        owner = value.owner
        if owner is not None and owner.op.name == "transpose" and owner.operands[0] is not None:
            return self._is_splittable(owner.operands[0], _order(owner)[axis], ways)
        if owner is not None and owner.op.name == "dequantize_linear":
            fixed = all(v.role in _HELD for v in owner.inputs())
            parameters = (v for v in owner.operands[1:] if v is not None)
            return fixed and all(_cuts_between_blocks(owner, v, axis, ways) for v in parameters)
        return value.role in _HELD

    def _attention(self, node: Node) -> None:
        products = [v for v in node.operands[:3] if v is not None]
        ways = {self.count[v] for v in products if v in self.axis}
        if not ways:
            self._done(node, None)
            return
        if len(ways) > 1 or any(self.axis.get(v) != 1 for v in products):
            self._needs_whole(node)
            return
        (count,) = ways
        heads = products[0].type.static_shape[1] * count
        mask = node.operands[3] if len(node.operands) > 3 else None
        if mask is not None and mask.type.rank == 4 and mask.type.static_shape[1] == heads:
            if not self._may_be_cut(mask):
                self._needs_whole(node)
                return
            self._set(node, 3, self._split_static(mask, 1, count))
        self._done(node, 1, count)

    def _reshape(self, node: Node) -> None:
        value = node.operands[0]
        assert value is not None
        if value not in self.axis:
            self._done(node, None)
            return
        axis = self._reshaped_axis(value, node.result)
        if axis is None:
            self._needs_whole(node)
            return
        shape = list(node.result.type.static_shape)
        shape[axis] //= self.count[value]
        numbers = np.asarray(shape, np.int64)
        name = content_name(numbers)
        self.rewriter.set_operand(node, 1, self.graph.value(name) or self.rewriter.constant(name, numbers))
        self._done(node, axis, self.count[value])

    def _reshaped_axis(self, value: Value, result: Value) -> int | None:
        """Where the split axis is after a reshape: the axis that begins where it begins, and can be split too."""
        before, ways = list(value.type.static_shape), self.count[value]
        before[self.axis[value]] *= ways
        after = result.type.static_shape
        lead = int(np.prod(before[: self.axis[value]], dtype=np.int64))
        for axis in range(len(after)):
            if int(np.prod(after[:axis], dtype=np.int64)) == lead and after[axis] % ways == 0:
                return axis
        return None

    def _transpose(self, node: Node) -> None:
        value = node.operands[0]
        assert value is not None
        perm = node.attribute("perm")
        order = [int(i) for i in perm] if isinstance(perm, tuple) and perm else list(range(value.type.rank))[::-1]
        self._done(node, order.index(self.axis[value]) if value in self.axis else None, self.count.get(value, 1))

    def _first_operand(self, node: Node) -> None:
        value = node.operands[0]
        assert value is not None
        if value in self.axis and self.axis[value] != 1:
            self._needs_whole(node)
        else:
            self._done(node, self.axis.get(value), self.count.get(value, 1))

    def _append(self, node: Node) -> None:
        past, new = node.operands[0], node.operands[1]
        assert past is not None and new is not None
        axis = self.axis.get(new)
        if axis is not None and past not in self.axis:
            if not self._may_be_cut(past):
                self._needs_whole(node)
                return
            self._set(node, 0, self._split_static(past, axis, self.count[new]))
        self._done(node, axis, self.count.get(new, 1))

    def _elementwise(self, node: Node) -> None:
        rank = node.result.type.rank
        cuts = {(self.axis[v] - v.type.rank, self.count[v]) for v in node.inputs() if v in self.axis}
        if not cuts:
            self._done(node, None)
            return
        if len(cuts) > 1:
            self._needs_whole(node)
            return
        from_end, ways = cuts.pop()
        for index, value in enumerate(node.operands):
            if value is None or value in self.axis or value.type.rank < -from_end:
                continue
            axis = value.type.rank + from_end
            if value.type.static_shape[axis] == 1:
                continue
            if not self._may_be_cut(value):
                self._needs_whole(node)
                return
            self._set(node, index, self._split_static(value, axis, ways))
        self._done(node, rank + from_end, ways)

    def _may_be_cut(self, value: Value) -> bool:
        return value.role in _HELD or (value.role in _GIVEN and value not in self._read_whole)

    def _needs_whole(self, node: Node) -> None:
        for index, value in enumerate(node.operands):
            if value is not None and value in self.axis:
                self.rewriter.set_operand(node, index, self._gathered(value))
        self._done(node, None)

    # -- edits ----------------------------------------------------------------------------------------------------

    def _done(self, node: Node, axis: int | None, ways: int = 1) -> None:
        self.rewriter.reinfer(node)
        if axis is not None:
            for result in node.results:
                self.axis[result], self.count[result] = axis, ways
                if self.graph.is_output(result):
                    result.shard = (axis, ways)

    def _set(self, node: Node, index: int, value: Value) -> None:
        if node.operands[index] is not value:
            self.rewriter.set_operand(node, index, value)

    def _reduced(self, node: Node, ways: int) -> None:
        """Sum the partial products of all devices, for everybody who reads the product."""
        self.rewriter.reinfer(node)
        partial = node.result
        readers = [(u, i) for u in self.graph.users(partial) for i, v in enumerate(u.operands) if v is partial]
        reduce = self.rewriter.add(opdef("all_reduce"), (partial,), {"group": ways}, origins=(node,))
        for user, index in readers:
            self.rewriter.set_operand(user, index, reduce.result)
        for name in self.graph.output_names(partial):
            self.rewriter.set_output(name, reduce.result)

    def _gathered(self, value: Value) -> Value:
        if value not in self._whole:
            axis, ways = self.axis[value], self.count[value]
            origins = (value.owner,) if value.owner is not None else ()
            node = self.rewriter.add(opdef("all_gather"), (value,), {"axis": axis, "group": ways}, origins=origins)
            self._whole[value] = node.result
        return self._whole[value]

    def _split_static(self, value: Value, axis: int, ways: int) -> Value:
        """Each device's part of a weight, constant or input (seen through transposes)."""
        if value.owner is not None and value.owner.op.name == "transpose":
            owner = value.owner
            inner = owner.operands[0]
            assert inner is not None
            part = self._split_static(inner, _order(owner)[axis], ways)
            attributes = dict(owner.attributes)
            return self.rewriter.add(owner.op, (part,), attributes, origins=(owner,)).result
        if value.owner is not None and value.owner.op.name == "dequantize_linear":
            return self._split_quantized(value.owner, axis, ways)
        if (value, axis, ways) not in self._parts:
            extent = value.type.static_shape[axis]
            if extent % ways:
                raise fail(
                    Kind.PARALLEL,
                    f"%{value.name} {value.type} cannot be split {ways} ways along axis {axis} ({extent})",
                    value.source,
                    help=f"choose a tp that divides {extent}",
                )
            self._parts[value, axis, ways] = self._part(value, axis, ways)
        return self._parts[value, axis, ways]

    def _split_quantized(self, node: Node, axis: int, ways: int) -> Value:
        """Each device's part of a quantized weight: of its levels, and of scales and zero points that go with them."""
        parts: list[Value | None] = []
        for index, value in enumerate(node.operands):
            own = axis if index == 0 or value is None else _parameter_axis(node, value, axis)
            parts.append(value if value is None or own is None else self._split_static(value, own, ways))
        return self.rewriter.add(node.op, parts, dict(node.attributes), origins=(node,)).result

    def _part(self, value: Value, axis: int, ways: int) -> Value:
        if value.role in _GIVEN:
            self.rewriter.set_shard(value, axis, ways)
            self.axis[value], self.count[value] = axis, ways
            return value
        assert value.contents is not None
        part = self.rewriter.weight(f"{value.name}.part", value.type, value.contents, source=value.source)
        self.rewriter.set_shard(part, axis, ways)
        return part

    # -- looking ahead --------------------------------------------------------------------------------------------

    def _worth_splitting(self, node: Node) -> int:
        """Over how many devices columns are to be split: all, where they are consumed split by the contraction of
        another product, as many as heads are split over where that is attention, 1 where they are not."""
        columns = node.result.type.static_shape[-1]
        seen: set[Value] = set()
        reached: Sequence[Value] = [node.result]
        while reached:
            following: list[Value] = []
            for value in reached:
                if self.graph.is_output(value) and not self._is_cache(value):
                    return self.ways if columns % self.ways == 0 else 1
                for user in self.graph.users(value):
                    if user.op.name == "attention":
                        return self.head_ways
                    if user.op.name == "matmul" and user.operands[0] is value:
                        return self.ways if columns % self.ways == 0 else 1
                    if user.op.name in _FOLLOWS or user.op.cls is OpClass.ELEMENTWISE:
                        following += [r for r in user.results if r not in seen]
            seen.update(following)
            reached = following
        return 1

    @staticmethod
    def _is_cache(value: Value) -> bool:
        return value.owner is not None and value.owner.op.name in IN_PLACE


def _ways_of_heads(graph: Graph, ways: int) -> int:
    """The largest divisor of `ways` that divides the heads of all attention."""
    attention = [n for n in graph.order() if n.op.name == "attention"]
    counts = {v.type.static_shape[1] for n in attention for v in n.operands[:3] if v is not None}
    return gcd(ways, *counts)


def _cuts_between_blocks(node: Node, parameter: Value, axis: int, ways: int) -> bool:
    own = _parameter_axis(node, parameter, axis)
    if own is None:
        return True
    extent, count = node.result.type.static_shape[axis], parameter.type.static_shape[own]
    block = 1 if count == extent else int(str(node.attribute("block_size")))  # the last one may be shorter
    return extent % ways == 0 and extent // ways % block == 0


def _order(transpose: Node) -> list[int]:
    """The operand's axis for each axis of the result."""
    perm = transpose.attribute("perm")
    given = [int(i) for i in perm] if isinstance(perm, tuple) else []
    return given or list(range(transpose.result.type.rank))[::-1]


def _parameter_axis(node: Node, parameter: Value, axis: int) -> int | None:
    """The axis of a scale or zero point that is cut with `axis` of the levels; None: it belongs to all of them."""
    if parameter.type.elements == 1:
        return None
    if parameter.type.rank > 1:
        return axis
    own = int(str(node.attribute("axis"))) % node.result.type.rank
    return 0 if own == axis else None
