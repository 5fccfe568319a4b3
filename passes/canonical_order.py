"""One order for a graph, however it was built."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.stage import GraphStage
from pimc.passes.building import content_name
from pimc.passes.manager import Pass, PassContext

_COMMUTATIVE = frozenset(
    {"add", "mul", "and", "or", "xor", "bitwise_and", "bitwise_or", "bitwise_xor", "equal", "max", "min", "sum"}
)
_KINDS = {Role.RESULT: 0, Role.CACHE: 1, Role.INPUT: 1, Role.WEIGHT: 2, Role.CONSTANT: 3}


@dataclass(frozen=True)
class CanonicalOrderPass(Pass):
    """Sort nodes and weights by what they compute, and name constants by what they hold.

        %b = matmul(%x, %v), %a = matmul(%x, %w), %y = mul(silu(%a), %b)
    ->  %b = matmul(%x, %v), %a = matmul(%x, %w), .., %y = mul(%b, silu(%a))

    Nodes come as outputs need them: the deepest output first, then the others by name, the operands of a node in
    order. Operands that may be exchanged are: shallow ones first, constants last; among equals, by the names of the
    weights that they are made of. So two models of the same architecture (and the same names of inputs, weights and
    outputs) give the same streams and memory map, whichever frontend and exporter they came through.
    """

    name: ClassVar[str] = "canonical-order"
    before: ClassVar[GraphStage] = GraphStage.BOUND

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for value in graph.weights:
            if value.role is Role.CONSTANT and value.type.array is not None:
                rewriter.rename(value, content_name(value.type.array))
        forms = _forms(graph)
        for node in graph.order():
            if node.op.name in _COMMUTATIVE and len(node.operands) == 2:
                _exchange(node, forms, rewriter)
        rewriter.reorder(list(_as_needed(graph, forms)))


def _exchange(node: Node, forms: Mapping[Node, _Form], rewriter: Rewriter) -> None:
    """Put the two operands of a node in their order."""
    first, second = node.operands
    if first is None or second is None or _rank(first, forms) <= _rank(second, forms):
        return
    rewriter.set_operand(node, 0, second)
    rewriter.set_operand(node, 1, first)


_Natural = tuple[tuple[int, str], ...]


@dataclass(frozen=True, slots=True)
class _Form:
    """What a node is, without regard to the order in which nodes were made."""

    depth: int
    digest: bytes
    """Ops, attributes, types and wiring up to the inputs. Weights and tables count by type only, so that layers agree."""
    label: tuple[_Natural, ...]
    """The names of the weights and inputs that it reads itself, or else of those that its first operand reads."""


def _forms(graph: Graph) -> dict[Node, _Form]:
    forms: dict[Node, _Form] = {}
    for node in graph.order():
        given = [forms[v.owner] for v in node.inputs() if v.owner is not None]
        edges = [_edge(v, forms) for v in node.operands]
        if node.op.name in _COMMUTATIVE:
            edges.sort()
        label = tuple(_natural(v.name) for v in node.inputs() if v.owner is None)
        forms[node] = _Form(
            depth=max((f.depth + 1 for f in given), default=0),
            digest=_digest(repr((node.op.name, sorted(node.attributes.items()), [str(r.type) for r in node.results], edges))),
            label=label or (given[0].label if given else ()),
        )
    return forms


def _edge(value: Value | None, forms: Mapping[Node, _Form]) -> bytes:
    if value is None:
        return b"-"
    if value.owner is not None:
        return forms[value.owner].digest + bytes([value.index])
    array = value.type.array
    known = array is not None and (array.size <= 1 or not value.type.dtype.is_float)
    return _digest(f"{value.role.value}:{value.type}:{content_name(array) if known and array is not None else ''}")


def _rank(value: Value, forms: Mapping[Node, _Form]) -> tuple[int, int, bytes, tuple[_Natural, ...], int]:
    """The place of an operand among those that it may be exchanged with."""
    form = forms[value.owner] if value.owner is not None else None
    if form is None:
        return _KINDS[value.role], 0, _edge(value, forms), (_natural(value.name),), 0
    return _KINDS[value.role], form.depth, form.digest, form.label, value.index


def _as_needed(graph: Graph, forms: Mapping[Node, _Form]) -> Iterator[Node]:
    """The nodes in the order in which outputs, and operand by operand the nodes above them, need them."""

    def place(output: tuple[str, Value]) -> tuple[int, _Natural]:
        name, value = output
        return -forms[value.owner].depth if value.owner is not None else 1, _natural(name)

    done: set[Node] = set()
    for _, value in sorted(graph.outputs, key=place):
        stack = [value.owner] if value.owner is not None else []
        while stack:
            node = stack[-1]
            above = [v.owner for v in node.inputs() if v.owner is not None and v.owner not in done]
            if node in done or not above:
                stack.pop()
                if node not in done:
                    done.add(node)
                    yield node
            else:
                stack.append(above[0])


def _natural(name: str) -> _Natural:
    """Sorts numbers within names by value: `layer.9` before `layer.10`."""
    return tuple((int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part)


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
