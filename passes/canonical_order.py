"""One order for a graph, however it was built."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import ClassVar

from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.stage import GraphStage
from pimc.passes.building import content_name
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

_COMMUTATIVE = frozenset(
    {"add", "mul", "and", "or", "xor", "bitwise_and", "bitwise_or", "bitwise_xor", "equal", "max", "min", "sum"}
)
_RADIUS = 4
"""How far above two operands a difference may lie that decides their order."""
_LAST = {Role.WEIGHT: 1, Role.CONSTANT: 2}


@record
class CanonicalOrderPass(Pass):
    """Sort nodes and weights by what they compute, and name constants by what they hold.

        %b = matmul(%x, %w), %y = add(matmul(%b, %v), %x), %z = mul(%half, %y)   // output %z
    ->  %b = matmul(%x, %w), %y = add(%x, matmul(%b, %v)), %z = mul(%y, %const.fc3a62e960c0)

    Nodes come as outputs need them: the output that most nodes serve first, then the others by name, the operands of a
    node in order. Of operands that may be exchanged, one that the other is made from comes first, weights and constants
    last; else the ops around them decide, then the names of their weights. So two models of the same architecture (and
    with the same names of inputs, weights and outputs) give the same streams and memory map, whichever frontend and
    exporter they came through. What is decided does not depend on the layer, so that identical layers stay identical.
    """

    name: ClassVar[str] = "canonical-order"
    before: ClassVar[GraphStage] = GraphStage.BOUND

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for value in graph.weights:
            if value.role is Role.CONSTANT and value.type.array is not None:
                rewriter.rename(value, content_name(value.type.array))
        forms, around = _forms(graph), _Around()
        for node in graph.order():
            if node.op.name in _COMMUTATIVE and len(node.operands) == 2:
                _exchange(node, forms, around, rewriter)
        rewriter.reorder(list(_as_needed(graph, forms)))


def _exchange(node: Node, forms: Mapping[Value, _Form], around: _Around, rewriter: Rewriter) -> None:
    """Put the two operands of a node in their order."""
    first, second = node.operands
    if first is None or second is None or first is second or _is_made_from(second, first, forms):
        return
    if not _is_made_from(first, second, forms) and _rank(first, forms, around) <= _rank(second, forms, around):
        return
    rewriter.set_operand(node, 0, second)
    rewriter.set_operand(node, 1, first)


_Natural = tuple[tuple[int, str], ...]


@record
class _Form:
    """What a value is, without regard to the order in which nodes were made."""

    number: int
    above: int
    """The numbers of all inputs and results that it is made from, as bits."""
    label: tuple[_Natural, ...]
    """The names of the weights and inputs that its node reads, or else of those that its first operand is made from."""


def _forms(graph: Graph) -> dict[Value, _Form]:
    forms: dict[Value, _Form] = {}
    for value in (*graph.inputs, *graph.weights):
        forms[value] = _Form(len(forms), 0, (_natural(value.name),))
    for node in graph.order():
        given = [forms[v] for v in node.inputs()]
        above = 0
        for value in node.inputs():
            above |= forms[value].above | (1 << forms[value].number if value.role not in _LAST else 0)
        labels = [forms[v].label for v in node.inputs() if v.owner is None]
        label = tuple(part for each in labels for part in each) or (given[0].label if given else ())
        for result in node.results:
            forms[result] = _Form(len(forms), above, label)
    return forms


def _is_made_from(value: Value, other: Value, forms: Mapping[Value, _Form]) -> bool:
    return bool(forms[value].above >> forms[other].number & 1)


def _rank(
    value: Value, forms: Mapping[Value, _Form], around: _Around
) -> tuple[int, tuple[bytes, ...], tuple[_Natural, ...]]:
    near = tuple([around.at(value, distance) for distance in range(_RADIUS + 1)])
    return _LAST.get(value.role, 0), near, forms[value].label


class _Around:
    """Ops, attributes, types and wiring of the node of a value, then of what is around that, at growing distance.

    Weights and tables count by type only. Few values are asked for: operands that may be exchanged, and what is near.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[Value, int], bytes] = {}

    def at(self, value: Value, distance: int) -> bytes:
        found = self._known.get((value, distance))
        if found is None:
            found = _leaf(value) if value.owner is None else self._result(value.owner, value.index, distance)
            self._known[value, distance] = found
        return found

    def _result(self, node: Node, index: int, distance: int) -> bytes:
        own = repr((node.op.name, sorted(node.attributes.items()), [str(r.type) for r in node.results]))
        if distance:
            edges = [b"" if v is None else self.at(v, distance - 1) for v in node.operands]
            own = repr((own, sorted(edges) if node.op.name in _COMMUTATIVE else edges))
        return _digest(own) + bytes([index & 255])


def _leaf(value: Value) -> bytes:
    array = value.type.array
    known = array is not None and (array.size <= 1 or not value.type.dtype.is_float)
    held = content_name(array) if known and array is not None else ""
    return _digest(f"{value.role.value}:{value.type}:{held}")


def _as_needed(graph: Graph, forms: Mapping[Value, _Form]) -> Iterator[Node]:
    """The nodes in the order in which outputs, and operand by operand the nodes above them, need them."""

    def place(output: tuple[str, Value]) -> tuple[int, _Natural]:
        name, value = output
        return -forms[value].above.bit_count(), _natural(name)

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
