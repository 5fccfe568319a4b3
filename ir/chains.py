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
