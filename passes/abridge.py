"""Leaves out repetitions of layers, for questions that one layer of a kind answers for all."""

from __future__ import annotations

from pimc.ir.graph import Graph, Rewriter
from pimc.passes.find_layers import LayerGroup, find_layers

KEPT = 2
"""Layers of each kind that stay: fewer would not be known as layers any more."""


def repeated_layers(graph: Graph) -> list[LayerGroup]:
    """The groups of identical layers that have more than one, in the order of their first layers."""
    return [group for group in find_layers(graph) if len(group) >= KEPT]


def abridge(graph: Graph, rewriter: Rewriter) -> tuple[int, ...]:
    """Remove all layers but two of each kind, in place; the kind of every layer that there was, in order.

    Whoever read a layer that goes reads the last one of its kind that stays: what is left has the ops and types of the
    whole, and computes something else.
    """
    place = {node: index for index, node in enumerate(graph.order())}
    groups = repeated_layers(graph)
    found = sorted((min(place[n] for n in nodes), kind) for kind, group in enumerate(groups) for nodes in group)
    for group in groups:
        for nodes in group[KEPT:]:
            for node, twin in zip(nodes, group[KEPT - 1], strict=True):
                for old, new in zip(node.results, twin.results, strict=True):
                    rewriter.replace_uses(old, new)
    rewriter.remove_dead()
    return tuple(kind for _, kind in found)
