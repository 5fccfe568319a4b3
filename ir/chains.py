"""Products and what is computed on their tiles: runs of nodes that are lowered together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pimc.ir.facts import Epilogue
from pimc.ir.graph import Node


def chains_in(nodes: Sequence[Node]) -> Iterator[range]:
    """The positions of each product and of what is computed on its tiles."""
    start = 0
    for position in range(1, len(nodes) + 1):
        fact = nodes[position].fact(Epilogue) if position < len(nodes) else None
        if fact is not None and fact.stage == position - start:
            continue
        if position - start > 1:
            yield range(start, position)
        start = position


def keeps(node: Node) -> bool:
    """Whether the value that a node of a chain goes on with is wanted by others, too."""
    fact = node.fact(Epilogue)
    return fact is not None and fact.keeps
