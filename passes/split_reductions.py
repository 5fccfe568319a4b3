"""Cuts products whose partial sums devices add up, so that sums of one piece travel while the next is multiplied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Placement, Work
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.ir.types import TensorType
from pimc.ir.weights import Sharded, Sliced
from pimc.passes.held_weights import held, hold
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import opdef
from pimc.record import record

LEAST_COLUMNS = 256
"""A piece is at least so wide: narrower ones leave arrays without work."""


@record
class SplitReductionsPass(Pass):
    """Cut the columns of an NPU's matrix product that is all-reduced into pieces, each with an all-reduce of its own.

        %p = matmul(%x, %w)   : [256, 4096]     %a = all_reduce(matmul(%x, %w[:, :2048])) : [256, 2048]
        %y = all_reduce(%p)   : [256, 4096]  -> %b = all_reduce(matmul(%x, %w[:, 2048:])) : [256, 2048]
                                                %y = concat(%a, %b)

    The parts of the weight are weights of their own. Every column is read once as before, and every sum travels once;
    but all pieces except the last travel beside products. As many pieces are made as end soonest by the estimated times
    of product and sum. pieces: at most so many, of 256 columns or more; 1: nothing is cut. Only products with weights
    that the NPU reads from plain memory are.
    """

    name: ClassVar[str] = "split-reductions"
    before: ClassVar[GraphStage] = GraphStage.PLACED
    after: ClassVar[GraphStage] = GraphStage.PLACED

    pieces: int = 12

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if self.pieces < 1:
            raise fail(Kind.PASS_OPTION, f"split-reductions.pieces is at least 1, not {self.pieces}")
        kinds = {e.name: e.kind for e in context.target.engines()} if context.target is not None else {}
        sums: dict[Value, dict[Node, Node]] = defaultdict(dict)
        for reduce in graph.order():
            product = reduce.operands[0].owner if reduce.op.name == "all_reduce" and reduce.operands[0] else None
            if product is not None and _is_cut(graph, product, kinds) and product.operands[1] is not None:
                sums[product.operands[1]][product] = reduce
        for operand, pairs in sums.items():
            product, reduce = next(iter(pairs.items()))
            count = self._count(product, reduce, context.target) if set(graph.users(operand)) == set(pairs) else 1
            if count > 1:
                parts = _parts(rewriter, held(operand) or operand, count)
                if operand.owner is not None:
                    parts = [_held_part(rewriter, part, operand.owner, product, count) for part in parts]
                for product, reduce in pairs.items():
                    _cut(graph, rewriter, product, reduce, parts)
        rewriter.remove_dead()

    def _count(self, product: Node, reduce: Node, target: Target | None) -> int:
        """The number of pieces with which the last sum is there first."""
        columns = product.result.type.static_shape[-1]
        able = [n for n in range(1, self.pieces + 1) if columns % n == 0 and (n == 1 or columns // n >= LEAST_COLUMNS)]
        if target is None or len(able) == 1:
            return able[-1]
        return min(able, key=lambda n: _seconds(product, reduce, n, target))


def _is_cut(graph: Graph, product: Node, kinds: dict[str, str]) -> bool:
    placement, operand = product.fact(Placement), product.operands[1] if len(product.operands) > 1 else None
    weight = held(operand) or operand
    if product.op.name != "matmul" or placement is None or kinds.get(placement.engine) != "npu" or weight is None:
        return False
    if weight is not operand and len(graph.users(weight)) > 1:
        return False
    alone = len(graph.users(product.result)) == 1 and not graph.is_output(product.result)
    by_rows = weight.shard is None or weight.shard[0] == 0
    return alone and by_rows and weight.role is Role.WEIGHT and weight.type.rank == 2


def _seconds(product: Node, reduce: Node, count: int, target: Target) -> float:
    """When the sums of equal pieces have arrived, each going out while the next is multiplied. A piece adds to the one
    before it what a product of both takes longer than one of them."""
    columns = product.result.type.static_shape[-1] // count
    one, summed = _estimates(product, reduce, columns, target)
    if count == 1:
        return one + summed
    two, _ = _estimates(product, reduce, 2 * columns, target)
    return one + (count - 1) * max(two - one, summed) + summed


def _estimates(product: Node, reduce: Node, columns: int, target: Target) -> tuple[float, float]:
    """Seconds of the product with so many columns, and of the sum of what it gives."""
    engines = {e.name: e for e in target.engines()}
    x, weight = product.operands[0], product.operands[1]
    placed, sent = product.fact(Placement), reduce.fact(Placement)
    assert x is not None and weight is not None and placed is not None and sent is not None
    rewriter = Rewriter(Graph("estimate"), "estimate")
    part = rewriter.input("w", TensorType(weight.type.dtype, (weight.type.static_shape[0], columns)), role=Role.WEIGHT)
    if held(weight) is not None:
        part = rewriter.add(opdef("hold"), (part,)).result
    piece = rewriter.add(product.op, (rewriter.input("x", x.type, role=x.role), part), product.attributes)
    whole = rewriter.add(reduce.op, (piece.result,), reduce.attributes)
    return target.estimate(piece, engines[placed.engine]), target.estimate(whole, engines[sent.engine])


def _parts(rewriter: Rewriter, weight: Value, count: int) -> list[Value]:
    """Equal stretches of a weight's columns, as weights of their own: each lies in memory without gaps."""
    contents, shard, dtype = weight.contents, weight.shard, weight.type.dtype
    assert contents is not None
    whole = contents.whole if isinstance(contents, Sharded) else contents
    rows, columns = weight.type.static_shape
    rows *= shard[1] if shard is not None else 1
    size, parts = columns // count, list[Value]()
    for start in range(0, columns, size):
        name, own = f"{weight.name}.{start}:{start + size}", Sliced(whole, 1, start, start + size)
        part = rewriter.weight(name, TensorType(dtype, (rows, size)), own, source=weight.source)
        if shard is not None:
            rewriter.set_shard(part, *shard)
        parts.append(part)
    return parts


def _held_part(rewriter: Rewriter, part: Value, whole: Node, product: Node, count: int) -> Value:
    """A part of a weight that is held on chip."""
    work = whole.fact(Work)
    return hold(rewriter, part, product, work.bytes // count if work is not None else 0)


def _cut(graph: Graph, rewriter: Rewriter, product: Node, reduce: Node, parts: Sequence[Value]) -> None:
    x, count = product.operands[0], len(parts)
    sums: list[Value] = []
    for part in parts:
        piece = rewriter.add(product.op, (x, part), dict(product.attributes), origins=(product,))
        _place(rewriter, piece, product, count)
        whole = rewriter.add(reduce.op, (piece.result,), dict(reduce.attributes), origins=(reduce,))
        _place(rewriter, whole, reduce, count)
        sums.append(whole.result)
    joined = rewriter.add(opdef("concat"), sums, {"axis": reduce.result.type.rank - 1}, origins=(reduce,))
    _place(rewriter, joined, reduce)
    placement = product.fact(Placement)
    assert placement is not None
    rewriter.set_fact(joined, Placement(placement.engine, "joins pieces of a sum"))
    for user in graph.users(reduce.result):
        for index, value in enumerate(user.operands):
            if value is reduce.result:
                rewriter.set_operand(user, index, joined.result)
    for name in graph.output_names(reduce.result):
        rewriter.set_output(name, joined.result)


def _place(rewriter: Rewriter, node: Node, like: Node, count: int = 1) -> None:
    """The facts of the node that it is a part of."""
    for kind, fact in like.facts.items():
        if kind is Work:
            assert isinstance(fact, Work)
            fact = replace(fact, flops=fact.flops // count, bytes=fact.bytes // count, n=fact.n // count)
        rewriter.set_fact(node, fact)
