"""The commands of layers that go on as the two before them, without lowering them.

Rules look at where values lie only to add to it, and PIM's to divide it into rows. So where the values of a layer lie
as far from those of the layer before as those did from the ones before them, and nothing else differs, the same holds
for the addresses of its commands.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from pimc.backends.affine import Affine
from pimc.backends.emitter import Scratch
from pimc.backends.isa import Command, operands_of, values_of
from pimc.backends.lowering import Lowering
from pimc.backends.lowering_memory import seen_by_rules
from pimc.backends.program import Item, Loop, Step
from pimc.ir.facts import Epilogue, Placement, Position, Prologue, Queue, Ragged, Tile
from pimc.ir.graph import Node, Value
from pimc.ir.memory import Home
from pimc.record import record


@record
class Further:
    """The items of a layer that is so many behind the second of two which go on alike. They are made when somebody
    looks at them: nobody does where layers become a loop."""

    first: tuple[Item, ...]
    second: tuple[Item, ...]
    ahead: int = 1
    without: Set[int] = frozenset()
    """numbers of items that are left out"""

    def __iter__(self) -> Iterator[Item]:
        items = further(self.first, self.second, self.ahead)
        assert items is not None
        return (item for number, item in enumerate(items) if number not in self.without)


@record
class _Layer:
    """What rules see of a layer, and what they made of it."""

    seen: Hashable
    """all but where values begin"""
    begins: tuple[int, ...]
    """its first op, the first variable of its loops, and each operand and result"""
    items: tuple[Item, ...] | Further = ()
    variables: int = 0
    """of its loops"""
    left: tuple[int, ...] = ()
    """where each scratch area stands behind it"""


@dataclass
class Repeats:
    """The last two layers of a part, as far as others may go on like them."""

    homes: Mapping[Value, Home]
    before: list[_Layer] = field(default_factory=list)
    here: _Layer | None = None
    """the layer that is looked at; None: nothing can be said of it"""

    def begin(self, nodes: Sequence[Node], at: Lowering, areas: Sequence[Scratch]) -> Further | None:
        """What the next layer emits, if it goes on like the two before; else it must be lowered."""
        op, variable = at.emit.op, at.emit.level[1]
        row = at.spec.dram.geometry.stride_row
        self.here = here = _seen(nodes, self.homes, row, (op, variable))
        if here is None or len(self.before) < 2:
            return None
        first, second = self.before
        alike = first.seen == second.seen == here.seen and first.left == second.left
        if not alike or _steps(second.begins, here.begins) != _steps(first.begins, second.begins):
            return None
        if isinstance(second.items, Further):
            items = replace(second.items, ahead=second.items.ahead + 1)
        else:
            items = Further(tuple(first.items), second.items)
            if further(items.first, items.second) is None:
                return None
        at.emit.again((), variable + second.variables)
        for area, position in zip(areas, second.left, strict=True):
            area.resume(position)
        return items

    def end(self, items: tuple[Item, ...] | Further, at: Lowering, areas: Sequence[Scratch]) -> None:
        """Remember what came of the layer that began."""
        here, self.here = self.here, None
        if here is not None:
            left = tuple([area.position for area in areas])
            made = replace(here, items=items, variables=at.emit.level[1] - here.begins[1], left=left)
            self.before = [*self.before[-1:], made]


def _steps(first: Sequence[int], second: Sequence[int]) -> list[int]:
    return [b - a for a, b in zip(first, second, strict=True)]


def _seen(nodes: Sequence[Node], homes: Mapping[Value, Home], row: int, first: tuple[int, int]) -> _Layer | None:
    """A layer before it is lowered. None: there is too much to see, or what does not go on like that.

    row: bytes of a DRAM row of all banks. first: op and variable.
    """
    found: list[Hashable] = []
    begins = list(first)
    places: dict[tuple[str, int], int] = {}
    for node in nodes:
        position = node.fact(Position)
        if Ragged in node.facts or (position is not None and not position.prefetch):
            return None
        placement = node.fact(Placement)
        engine = ("", ()) if placement is None else (placement.engine, placement.channels)
        facts = tuple([node.fact(kind) for kind in (Tile, Epilogue, Prologue, Queue)])
        found.append((node.op.name, tuple(sorted(node.attributes.items())), engine, facts))
        for value in (*node.operands, *node.results):
            seen = "" if value is None else seen_by_rules(node, value, {})
            home = None if value is None else homes.get(value)
            if seen is None or (home is not None and (home.parts or home.blocks)):
                return None
            found.append(seen)
            if home is None:
                continue
            begin = home.layout.offset
            same = places.setdefault((home.space, begin), len(begins))  # what lies in one place stays in one
            begins.append(begin)
            within = begin if home.on_chip else begin % row if engine[0] == "pim" else 0
            found.append((home.space, home.layout.dims, home.dtype, same, within))
    return _Layer(tuple(found), tuple(begins))


def further(first: Sequence[Item], second: Sequence[Item], ahead: int = 1) -> tuple[Item, ...] | None:
    """What comes so many behind the second of two stretches that go on alike; None where they do not correspond."""
    if len(first) != len(second):
        return None
    found: list[Item] = []
    for a, b in zip(first, second, strict=True):
        item: Item | None = None
        if isinstance(a, Loop) and isinstance(b, Loop) and a.count == b.count:
            body = further(a.body, b.body, ahead)
            item = None if body is None else Loop(_next(a.variable, b.variable, ahead), b.count, body)
        elif isinstance(a, Step) and isinstance(b, Step) and (a.engine, a.instances) == (b.engine, b.instances):
            command = _next_command(a.command, b.command, ahead)
            item = None if command is None else Step(b.engine, command, _next(a.op, b.op, ahead), b.instances)
        if item is None:
            return None
        found.append(item)
    return tuple(found)


def _next(a: int, b: int, ahead: int) -> int:
    return b + ahead * (b - a)


def _next_command(a: Command, b: Command, ahead: int) -> Command | None:
    """None where they differ in more than what may move."""
    if type(a) is not type(b):
        return None
    if a == b and not b.is_affine:
        return b
    values: list[object] = []
    for left, right, declaration in zip(values_of(a), values_of(b), operands_of(type(b)).values(), strict=True):
        value = right
        if isinstance(left, Affine) and isinstance(right, Affine):
            value = _next_affine(left, right, ahead, moves=declaration.moves)
        elif left != right:
            value = None
            if declaration.moves and isinstance(left, int) and isinstance(right, int):
                value = _next(left, right, ahead)
        if value is None:
            return None
        values.append(value)
    return type(b)(*values)


def _next_affine(a: Affine, b: Affine, ahead: int, *, moves: bool) -> Affine | None:
    """In the loops of the next stretch, whose variables have other numbers."""
    if [c for _, c in a.terms] != [c for _, c in b.terms] or (a.base != b.base and not moves):
        return None
    variables = [_next(earlier, later, ahead) for (earlier, _), (later, _) in zip(a.terms, b.terms, strict=True)]
    return Affine(_next(a.base, b.base, ahead), tuple([(v, c) for v, (_, c) in zip(variables, b.terms, strict=True)]))
