"""Products and what is computed on their tiles: runs of nodes that are lowered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pimc.ir.facts import Epilogue, Prologue
from pimc.ir.graph import Node
from pimc.record import record


@record
class Chain:
    """Positions: of a product, and around it, in the order, of what is computed on tiles of its left operand and of its
    result."""

    start: int
    product: int
    stop: int

    @property
    def all(self) -> range:
        return range(self.start, self.stop)

    @property
    def before(self) -> range:
        return range(self.start, self.product)

    @property
    def after(self) -> range:
        return range(self.product + 1, self.stop)


def chains_in(nodes: Sequence[Node]) -> Iterator[Chain]:
    """Each product with what is computed on its tiles."""
    start = 0
    while start < len(nodes):
        product = start + _led_by(nodes, start)
        stop = product + 1
        while stop < len(nodes):
            fact = nodes[stop].fact(Epilogue)
            if fact is None or fact.stage != stop - product:
                break
            stop += 1
        if stop - start > 1:
            yield Chain(start, product, stop)
        start = stop


def together(nodes: Sequence[Node]) -> Iterator[Sequence[Node]]:
    """All nodes, in order: those of each chain together, others by themselves."""
    position = 0
    for chain in chains_in(nodes):
        yield from ([node] for node in nodes[position : chain.start])
        yield nodes[chain.start : chain.stop]
        position = chain.stop
    yield from ([node] for node in nodes[position:])


def twin_in(product: Node, followers: Sequence[Node]) -> int | None:
    """Which of the nodes behind a product is a second one with the same left operand, whose tiles come beside those of
    the first."""
    return next((i for i, node in enumerate(followers) if node.op is product.op), None)


def waiting(nodes: Sequence[Node], chain: Chain) -> int | None:
    """The position of the op whose result on a tile waits until the second product and its ops have come as far."""
    second = twin_in(nodes[chain.product], [nodes[i] for i in chain.after])
    return None if second is None else chain.product + second


def _led_by(nodes: Sequence[Node], start: int) -> int:
    """How many nodes from there on are the prologue of the next one."""
    first = nodes[start].fact(Prologue)
    count = first.stage if first is not None else 0
    if start + count >= len(nodes):  # without their product
        return 0
    return count


def keeps(node: Node) -> bool:
    """Whether others want, too, the value that a node of an epilogue goes on with, or that a prologue gives."""
    fact = node.fact(Epilogue) or node.fact(Prologue)
    return fact is not None and fact.keeps
