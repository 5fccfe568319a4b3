"""Lets element-wise ops and norms be computed on the tiles of a product, so that what lies between needs no memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from enum import Enum
from typing import ClassVar

from pimc.ir.facts import Beat, Epilogue, Layer, Placement, Position, Queue, Stage, SubBatch
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.op import OpClass
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.ir.views import is_view_op
from pimc.passes.manager import Pass, PassContext
from pimc.record import record


class Use(Enum):
    """Where chains are fused."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


TOGETHER = (Layer, Stage, SubBatch, Queue, Beat)
"""Facts in which a product and what follows it must agree."""


@record
class FuseEpiloguesPass(Pass):
    """Compute bias, activation, residual, norm and the like on the tiles of the product before them.

    A chain of element-wise ops and norms of rows follows a product; each reads the one before and has the engine, the
    type and the layer of the product; what else they read must be there before the product begins. They move up to it
    in the order, and their operands stay until all of them are done. What others read of a chain, too, as a residual is
    read behind the norm, goes to its place on the way (`keeps`). A norm takes tiles of whole rows; where those cost
    more than they spare, the chain ends before it. A back end that cuts a product in another way computes them one
    after another as before.

        %y = matmul(%x, %w)             %y = matmul(%x, %w)
        %r = add(%y, %residual)   ->    %r = add(%y, %residual)  #epilogue=1
        %n = rms_norm(%r, %scale)       %n = rms_norm(%r, %scale)  #epilogue=2{keeps=true}
        %z = add(%r, ..)                %z = add(%r, ..)

    What goes by groups of columns, as the rotation of heads does, may come behind views, and is last.

        %y = matmul(%x, %w)             %y = matmul(%x, %w)
        %h = reshape(%y, ..)      ->    %h = reshape(%y, ..)  #epilogue=1
        %t = transpose(%h)              %t = transpose(%h)  #epilogue=2
        %q = rotary(%t, %c, %s)         %q = rotary(%t, %c, %s)  #epilogue=3

    Two products with the same left operand whose chains meet, as those of a gate, are computed side by side: the left
    operand is loaded once, and neither result needs memory.

        %u = matmul(%x, %up)            %u = matmul(%x, %up)
        %g = matmul(%x, %gate)     ->   %g = matmul(%x, %gate)  #epilogue=1
        %s = silu(%g)                   %s = silu(%g)  #epilogue=2
        %h = mul(%s, %u)                %h = mul(%s, %u)  #epilogue=3
    """

    name: ClassVar[str] = "fuse-epilogues"
    before: ClassVar[GraphStage] = GraphStage.PLACED
    after: ClassVar[GraphStage] = GraphStage.PLACED

    use: Use = Use.AUTO
    """auto: where the commands of all of them take less time on an idle machine; off: every op is computed by itself"""
    pairs: bool = True
    """whether two products may be computed side by side"""

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
            chain = self._side_by_side(graph, node, place, moved, context.target) if self.pairs else None
            if chain is None:
                chain = self._own(graph, node, place, context.target)
            order += [node, *chain]
            moved.update(chain)
            place.update(dict.fromkeys(chain, place[node]))
            for stage, follower in enumerate(chain, 1):
                rewriter.set_fact(follower, Epilogue(stage, chain[follower]))
        if moved:
            for index, node in enumerate(order):
                before = node.fact(Position)
                rewriter.set_fact(node, Position(index, before is None or before.prefetch))

    def _own(self, graph: Graph, product: Node, place: dict[Node, int], target: Target) -> dict[Node, bool]:
        """What is to follow a product on its tiles, by `_chain`."""
        kept = dict(_chain(graph, product, place, target))
        chain = list(kept)
        while chain and self.use is Use.AUTO:
            less = _shorter(chain, kept)
            if _gains(product, chain, kept, target, len(less)):
                break
            chain = less
        return {node: kept[node] for node in chain}

    def _side_by_side(
        self, graph: Graph, product: Node, place: dict[Node, int], moved: Set[Node], target: Target
    ) -> dict[Node, bool] | None:
        """What is to follow a product, with a second one among it, if there is one and both are better so."""
        for second in _seconds(graph, product, place, moved, target):
            found = _meeting(graph, product, second, place, target)
            if found is None:
                continue
            first, further, tail = found
            own, other = (self._own(graph, node, place, target) for node in (product, second))
            apart = [*_marked(product, own, first), *_marked(second, other, further)]
            after = {node: other[node] for node in tail if all(n in other for n in (*further, node))}
            joined = dict.fromkeys((*first, second, *further), False) | after
            if self.use is Use.ON or target.gains_by_joining(_marked(product, joined), apart):
                return joined
        return None


def _seconds(
    graph: Graph, product: Node, place: Mapping[Node, int], moved: Set[Node], target: Target
) -> Iterator[Node]:
    """Later products with the same left operand, of the same types."""
    left = product.operands[0] if product.operands else None
    for node in sorted(graph.users(left), key=lambda user: place[user]) if left is not None else ():
        later = node.op is product.op and place[node] > place[product] and node not in moved
        if later and agree(node, product) and target.may_follow(node, product):
            owners = [v.owner for v in node.inputs() if v.owner is not None]
            if all(place[owner] < place[product] for owner in owners):
                yield node


def _meeting(
    graph: Graph, product: Node, second: Node, place: dict[Node, int], target: Target
) -> tuple[list[Node], list[Node], list[Node]] | None:
    """Where chains of two products meet: what is the first one's own, what is the second one's up to the op that reads
    both, and what follows that. None where they do not, or others read what they go on with."""
    theirs = dict(_chain(graph, second, place, target))
    last, first = product, list[Node]()
    chain = _chain(graph, product, place, target)
    while True:
        users = graph.users(last.result)
        if len(users) != 1 or graph.is_output(last.result):
            return None
        if users[0] in theirs:
            break
        last, kept = next(chain, (product, True))
        if kept:
            return None
        first.append(last)
    nodes = list(theirs)
    end = nodes.index(users[0]) + 1
    owners = [v.owner for node in nodes for v in node.inputs() if v.owner is not None]
    inside = {product, second, *first, *nodes}
    early = all(owner in inside or place[owner] < place[product] for owner in owners)
    once = sum(v is last.result for v in users[0].inputs()) == 1
    if not (early and once) or any(theirs[node] for node in nodes[:end]):
        return None
    return first, nodes[:end], nodes[end:]


def _marked(product: Node, chain: Mapping[Node, bool], also: Iterable[Node] = ()) -> list[Node]:
    """A product and nodes with the facts that they would have on its tiles, and others that would have none."""
    marked = [node.with_fact(Epilogue(stage, kept)) for stage, (node, kept) in enumerate(chain.items(), 1)]
    return [product, *marked, *(node for node in also if node not in chain)]


def _chain(graph: Graph, product: Node, place: dict[Node, int], target: Target) -> Iterator[tuple[Node, bool]]:
    """What can follow a product on its tiles, in order, and whether it goes on with a value that others read, too."""
    last = product
    while len(last.results) == 1:
        users = sorted(graph.users(last.result), key=lambda user: place[user])
        found = (user for user in users if _follows(user, last, product, place, target))
        follower = next(found, None)
        if follower is None:
            yield from ((node, False) for node in _behind_views(graph, last, product, place, target))
            return
        yield follower, len(users) > 1 or graph.is_output(last.result)
        last = follower


def _behind_views(
    graph: Graph, last: Node, product: Node, place: dict[Node, int], target: Target
) -> Sequence[Node]:
    """Views of the last result of a chain, and the op which goes on with what they show; none where others read it."""
    views: list[Node] = []
    while True:
        users = graph.users(last.result)
        if len(users) != 1 or graph.is_output(last.result):
            return []
        if not is_view_op(users[0]):
            break
        views += users
        last = users[0]
    reads = views and users[0].operands[0] is last.result and _follows(users[0], last, product, place, target)
    return [*views, *users] if reads and all(agree(view, product) for view in views) else []


def _follows(node: Node, last: Node, product: Node, place: dict[Node, int], target: Target) -> bool:
    """Whether a node can go on with the last result of a chain: all else that it reads is there before the product."""
    inputs = list(node.inputs())
    others = [v.owner for v in inputs if v.owner is not None and v.owner is not last]
    return (
        sum(v is last.result for v in inputs) == 1
        and all(place[owner] < place[product] for owner in others)
        and agree(node, product)
        and target.may_follow(node, product)
    )


def _gains(product: Node, chain: Sequence[Node], kept: Mapping[Node, bool], target: Target, instead: int) -> bool:
    return target.gains_by_following([product, *chain], [False, *(kept[node] for node in chain)], instead)


def _shorter(chain: list[Node], kept: Mapping[Node, bool]) -> list[Node]:
    """Without the last op that is no element-wise one or keeps a value, those behind it and views before it; nothing
    where there is none."""
    ends = [i for i, node in enumerate(chain) if kept[node] or node.op.cls is not OpClass.ELEMENTWISE]
    less = chain[: ends[-1]] if ends else []
    while less and is_view_op(less[-1]):
        less.pop()
    return less


def agree(follower: Node, product: Node) -> bool:
    engines = [p.engine if (p := node.fact(Placement)) is not None else "" for node in (follower, product)]
    facts: Sequence[type] = TOGETHER
    return engines[0] == engines[1] and all(follower.fact(f) == product.fact(f) for f in facts)
