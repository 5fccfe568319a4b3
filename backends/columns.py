"""Streams as columns: one row for each command as it is written, loops beside it, or as it is executed.

Operands have columns of their own (`arg_row`), so that a query can count, join and sum them; `operands` has all of them
as `pimc disasm` prints them. What a command is for stands in its row, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import Any

from pimc.backends.affine import DEVICE, INSTANCE, Affine
from pimc.backends.assembly import operand_text, operand_texts, ranks
from pimc.backends.isa import Command, OperandDecl, operands_of
from pimc.backends.program import Loop, Program, Step, Stream, count, steps
from pimc.record import record

ARGUMENT = "arg_"
INTEGER, REAL, TEXT, INTEGERS = "BIGINT", "DOUBLE", "VARCHAR", "BIGINT[]"
"""Types of columns, as SQL names them."""
_TYPES = {"int": INTEGER, "real": REAL, "dtype": TEXT, "choice": TEXT, "ints": INTEGERS}

Row = tuple[Any, ...]


@record
class Column:
    """A column: its name, its type, and what it holds."""

    name: str
    type: str
    doc: str


WHERE = (
    Column("stream", INTEGER, "number of the stream in the program"),
    Column("engine", TEXT, "the engine that takes the stream"),
)
AS_WRITTEN = (
    Column("devices", TEXT, "ranks of the devices that execute it: 0-7"),
    Column("instances", TEXT, "numbers of the engine's instances (channels) that execute it, each for itself"),
    Column("position", INTEGER, "place in the stream as written"),
    Column("loops", INTEGERS, "numbers of the loops around it in its stream, the outermost first"),
    Column("counts", INTEGERS, "how often each of these loops turns"),
    Column("repeats", INTEGER, "how often one instance executes it: the product of the counts"),
)
AS_EXECUTED = (
    Column("device", INTEGER, "rank of the device"),
    Column("instance", INTEGER, "number of the engine's instance (channel)"),
    Column("number", INTEGER, "place in the stream as executed"),
    Column("position", INTEGER, "place in the stream as written"),
    Column("turns", INTEGERS, "counters of the loops around it, the outermost first"),
)
WHAT = (
    Column("mnemonic", TEXT, "the command"),
    Column("operands", TEXT, "operands that differ from their defaults, as text; affine ones with their loops"),
    Column("op", INTEGER, "row of the op table; none for what no op stands for"),
    Column("op_name", TEXT, "name of the op"),
    Column("op_kind", TEXT, "what it is: matmul, rms_norm, ..."),
    Column("phase", TEXT, "prefill, decode, ..."),
    Column("nature", TEXT, "gemm, gemv, ..."),
    Column("layer", INTEGER, "number of the layer; none outside"),
    Column("source", TEXT, "where the op stands in the model"),
)


@record
class _Numbered:
    """A command with its place, or a loop with its number, of a stream."""

    number: int
    item: Step | Loop
    body: tuple[_Numbered, ...] = ()


@record
class StreamTable:
    """The streams of a program as rows under `columns`.

    executed: one row for each command that each instance of each device executes; else one for each as written, with
    operands as they are in the first turn of the loops on the first device and instance. streams: numbers of those
    that are taken. device: the only one that is taken.
    """

    program: Program
    executed: bool = False
    streams: tuple[int, ...] | None = None
    device: int | None = None

    @property
    def columns(self) -> tuple[Column, ...]:
        return (*WHERE, *(AS_EXECUTED if self.executed else AS_WRITTEN), *WHAT, *self._arguments().values())

    @property
    def size(self) -> int:
        """How many rows there are."""
        if not self.executed:
            return sum(len(list(steps(stream.items))) for _, stream in self._taken())
        return sum(
            count(stream.items) * len(self._devices(stream)) * len(stream.instances) for _, stream in self._taken()
        )

    def rows(self) -> Iterator[Row]:
        arguments = self._arguments()
        for number, stream in self._taken():
            numbered, _, _ = _numbered(stream.items, 0, 0)
            for device in self._devices(stream) if self.executed else stream.devices[:1]:
                for instance in stream.instances if self.executed else stream.instances[:1]:
                    variables = {DEVICE: device, INSTANCE: instance}
                    where = (number, stream.engine)
                    if self.executed:
                        yield from self._as_executed(numbered, arguments, (*where, device, instance), variables)
                    else:
                        places = (ranks(stream.devices), ranks(stream.instances))
                        yield from self._as_written(numbered, arguments, (*where, *places), variables, (), ())

    def _taken(self) -> Iterator[tuple[int, Stream]]:
        for number, stream in enumerate(self.program.streams):
            if (self.streams is None or number in self.streams) and self._devices(stream):
                yield number, stream

    def _devices(self, stream: Stream) -> tuple[int, ...]:
        return stream.devices if self.device is None else tuple(d for d in stream.devices if d == self.device)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _as_written(
        self,
        items: Sequence[_Numbered],
        arguments: Mapping[str, Column],
        where: Row,
        variables: dict[int, int],
        loops: tuple[int, ...],
        counts: tuple[int, ...],
    ) -> Iterator[Row]:
        for each in items:
            if isinstance(each.item, Loop):
                variables[each.item.variable] = 0
                around = (*loops, each.number), (*counts, each.item.count)
                yield from self._as_written(each.body, arguments, where, variables, *around)
                continue
            first = each.item.command.resolved(variables)
            place = (*where, each.number, list(loops), list(counts), prod(counts))
            yield (*place, *self._what(each.item.command, each.item.op), *_values(first, arguments))

    def _as_executed(
        self, items: Sequence[_Numbered], arguments: Mapping[str, Column], where: Row, variables: dict[int, int]
    ) -> Iterator[Row]:
        for number, (position, command, op, turns) in enumerate(_executed(items, variables, ())):
            place = (*where, number, position, list(turns))
            yield (*place, *self._what(command, op), *_values(command, arguments))

    def _what(self, command: Command, op: int) -> Row:
        text = " ".join(operand_texts(command))
        if not 0 <= op < len(self.program.ops):
            return (command.mnemonic, text, None, None, None, None, None, None, None)
        row = self.program.ops[op]
        layer = row.layer if row.layer >= 0 else None
        return (command.mnemonic, text, op, row.name, row.op, row.phase, row.nature, layer, row.source)

    def _arguments(self) -> dict[str, Column]:
        """A column for each operand of the commands that occur; text where they give it different types."""
        found: dict[str, Column] = {}
        occurring = {type(step.command) for _, stream in self._taken() for step in steps(stream.items)}
        for cls in sorted(occurring, key=lambda c: c.mnemonic):
            for name, declaration in operands_of(cls).items():
                kind = _TYPES[declaration.kind]
                known = found.get(name)
                if known is None:
                    found[name] = Column(ARGUMENT + name, kind, f"operand of {cls.mnemonic}: {declaration.doc}")
                elif known.type != kind:
                    found[name] = Column(known.name, TEXT, known.doc)
        return dict(sorted(found.items()))


def _numbered(items: Sequence[Step | Loop], step: int, loop: int) -> tuple[tuple[_Numbered, ...], int, int]:
    """Commands and loops with their numbers, which go on behind `step` and `loop`; and the next ones."""
    found: list[_Numbered] = []
    for item in items:
        if isinstance(item, Loop):
            own = loop
            body, step, loop = _numbered(item.body, step, loop + 1)
            found.append(_Numbered(own, item, body))
        else:
            found.append(_Numbered(step, item))
            step += 1
    return tuple(found), step, loop


def _executed(
    items: Sequence[_Numbered], variables: dict[int, int], turns: tuple[int, ...]
) -> Iterator[tuple[int, Command, int, tuple[int, ...]]]:
    """Place, command, op and counters of each command as executed."""
    for each in items:
        if isinstance(each.item, Loop):
            for turn in range(each.item.count):
                variables[each.item.variable] = turn
                yield from _executed(each.body, variables, (*turns, turn))
        else:
            yield each.number, each.item.command.resolved(variables), each.item.op, turns


def _values(command: Command, arguments: Mapping[str, Column]) -> Iterator[Any]:
    """The operands of a command under their columns; none for those that it does not have."""
    declared = operands_of(type(command))
    for name, column in arguments.items():
        declaration = declared.get(name)
        yield None if declaration is None else _value(getattr(command, name), declaration, column.type)


def _value(value: Any, declaration: OperandDecl, kind: str) -> Any:
    assert not isinstance(value, Affine)
    if kind == TEXT:
        return operand_text(value, declaration)
    return list(value) if kind == INTEGERS else float(value) if kind == REAL else int(value)
