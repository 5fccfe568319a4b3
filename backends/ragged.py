"""Nodes whose requests have lengths of their own, as nodes of requests that are equally long.

The requests come in groups (`pimc.ir.facts.Ragged`). A node is lowered group by group, each as a node of the usual kind
on the group's part of every tensor: its requests, and as many key positions as the longest of them has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pimc.backends.lowering import Lowering
from pimc.ir.diagnostics import InternalError
from pimc.ir.facts import Ragged
from pimc.ir.graph import Node, Role, Value
from pimc.ir.memory import Home
from pimc.ir.types import TensorType
from pimc.record import record

_REQUESTS, _LAST = 0, 3
_KEYS: dict[str, tuple[frozenset[int], bool]] = {
    "attention_scores": (frozenset(), True),
    "attention_softmax": (frozenset({0, 1}), True),
    "attention_context": (frozenset({0}), False),
    "cache_append": (frozenset(), False),
}
"""Operands whose last axis is that of the keys, and whether that of the result is."""
_LENGTHS = 2
"""The operand of attention_softmax that holds lengths."""


@record
class Group:
    """Requests `start` to `start + size - 1` of group `index`."""

    index: int
    start: int
    size: int
    length: int
    """key positions of the longest"""
    offset: int = 0
    """how many of the group come before them"""
    is_whole: bool = True
    """whether they are all of it"""


def groups_of(ragged: Ragged) -> list[Group]:
    return [Group(i, *stretch) for i, stretch in enumerate(ragged.stretches())]


def groups(node: Node, at: Lowering) -> Iterator[tuple[Node, Lowering]]:
    """The node of each group, with the places of its values."""
    ragged = node.fact(Ragged)
    assert ragged is not None
    for group in groups_of(ragged):
        yield part_of(node, at, group)


def part_of(node: Node, at: Lowering, group: Group) -> tuple[Node, Lowering]:
    """The part of a node that belongs to some requests of one group, all of them taken to be as long as the longest."""
    ragged = node.fact(Ragged)
    assert ragged is not None
    with_keys, result_has_keys = _KEYS[node.op.name]
    places: dict[Value, Home] = {}

    def cut(value: Value | None, keys: bool) -> Value | None:
        if value is None:
            return None
        made, places[made] = _cut(value, at.tensor(value), group, keys=keys)
        return made

    operands = [cut(v, i in with_keys) for i, v in enumerate(node.operands)]
    if node.op.name == "attention_softmax" and _says_nothing(node, ragged, group):
        operands[_LENGTHS] = None
    results = tuple(cut(r, result_has_keys) for r in node.results)
    facts = {kind: fact for kind, fact in node.facts.items() if kind is not Ragged}
    made = replace(node, operands=tuple(operands), results=tuple(r for r in results if r is not None), facts=facts)
    for result in made.results:
        result.owner = made
    return made, replace(at, places=places)


def _says_nothing(node: Node, ragged: Ragged, group: Group) -> bool:
    """Whether the lengths of the requests are those of the group."""
    lengths = node.operands[_LENGTHS] if len(node.operands) > _LENGTHS else None
    own = ragged.lengths[group.start : group.start + group.size]
    array = lengths.type.array if lengths is not None else None
    return array is not None and set(own) == {group.length} and tuple(array.tolist()) == ragged.lengths


def _cut(value: Value, home: Home, group: Group, *, keys: bool) -> tuple[Value, Home]:
    """The rows of a group's requests, and its keys; what has one row for all of them stays as it is."""
    shape, layout, array = list(value.type.static_shape), home.layout, value.type.array
    cuts: list[tuple[int, int, int]] = []
    if home.parts:
        layout = home.parts[group.index]
        shape[_REQUESTS], shape[2] = group.size, group.length
        if not group.is_whole:  # whole ones may have room for more requests
            cuts.append((_REQUESTS, group.offset, group.offset + group.size))
        array = None
    elif shape[_REQUESTS] != 1 or not keys:
        cuts.append((_REQUESTS, group.start, group.start + group.size))
        array = array[group.start : group.start + group.size] if array is not None else None
    if keys and shape[_LAST] != 1:
        cuts.append((_LAST, 0, group.length))
        array = None
    for axis, start, stop in cuts:
        if len(layout.dims) <= axis:
            raise InternalError(f"%{value.name} has no axis {axis}")
        sliced = layout.sliced(axis, start, stop) if (start, stop) != (0, layout.shape[axis]) else layout
        if sliced is None:
            raise InternalError(f"%{value.name}: requests {start} to {stop} of {layout} are not a layout")
        layout = sliced
        shape[axis] = stop - start
    type = TensorType(value.type.dtype, tuple(shape), array)
    return Value(value.name, type, value.role if array is None else Role.CONSTANT), replace(
        home, layout=layout, parts=()
    )
