"""Weights that stay on chip from one sub-batch to the other, so that they come from memory once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from pimc.ir.facts import Nature, Phase, Placement, Queue, SubBatch, Work
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.target import Target
from pimc.ir.views import is_view_op
from pimc.passes.beats import attentions_before
from pimc.passes.match import opdef

QUEUE = "held"


def hold_weights(graph: Graph, rewriter: Rewriter, target: Target, percent: int) -> None:
    """Bring weights on chip that both sub-batches multiply with, as far as `percent` of the buffer goes.

        %y/1 = matmul(%x/1, %w)        %h   = hold(%w)
        %y/2 = matmul(%x/2, %w)   ->   %y/1 = matmul(%x/1, %h)
                                       %y/2 = matmul(%x/2, %h)

    Those between the same two attentions share that part of the buffer, the largest first. Their copies have a queue of
    their own, so that those of the next layer come as soon as there is room. Targets without that queue hold nothing.
    """
    if QUEUE not in target.queues:
        return
    engines = {e.name for e in target.engines() if e.kind == "npu"}
    levels = attentions_before(graph.order())
    groups: dict[int, dict[Value, Node]] = defaultdict(dict)
    for weight in graph.weights:
        products = list(_readers(graph, weight)) if weight.role is Role.WEIGHT else []
        if _are_of_both(products, engines):
            groups[min(levels[p] for p in products)][weight] = products[0]
    for weights in groups.values():
        left = target.buffer_bytes * percent // 100
        for weight in sorted(weights, key=lambda w: -target.stored_bytes(w.type)):
            size = target.stored_bytes(weight.type)
            if size <= left:
                left -= size
                for product in _readers(graph, weight):
                    _set_bytes(rewriter, product, size)
                uses = list(graph.uses(weight))
                value = hold(rewriter, weight, weights[weight], size)
                for user, index in uses:
                    rewriter.set_operand(user, index, value)


def hold(rewriter: Rewriter, weight: Value, product: Node, size: int) -> Value:
    """The weight, held on chip for a product and those like it. The copy itself reads the weight."""
    node = rewriter.add(opdef("hold"), (weight,), name=f"{weight.name}.held", origins=(product,))
    phase, placement = product.fact(Phase), product.fact(Placement)
    assert phase is not None and placement is not None
    for fact in (phase, Work(Nature.MOVEMENT, 0, size), Queue(QUEUE)):
        rewriter.set_fact(node, fact)
    rewriter.set_fact(node, Placement(placement.engine, "stays on chip for both sub-batches"))
    return node.result


def held(value: Value | None) -> Value | None:
    """The weight of which a value is what is held on chip."""
    owner = None if value is None else value.owner
    return owner.operands[0] if owner is not None and owner.op.name == "hold" else None


def _readers(graph: Graph, value: Value) -> Iterator[Node]:
    """Who reads a value, be it through views."""
    for user in graph.users(value):
        if is_view_op(user):
            for result in user.results:
                yield from _readers(graph, result)
        else:
            yield user


def _are_of_both(nodes: list[Node], engines: set[str]) -> bool:
    """Whether nodes are products on these engines, and each sub-batch has some."""
    placements = [n.fact(Placement) for n in nodes]
    halves = {half.index if (half := n.fact(SubBatch)) is not None else -1 for n in nodes}
    return (
        len(halves) > 1
        and -1 not in halves
        and all(n.op.name == "matmul" for n in nodes)
        and all(p is not None and p.engine in engines for p in placements)
    )


def _set_bytes(rewriter: Rewriter, product: Node, size: int) -> None:
    """What a product reads from memory without its weight."""
    work = product.fact(Work)
    assert work is not None
    rewriter.set_fact(product, replace(work, bytes=max(0, work.bytes - size)))
