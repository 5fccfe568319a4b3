"""Lets element-wise ops and norms be computed on the tiles of a product's operand, as these are needed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

from pimc.ir.chains import chains_in
from pimc.ir.facts import Position, Prologue
from pimc.ir.graph import Graph, Node, Rewriter, Role
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.passes.fuse_epilogues import Use, agree
from pimc.passes.manager import Pass, PassContext
from pimc.record import record


@record
class FuseProloguesPass(Pass):
    """Compute norms, gates, casts and the like on the tiles of the product that they are the left operand of.

    A chain of element-wise ops and norms of rows leads to a product; each is read by the one behind alone, and has the
    engine, the type and the layer of the product. They move down to it in the order, and what they read stays until the
    product is done. The arrays multiply the first tiles while the vector unit computes the next ones. What others read,
    too, as a norm is read by several products, goes to its place on the way (`keeps`). Ops that follow another product
    on its tiles stay there (`fuse-epilogues`).

        %n = rms_norm(%x, %scale)       %n = rms_norm(%x, %scale)  #prologue=1{keeps=true}
        %q = matmul(%n, %w)        ->   %q = matmul(%n, %w)
        %k = matmul(%n, %v)             %k = matmul(%n, %v)
    """

    name: ClassVar[str] = "fuse-prologues"
    before: ClassVar[GraphStage] = GraphStage.PLACED
    after: ClassVar[GraphStage] = GraphStage.PLACED

    use: Use = Use.AUTO
    """auto: where the commands of all of them take less time on an idle machine; off: every op is computed by itself"""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        target = context.target
        if self.use is Use.OFF or target is None:
            return
        nodes = graph.scheduled()
        place = {node: index for index, node in enumerate(nodes)}
        chains = {nodes[chain.product]: [nodes[i] for i in chain.all] for chain in chains_in(nodes)}
        taken = {node for chain in chains.values() for node in chain}
        leading: dict[Node, list[Node]] = {}
        for product in nodes:
            before = list(_before(graph, product, place, taken, target))[::-1]
            while before and self.use is Use.AUTO:
                chain = chains.get(product, [product])
                if target.gains_by_preceding(before, chain, _is_shared(graph, before[-1], chain)):
                    break
                before = before[1:]
            if before:
                leading[product] = before
                taken.update(before, [product])
                place.update(dict.fromkeys(before, place[product]))
        if leading:
            self._mark(graph, rewriter, nodes, leading, chains)

    @staticmethod
    def _mark(
        graph: Graph, rewriter: Rewriter, nodes: Sequence[Node], leading: Mapping[Node, Sequence[Node]],
        chains: Mapping[Node, Sequence[Node]],
    ) -> None:  # fmt: skip
        moved = {node for before in leading.values() for node in before}
        for product, before in leading.items():
            chain = chains.get(product, [product])
            for stage, node in enumerate(reversed(before), 1):
                rewriter.set_fact(node, Prologue(stage, stage == 1 and _is_shared(graph, node, chain)))
        order = [each for node in nodes if node not in moved for each in (*leading.get(node, ()), node)]
        for index, node in enumerate(order):
            fact = node.fact(Position)
            rewriter.set_fact(node, Position(index, fact is None or fact.prefetch))


def _before(
    graph: Graph, product: Node, place: Mapping[Node, int], taken: set[Node], target: Target
) -> Iterator[Node]:
    """What can lead to a product's left operand on its tiles, the last first."""
    value, reader = product.operands[0] if product.operands else None, product
    while value is not None and value.owner is not None:
        node = value.owner
        users = graph.users(value)
        last = reader is product
        later = all(user is reader or (last and place[user] > place[product]) for user in users)
        once = sum(v is value for v in reader.inputs()) == 1
        if node in taken or not (later and once and (last or not graph.is_output(value))):
            return
        if any(v.role is Role.CACHE for v in node.inputs()):  # others may grow it meanwhile
            return
        if not (agree(node, product) and target.may_precede(node, product)):
            return
        yield node
        found = (v for v in node.inputs() if v.owner is not None and v.type == value.type)
        value, reader = next(found, None), node


def _is_shared(graph: Graph, node: Node, chain: Sequence[Node]) -> bool:
    """Whether others than a product, and a second one beside it, read what leads to it."""
    return graph.is_output(node.result) or any(user not in chain for user in graph.users(node.result))
