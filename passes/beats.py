"""The beats of a decoder: what the NPU does between two attentions, and which attention PIM does meanwhile.

A decoder of L layers is G0 M0 G1 M1 .. GL: matrix products with weights (and what is between them), and attentions.
One batch goes from one to the next. Of two sub-batches one is always a beat behind the other:

    beat    A     B     C     D     ..    E     F
    NPU     G0'   G0"   G1'   G1"         GL'   GL"
    PIM           M0'   M0"   M1'         M"
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from pimc.ir.facts import SubBatch
from pimc.ir.graph import Node, Role
from pimc.record import record

ATTENTION = frozenset({"attention", "attention_scores", "attention_softmax", "attention_context"})
_ENDS = frozenset({"attention", "attention_context"})


@record
class BeatNodes:
    """Nodes that belong to one beat, in topological order."""

    name: str
    """A, B, E of one batch (EA: from one attention to the next), A to F of two; `.2` and so on where they repeat"""
    nodes: tuple[Node, ...]


def find_beats(nodes: Sequence[Node]) -> list[BeatNodes]:
    """Cut a graph's nodes, given in topological order, into beats."""
    parts: dict[tuple[int, int, bool], list[Node]] = defaultdict(list)
    for node, level in attentions_before(nodes).items():
        parts[_half(node), level, node.op.name in ATTENTION].append(node)
    last = max((level for _, level, _ in parts), default=0)
    halves = sorted({half for half, _, _ in parts})
    plan = _alone(last) if len(halves) < 2 else _interleaved(last)
    place = {node: i for i, node in enumerate(nodes)}
    found: list[BeatNodes] = []
    for name, members in plan:
        inside = [n for half, level, is_attention in members for n in parts[halves[half], level, is_attention]]
        if inside:
            found.append(BeatNodes(name, tuple(sorted(inside, key=lambda n: place[n]))))
    return found


Part = tuple[int, int, bool]
"""Which sub-batch, how many attentions come before, and whether it is one."""


def _alone(last: int) -> Iterator[tuple[str, tuple[Part, ...]]]:
    yield "A", ((0, 0, False),)
    for i in range(last):
        yield _numbered("B", i), ((0, i, True),)
        yield "E" if i == last - 1 else _numbered("EA", i), ((0, i + 1, False),)


def _interleaved(last: int) -> Iterator[tuple[str, tuple[Part, ...]]]:
    yield "A", ((0, 0, False),)
    yield "B", ((1, 0, False), (0, 0, True))
    for i in range(1, last):
        yield _numbered("C", i - 1), ((0, i, False), (1, i - 1, True))
        yield _numbered("D", i - 1), ((1, i, False), (0, i, True))
    if last:
        yield "E", ((0, last, False), (1, last - 1, True))
        yield "F", ((1, last, False),)


def _numbered(name: str, index: int) -> str:
    return name if index == 0 else f"{name}.{index + 1}"


def _half(node: Node) -> int:
    fact = node.fact(SubBatch)
    return fact.index if fact is not None else 0


def attentions_before(nodes: Sequence[Node]) -> dict[Node, int]:
    """How many attentions lie on the longest way to each node; what depends on weights alone goes with its first
    reader."""
    levels: dict[Node, int] = {}
    alone: dict[Node, list[Node]] = {}
    for node in nodes:
        above = [v.owner for v in node.inputs() if v.owner in levels]
        levels[node] = max((levels[o] + (o.op.name in _ENDS) for o in above), default=0)
        for owner in above:
            if owner in alone:
                alone[owner].append(node)
        if all(v.role is Role.WEIGHT or v.owner in alone for v in node.inputs()):
            alone[node] = []
    for node in reversed(alone):
        levels[node] = min((levels[user] for user in alone[node]), default=levels[node])
    return levels
