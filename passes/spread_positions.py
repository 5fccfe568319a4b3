"""Gives every request its own positions, in graphs that count them from the one length of all caches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.op import Array, OpClass, TypeRuleError, lookup
from pimc.ir.requests import Batch
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

LARGEST = 1 << 22
"""Elements of the largest result that is looked at."""


@record
class SpreadPositionsPass(Pass):
    """What is computed from the number of cached tokens alone (positions, tables of angles) gets a row per request.

        %p = range(%past, %past + 1)       ->   %p: constant i64[requests, 1]
        %e = gather(%table, %p)  : [1, D]       %e = gather(%table, %p)  : [requests, 1, D]

    Values as long as the cached tokens themselves (masks of constants) stay those of the longest request where the
    others find theirs in the first part of them; of a mask that differs there (of several new tokens), each request
    gets its own. Where a request's own number reaches an op that cannot take one per request, the pass refuses. Does
    nothing without `--requests`.
    """

    name: ClassVar[str] = "spread-positions"

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        batch = graph.batch
        if batch is None:
            return
        whole = _Evaluation(graph, batch.dims)
        found = dict(_differing(graph, batch, whole))
        _Spreading(graph, rewriter, batch, found, frozenset(whole.arrays)).run()


# -- what differs -----------------------------------------------------------------------------------------------------


def _differing(graph: Graph, batch: Batch, whole: _Evaluation) -> Iterator[tuple[Value, Array]]:
    """Values that follow from dimensions, and differ between requests in contents: one row for each.

    Only those that nodes read which do not follow from dimensions themselves.
    """
    edge = [
        v
        for v in whole.arrays
        if v.owner is not None
        and (graph.is_output(v) or any(r not in whole.arrays for u in graph.users(v) for r in u.results))
    ]
    nodes = _needed(edge)
    rows: dict[int, dict[Value, Array]] = {}
    for request, dims in zip(batch.requests, batch.spread_dims, strict=True):
        if request.past not in rows:
            rows[request.past] = _Evaluation(graph, dims, nodes).arrays
    for value in edge:
        longest = whole.arrays[value]
        each = [_as_long(rows[r.past].get(value), longest) for r in batch.requests]
        found = [a for a in each if a is not None]
        if len(found) == len(each) and any(not np.array_equal(a, longest) for a in found):
            yield value, np.stack(found)


def _as_long(array: Array | None, longest: Array) -> Array | None:
    """A value of a request as long as that of the longest one, whose elements come behind: nobody looks at them.

    None where it has another shape and is no mask.
    """
    if array is None or array.shape == longest.shape:
        return array
    shapes = zip(array.shape, longest.shape, strict=False)
    if array.dtype.kind not in "bf" or array.ndim != longest.ndim or any(a > b for a, b in shapes):
        return None
    whole = longest.copy()
    whole[tuple(slice(0, extent) for extent in array.shape)] = array
    return whole


def _needed(values: Sequence[Value]) -> list[Node]:
    """The nodes above some values, in an order in which they can be computed."""
    found: dict[Node, None] = {}
    stack = [v.owner for v in values if v.owner is not None]
    while stack:
        node = stack.pop()
        if node not in found:
            found[node] = None
            stack += [v.owner for v in node.inputs() if v.owner is not None]
    return sorted(found, key=lambda n: n.uid)


class _Evaluation:
    """The contents of all values that follow from dimensions and constants."""

    def __init__(self, graph: Graph, dims: Mapping[str, int], nodes: Sequence[Node] | None = None) -> None:
        self.dims = dims
        self.arrays: dict[Value, Array] = {
            w: w.type.array for w in graph.weights if w.role is Role.CONSTANT and w.type.array is not None
        }
        for node in graph.order() if nodes is None else nodes:
            results = self._results(node)
            if results is not None:
                self.arrays |= zip(node.results, results, strict=False)

    def _of_shape(self, value: Value | None) -> Array | None:
        """Any array of a value's shape, where that is known."""
        if value is None or value in self.arrays:
            return self.arrays[value] if value is not None else None
        type = value.type.bind(self.dims)
        return np.broadcast_to(np.zeros((), np.bool_), type.static_shape) if type.is_static else None

    def _results(self, node: Node) -> Sequence[Array] | None:
        if node.op.meaning is None or not node.operands:
            return None
        if node.op.name in ("shape", "size"):
            given: list[Array | None] = [self._of_shape(node.operands[0])]
            if given[0] is None:
                return None
        else:
            given = [None if v is None else self.arrays.get(v) for v in node.operands]
            if any(v is not None and a is None for v, a in zip(node.operands, given, strict=True)):
                return None
        try:
            results = node.op.evaluate(given, node.attributes)
        except (ArithmeticError, IndexError, ValueError, TypeRuleError):
            return None  # 'fold' says what is wrong
        return results if all(a.size <= LARGEST for a in results) else None


# -- a row for each request -------------------------------------------------------------------------------------------


_SHAPES: Mapping[str, tuple[int, ...]] = {
    "reshape": (1,), "expand": (1,), "tile": (1,), "constant_of_shape": (0,), "slice": (2,), "pad": (1, 3),
    "split": (1,), "range": (0, 1, 2), "unsqueeze": (1,), "squeeze": (1,), "resize": (1, 2, 3),
    "ms_group_query_attention": (6,),
}  # fmt: skip
"""Operands that say how large something is, which follows the longest request."""


class _Spreading:
    """Replaces the values that differ, and what is computed from them and weights, until tensors of requests come in.

    A value that was spread has an axis of requests in front of the axes that it had.
    """

    def __init__(
        self, graph: Graph, rewriter: Rewriter, batch: Batch, found: Mapping[Value, Array], inside: frozenset[Value]
    ) -> None:
        self.graph, self.rewriter = graph, rewriter
        self.requests, self.dims = len(batch.requests), batch.dims
        self.spread: dict[Value, Value] = {}
        self.found, self.inside = found, inside
        self.wrong: list[Diagnostic] = []
        self.per_request = _per_request(graph)

    def run(self) -> None:
        for node in self.graph.order():
            slots = [i for i, v in enumerate(node.operands) if v is not None and (v in self.found or v in self.spread)]
            kept = _SHAPES.get(node.op.name, ())
            if node.result in self.inside or all(i in kept for i in slots):
                continue
            rule = _RULES.get(node.op.name) or (_elementwise if node.op.cls is OpClass.ELEMENTWISE else None)
            if rule is None or not rule(self, node, [i for i in slots if i not in kept]):
                self._refuse(node)
        for _, value in self.graph.outputs:
            if value.owner is not None and (value in self.found or value in self.spread):
                self._refuse(value.owner)
        if self.wrong:
            raise CompileError(self.wrong)
        self.rewriter.remove_dead()

    def _refuse(self, node: Node) -> None:
        said = f"%{node.name} ({node.op.name}) works with the one number of cached tokens, which requests do not share"
        hint = "give positions as an input [batch, seq], or as range(past, past + seq)"
        self.wrong.append(Diagnostic(Kind.REQUESTS_BAD, said, node.source, help=hint, window=self.graph.window(node)))

    def value(self, value: Value) -> Value:
        """The spread form of a value: [requests, its own shape]."""
        if value not in self.spread:
            self.spread[value] = self.rewriter.constant(f"{value.name}.requests", self.found[value])
        return self.spread[value]

    def aligned(self, value: Value, rank: int) -> Value:
        """The spread form with axes of 1 behind that of the requests, so that it has `rank` axes in all."""
        spread = self.value(value)
        missing = rank - spread.type.rank
        if not missing:
            return spread
        axes = self.rewriter.constant(f"{value.name}.axes", np.arange(1, 1 + missing))
        return self.rewriter.add(lookup("unsqueeze"), (spread, axes)).result

    def joined(self, value: Value, rank: int) -> Value | None:
        """The spread form for an op on tensors of `rank` axes, the first one of which is that of the requests."""
        spread = self.value(value)
        if spread.type.rank <= rank:
            return self.aligned(value, rank)
        if spread.type.rank > rank + 1:
            return None
        first = spread.type.shape[1]
        if first == 1:
            axes = self.rewriter.constant(f"{value.name}.axes", np.array([1]))
            return self.rewriter.add(lookup("squeeze"), (spread, axes)).result
        if first == self.requests and value in self.found:  # a row for each request, all alike: everyone takes his own
            own = np.stack([self.found[value][i, i] for i in range(self.requests)])
            return self.rewriter.constant(f"{value.name}.requests", own)
        return None

    def known(self, node: Node, index: int) -> Array | None:
        operand = node.operands[index] if index < len(node.operands) else None
        return None if operand is None else operand.type.array


Rule = Callable[[_Spreading, Node, Sequence[int]], bool]


def _elementwise(at: _Spreading, node: Node, slots: Sequence[int]) -> bool:
    """Next to tensors of requests the value joins them; else the result is spread as well."""
    rank = node.result.type.rank
    others = [v for i, v in enumerate(node.operands) if v is not None and i not in slots]
    if any(v in at.per_request for v in others):
        return _joining(at, node, slots, rank)
    operands = [v if v is None or i not in slots else at.aligned(v, rank + 1) for i, v in enumerate(node.operands)]
    at.spread[node.result] = at.rewriter.add(node.op, operands, node.attributes, origins=(node,)).result
    return True


def _gather(at: _Spreading, node: Node, slots: Sequence[int]) -> bool:
    """Rows of a table by indices that are spread."""
    table = node.operands[0]
    if list(slots) != [1] or table is None or table in at.per_request or node.attribute("axis") != 0:
        return False
    value = node.operands[1]
    assert value is not None
    indices = at.value(value)
    at.spread[node.result] = at.rewriter.add(node.op, (table, indices), node.attributes, origins=(node,)).result
    return True


def _slice(at: _Spreading, node: Node, slots: Sequence[int]) -> bool:
    """Neighbouring rows of a table, which begin at another one for each request."""
    table, value = node.operands[:2]
    axes, steps, shape = at.known(node, 3), at.known(node, 4), node.result.type.bind(at.dims).shape
    plain = (axes is None or list(axes.reshape(-1)) == [0]) and (steps is None or list(steps.reshape(-1)) == [1])
    if list(slots) != [1] or table is None or value is None or table in at.per_request or not plain:
        return False
    starts = at.found.get(value)
    if starts is None or starts.size != at.requests or not isinstance(shape[0], int):
        return False
    rows = starts.reshape(-1, 1).astype(np.int64) + np.arange(shape[0])
    indices = at.rewriter.constant(f"{value.name}.requests", rows)
    at.spread[node.result] = at.rewriter.add(lookup("gather"), (table, indices), origins=(node,)).result
    return True


def _moved(at: _Spreading, node: Node, slots: Sequence[int]) -> bool:
    """Casts, and other axes for a value that is spread."""
    value = node.operands[0]
    if list(slots) != [0] or value is None:
        return False
    spread, op = at.value(value), node.op.name
    if op in ("cast", "identity"):
        made = at.rewriter.add(node.op, (spread,), node.attributes, origins=(node,))
    elif op == "unsqueeze":
        given = at.known(node, 1)
        if given is None:
            return False
        axes = [1 + int(a) % node.result.type.rank for a in given.reshape(-1)]
        constant = at.rewriter.constant(f"{node.name}.axes", np.array(axes))
        made = at.rewriter.add(node.op, (spread, constant), origins=(node,))
    else:
        type = node.result.type.bind(at.dims)
        if not type.is_static:
            return False
        shape = np.array([at.requests, *type.static_shape])
        constant = at.rewriter.constant(f"{node.name}.shape", shape)
        made = at.rewriter.add(lookup("reshape"), (spread, constant), origins=(node,))
    at.spread[node.result] = made.result
    return True


def _rotary(at: _Spreading, node: Node, slots: Sequence[int]) -> bool:
    """Tables [1, S, R/2] become [requests, S, R/2]."""
    return _joining(at, node, slots, 3) if 0 not in slots else False


def _positions(at: _Spreading, node: Node, slots: Sequence[int]) -> bool:
    """Position ids [1, S] or [B, S] of an exporter's rotary embedding."""
    return _joining(at, node, slots, 2) if 0 not in slots else False


def _grouped(at: _Spreading, node: Node, slots: Sequence[int]) -> bool:
    """Numbers of keys [B] and position ids [B, S]."""
    ranks = {5: 1, 9: 2}
    return set(slots) <= ranks.keys() and all(_joining(at, node, [i], ranks[i]) for i in slots)


def _joining(at: _Spreading, node: Node, slots: Sequence[int], rank: int) -> bool:
    for i in slots:
        value = node.operands[i]
        joined = at.joined(value, rank) if value is not None else None
        if joined is None:
            return False
        at.rewriter.set_operand(node, i, joined)
    return True


_RULES: Mapping[str, Rule] = {
    "gather": _gather,
    "slice": _slice,
    **dict.fromkeys(("cast", "identity", "unsqueeze", "squeeze", "reshape"), _moved),
    "rotary": _rotary,
    "rotary_embedding": _positions,
    "ms_rotary_embedding": _positions,
    "ms_group_query_attention": _grouped,
}


def _per_request(graph: Graph) -> frozenset[Value]:
    """Values that depend on inputs, which have an axis of requests."""
    found: set[Value] = set(graph.inputs)
    for node in graph.order():
        if node.op.name not in ("shape", "size") and any(v in found for v in node.inputs()):
            found.update(node.results)
    return frozenset(found)
