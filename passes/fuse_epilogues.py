"""Lets element-wise ops be computed on the tiles of a product, so that what lies between needs no memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import ClassVar

from pimc.ir.facts import Beat, Epilogue, Layer, Placement, Position, Queue, Stage, SubBatch
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.passes.manager import Pass, PassContext


class Use(Enum):
    """Where chains are fused."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


TOGETHER = (Layer, Stage, SubBatch, Queue, Beat)
"""Facts in which a product and what follows it must agree."""


@dataclass(frozen=True)
class FuseEpiloguesPass(Pass):
    """Compute bias, activation, residual and the like on the tiles of the product before them.

    A chain of element-wise ops follows a product where each is the only one that reads the one before, and has the
    engine, the type and the layer of the product; what else they read must be there before the product begins. They
    move up to it in the order, and their operands stay until all of them are done. A back end that cuts a product in
    another way computes them one after another as before.

        %y = matmul(%x, %w)        %y = matmul(%x, %w)
        %b = add(%y, %bias)   ->   %b = add(%y, %bias)  #epilogue=1
        %g = gelu(%b)              %g = gelu(%b)  #epilogue=2
    """

    name: ClassVar[str] = "fuse-epilogues"
    before: ClassVar[GraphStage] = GraphStage.PLACED
    after: ClassVar[GraphStage] = GraphStage.PLACED

    use: Use = Use.AUTO
    """auto: where the commands of all of them take less time on an idle machine; off: every op is computed by itself"""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if self.use is Use.OFF or context.target is None:
            return
        nodes = graph.scheduled()
        place = {node: index for index, node in enumerate(nodes)}
        order: list[Node] = []
        moved: set[Node] = set()
        for node in nodes:
            if node in moved:
                continue
            chain = list(_chain(graph, node, place, context.target))
            if chain and self.use is Use.AUTO and not context.target.gains_by_following([node, *chain]):
                chain = []
            order += [node, *chain]
            moved.update(chain)
            place.update(dict.fromkeys(chain, place[node]))
            for stage, follower in enumerate(chain, 1):
                rewriter.set_fact(follower, Epilogue(stage))
        if moved:
            for index, node in enumerate(order):
                before = node.fact(Position)
                rewriter.set_fact(node, Position(index, before is None or before.prefetch))


def _chain(graph: Graph, product: Node, place: dict[Node, int], target: Target) -> Iterator[Node]:
    """What can follow a product on its tiles, in order."""
    last = product
    while (follower := _only_user(graph, last)) is not None:
        others = [v.owner for v in follower.inputs() if v.owner is not None and v.owner is not last]
        if any(place[owner] >= place[product] for owner in others) or not _agree(follower, product):
            return
        if not target.may_follow(follower, product):
            return
        yield follower
        last = follower


def _only_user(graph: Graph, node: Node) -> Node | None:
    """The node that reads the result, once, if there is just one and the result is no output."""
    uses = list(graph.uses(node.result)) if len(node.results) == 1 else []
    return uses[0][0] if len(uses) == 1 and not graph.is_output(node.result) else None


def _agree(follower: Node, product: Node) -> bool:
    engines = [p.engine if (p := node.fact(Placement)) is not None else "" for node in (follower, product)]
    facts: Sequence[type] = TOGETHER
    return engines[0] == engines[1] and all(follower.fact(f) == product.fact(f) for f in facts)
