"""Recognise identical layers, so that each kind is compiled once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import ClassVar

from pimc.ir.facts import Layer
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

ANCHORS = ("attention", "attention_scores")
"""Each layer has one of these."""


@record
class FindLayersPass(Pass):
    """Nodes of repeated, structurally identical layers get a `Layer`: the group of identical ones, and which it is.

        24 x { rms_norm, matmul, .., attention, .., add }   ->   same   // layer = 0:0 .. 0:23

    A layer is what lies around one attention: from where the graph begins to look like the other layers, to where the
    next one begins. Two layers are identical if their ops, attributes, types and wiring are; weights and caches count
    by type only, shapes and single numbers by contents. The k-th nodes of two layers of a group then correspond.
    """

    name: ClassVar[str] = "find-layers"
    before: ClassVar[GraphStage] = GraphStage.BOUND

    minimum: int = 2
    """A layer is one only if at least so many are identical."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        wanted: dict[Node, Layer] = {}
        groups = [g for g in find_layers(graph) if len(g) >= self.minimum]
        for number, group in enumerate(groups):
            for index, nodes in enumerate(group):
                wanted.update(dict.fromkeys(nodes, Layer(number, index)))
        for node, layer in wanted.items():
            rewriter.set_fact(node, layer)


LayerGroup = list[list[Node]]
"""Identical layers, each as its nodes in an order in which they correspond."""


def find_layers(graph: Graph) -> list[LayerGroup]:
    """The groups of identical layers, in the order of their first layers; groups of one layer are among them."""
    order = graph.order()
    place = {node: i for i, node in enumerate(order)}
    above = _attentions_above(order)
    segments = _segments(graph, order, above)
    if len(segments) < 3:
        return []
    rows = _trimmed(graph, _common_tails(segments), segments)
    heads = [_with_readers(set(nodes), segments[i]) for i, nodes in enumerate(zip(*rows, strict=True))]
    layers: list[list[Node]] = []
    for i in range(len(heads) - 1):
        behind = [n for n in segments[i + 1] if n not in heads[i + 1]]
        layers.append([*heads[i], *_own(graph, behind, heads[i], above)])
    layers.append([*heads[-1], *_like_before(layers[-1], segments[-1], rows)])
    groups: dict[str, LayerGroup] = {}
    for layer in layers:
        ordered = _canonical_order(graph, layer, place)
        groups.setdefault(_digest(graph, ordered), []).append(ordered)
    return list(groups.values())


# -- cutting ---------------------------------------------------------------------------------------------------------


def _attentions_above(order: Sequence[Node]) -> dict[Node, int]:
    """The largest number of attentions on a way to each node."""
    above: dict[Node, int] = {}
    for node in order:
        above[node] = max(
            (above[v.owner] + (v.owner.op.name in ANCHORS) for v in node.inputs() if v.owner is not None), default=0
        )
    return above


def _segments(graph: Graph, order: Sequence[Node], above: dict[Node, int]) -> list[list[Node]]:
    """Nodes by the number of attentions on the way to them; those before all belong to whoever reads them first."""
    level: dict[Node, int] = {}
    for node in reversed(order):
        below = [level[u] for r in node.results for u in graph.users(r)]
        fixed = above[node] or node.op.name in ANCHORS or not below
        level[node] = above[node] if fixed else min(below)
    segments: list[list[Node]] = [[] for _ in range(max(level.values(), default=0) + 1)]
    for node in order:
        segments[level[node]].append(node)
    return segments


Row = tuple[Node, ...]
"""Nodes of all layers that do the same."""


def _common_tails(segments: list[list[Node]]) -> list[Row]:
    """The rows above the attentions that end the segments, as far as all segments look alike."""
    anchors = [[n for n in s if n.op.name in ANCHORS] for s in segments]
    members = [set(s) for s, a in zip(segments, anchors, strict=True) if a]
    ends = tuple(a[-1] for a in anchors if a)
    found: list[Row] = [ends]
    taken = set(ends)
    front = [ends]
    while front:
        for values in zip(*(n.operands for n in front.pop()), strict=False):
            row = tuple(v.owner for v in values if v is not None and v.owner is not None)
            if len(row) < len(ends) or len(set(row)) < len(row) or taken & set(row):
                continue
            if all(n in m for n, m in zip(row, members, strict=True)) and len({_look(n) for n in row}) == 1:
                found.append(row)
                front.append(row)
                taken |= set(row)
    return found


def _trimmed(graph: Graph, rows: list[Row], segments: list[list[Node]]) -> list[Row]:
    """Rows that belong to the end of the layer before go: without them, fewer values pass from layer to layer.

    The first row, the attentions, stays.
    """
    left = list(rows)
    while True:
        head = {row[-1] for row in left}
        before = set(segments[len(rows[0]) - 1]) - head
        last = next((row for row in left[1:] if _only_joins(graph, row[-1], head, before)), None)
        if last is None:
            return left
        left.remove(last)


def _only_joins(graph: Graph, node: Node, head: set[Node], before: set[Node]) -> bool:
    """Whether a node reads several values of the layer before that no later one reads, and nothing of its own layer."""
    owners = [v.owner for v in node.inputs()]
    if any(o is not None and o in head for o in owners):
        return False
    ended = {v for v in node.inputs() if v.owner in before and all(u is node or u in before for u in graph.users(v))}
    return len(ended) > 1


def _with_readers(head: set[Node], segment: list[Node]) -> set[Node]:
    """The head, and whatever else of its segment is made from it (keys that are handed out in another shape)."""
    found = set(head)
    for node in segment:
        if any(v.owner in found for v in node.inputs()):
            found.add(node)
    return found


def _own(graph: Graph, behind: list[Node], head: set[Node], above: dict[Node, int]) -> list[Node]:
    """The nodes behind an attention, without those that other layers share (which depend on no attention)."""
    layer = {*behind, *head}
    for node in reversed(behind):
        if not above[node] and any(u not in layer for r in node.results for u in graph.users(r)):
            layer.remove(node)
    return [n for n in behind if n in layer]


def _look(node: Node) -> tuple[object, ...]:
    """What a node is at first sight: its op, and the kinds and types of its operands and results."""
    operands = tuple((v.role, v.type) if v is not None else None for v in node.operands)
    return node.op.name, operands, tuple(r.type for r in node.results)


def _like_before(previous: list[Node], tail: list[Node], rows: list[Row]) -> list[Node]:
    """The nodes of the last segment that do what the layer before the last does behind its attention."""
    twin: dict[Value, Value] = {}
    for row in rows:
        twin.update(zip(row[-2].results, row[-1].results, strict=True))
        for a, b in zip(row[-2].operands, row[-1].operands, strict=False):
            if a is not None and b is not None and a is not b and a.owner is not None:
                twin.setdefault(a, b)
    taken: list[Node] = []
    left = list(tail)
    for node in previous:
        if node.results[0] in twin and twin[node.results[0]].owner in {r[-1] for r in rows}:
            continue
        match = next((c for c in left if _look(c) == _look(node) and _same_operands(node, c, twin)), None)
        if match is not None:
            left.remove(match)
            taken.append(match)
            twin.update(zip(node.results, match.results, strict=True))
    return taken


def _same_operands(node: Node, other: Node, twin: dict[Value, Value]) -> bool:
    """Whether the operands correspond: twins, or the same sort of weight; at least one of them a twin."""
    if len(node.operands) != len(other.operands):
        return False
    known = 0
    for a, b in zip(node.operands, other.operands, strict=True):
        if a is None or b is None:
            if a is not b:
                return False
        elif a in twin:
            known += 1
            if twin[a] is not b:
                return False
        elif a.type != b.type or a.role is not b.role:
            return False
    return known > 0


# -- comparing -------------------------------------------------------------------------------------------------------


def _canonical_order(graph: Graph, layer: Iterable[Node], place: dict[Node, int]) -> list[Node]:
    """The nodes of a layer in topological order, ties broken by what they are and how they hang together.

    Depends on structure alone, so that identical layers come out in corresponding orders however the graph was built.
    """
    nodes = sorted(layer, key=place.__getitem__)
    inside = set(nodes)
    up: dict[Node, bytes] = {}
    for node in nodes:
        up[node] = _mix(_local(node), *(_edge(v, inside, up) for v in node.operands))
    key: dict[Node, bytes] = {}
    for node in reversed(nodes):
        readers = sorted(key[u] for r in node.results for u in graph.users(r) if u in inside)
        key[node] = _mix(up[node], *readers)
    depth: dict[Node, int] = {}
    for node in nodes:
        depth[node] = max((depth[v.owner] + 1 for v in node.inputs() if v.owner in depth), default=0)
    return sorted(nodes, key=lambda n: (depth[n], key[n], place[n]))


def _edge(value: Value | None, inside: set[Node], keys: dict[Node, bytes]) -> bytes:
    if value is None:
        return b"-"
    if value.owner is not None and value.owner in inside:
        return keys[value.owner] + bytes([value.index & 255])
    return f"{value.role.name}:{value.type}".encode()


def _local(node: Node) -> bytes:
    attributes = sorted((k, repr(v)) for k, v in node.attributes.items())
    return repr((node.op.name, attributes, [str(r.type) for r in node.results])).encode()


def _mix(*parts: bytes) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(len(part).to_bytes(4, "little"))
        digest.update(part)
    return digest.digest()


def _digest(graph: Graph, layer: Sequence[Node]) -> str:
    """The structural hash of a layer: ops, attributes, types, and wiring by position.

    Values from outside count by kind and type, and by which of them are the same; constants by their contents.
    """
    number: dict[Value, str] = {}
    outside: dict[Value, str] = {}
    inside = set(layer)
    digest = hashlib.blake2b(digest_size=16)
    for i, node in enumerate(layer):
        wires = []
        for value in node.operands:
            if value is not None and value not in number:
                outside.setdefault(value, f"x{len(outside)}:{value.role.name}:{value.type}{_constant(value)}")
            wires.append("-" if value is None else number.get(value) or outside[value])
        leaves = [graph.is_output(r) or any(u not in inside for u in graph.users(r)) for r in node.results]
        digest.update(repr((_local(node), wires, leaves)).encode())
        number.update({r: f"{i}.{r.index}" for r in node.results})
    return digest.hexdigest()


def _constant(value: Value) -> str:
    """The contents of shapes, axes and single numbers, which commands are made from; vectors are only read."""
    array = value.type.array
    if array is None or (array.size > 1 and value.type.dtype.is_float):
        return ""
    return f"={hashlib.blake2b(array.tobytes(), digest_size=8).hexdigest()}"
