"""How a command is declared: one frozen dataclass gives assembler, disassembler, encoding, reference page and values.

    @command
    @record
    class Preload(Command):
        '''Load a block of weights into the array.'''
        mnemonic: ClassVar[str] = "PRELOAD"
        address: Scalar = operand("first weight, in the scratchpad")
        rows: Scalar = operand("rows of the block")

Fields are operands: integers (or `Affine`, inside loops), an element type (`DType`), a word out of a fixed list
(`choice`), a number (`real`), or a list of integers (`integers`). `regions` tells which memory the command reads and
writes, from which streams are synchronised and programs verified; `execute` is its meaning on the simulated state. Its
time is the business of the engine's timing table.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import field
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, TypeVar

from pimc.backends.affine import Affine, Scalar
from pimc.ir.types import DType
from pimc.record import record

if TYPE_CHECKING:
    from pimc.backends.state import DeviceState

C = TypeVar("C", bound="type[Command]")


class Region(NamedTuple):
    """A stretch of memory that a command touches: [start, start + length) bytes of a space.

    In the space `row` start and length count row indices of the DRAM, each over all banks of all channels.
    `channels`: the channels that it is confined to, as a bit mask, or None for all.
    """

    space: str
    start: Scalar
    length: int
    write: bool
    channels: int | None = None

    def flat(self, row_stride: int) -> Region:
        """The same in bytes of `dram` where this counts rows; `row_stride`: bytes of one row index."""
        if self.space != "row":
            return self
        return Region("dram", self.start * row_stride, self.length * row_stride, self.write, self.channels)


@record
class Command:
    """The base of all commands. Subclasses are frozen dataclasses whose fields are the operands."""

    mnemonic: ClassVar[str] = ""
    unit: ClassVar[str] = ""
    """The kind of engine that takes the command: npu, pim, pnm, dma, link; empty: any."""

    def regions(self) -> Iterator[Region]:
        """The memory that the command reads and writes."""
        return iter(())

    def execute(self, state: DeviceState) -> None:
        """Do to the simulated state what the command does. Operands are plain numbers here."""
        raise NotImplementedError(self.mnemonic)

    def resolved(self: CommandT, variables: Mapping[int, int]) -> CommandT:
        """This command with every affine operand replaced by its value."""
        values = _VALUES[type(self)](self)
        if Affine not in map(type, values):
            return self
        return type(self)(*[v.at(variables) if isinstance(v, Affine) else v for v in values])

    @property
    def is_affine(self) -> bool:
        return Affine in map(type, _VALUES[type(self)](self))  # asked for every command of a program: this is quick


CommandT = TypeVar("CommandT", bound=Command)


@record
class OperandDecl:
    """What the assembler and the reference page know of one operand."""

    kind: str
    """int, real, dtype, choice or ints"""
    doc: str
    default: object = dataclasses.MISSING
    choices: tuple[str, ...] = ()
    hexadecimal: bool = False
    address: bool = False
    """where something lies in an on-chip space or in DRAM: as a rule, time does not depend on it"""
    moves: bool = False
    """may differ between otherwise equal commands of identical layers: addresses, rows"""


def operand(doc: str, default: int | None = None, *, hexadecimal: bool = False) -> Any:
    """An integer operand, affine inside loops."""
    return _declare(OperandDecl("int", doc, dataclasses.MISSING if default is None else default, (), hexadecimal))


def address(doc: str, default: int | None = None) -> Any:
    """A byte address; printed in hexadecimal."""
    return _declare(OperandDecl("int", doc, dataclasses.MISSING if default is None else default, (), True, True, True))


def row_number(doc: str) -> Any:
    """The number of a DRAM row."""
    return _declare(OperandDecl("int", doc, dataclasses.MISSING, moves=True))


def element_type(doc: str, default: DType | None = None) -> Any:
    return _declare(OperandDecl("dtype", doc, dataclasses.MISSING if default is None else default))


def choice(doc: str, choices: tuple[str, ...], default: str | None = None) -> Any:
    return _declare(OperandDecl("choice", doc, dataclasses.MISSING if default is None else default, choices))


def real(doc: str, default: float | None = None) -> Any:
    """A float64 number, the same in every turn of a loop; written as Python's repr."""
    return _declare(OperandDecl("real", doc, dataclasses.MISSING if default is None else default))


def integers(doc: str, default: tuple[int, ...] | None = None) -> Any:
    """A list of plain integers (counts, strides)."""
    return _declare(OperandDecl("ints", doc, dataclasses.MISSING if default is None else default))


def _declare(declaration: OperandDecl) -> Any:
    metadata = {"operand": declaration}
    if declaration.default is dataclasses.MISSING:
        return field(metadata=metadata)
    return field(default=declaration.default, metadata=metadata)


COMMANDS: dict[str, type[Command]] = {}
"""Every declared command by mnemonic."""

_OPERANDS: dict[type[Command], dict[str, OperandDecl]] = {}
_VALUES: dict[type[Command], Callable[[Command], tuple[Any, ...]]] = {}
"""What gives the operands of each command, in order."""


def command(cls: C) -> C:
    """Register a declared command; its mnemonic must be new and every field an operand."""
    declarations: dict[str, OperandDecl] = {}
    for f in dataclasses.fields(cls):
        declaration = f.metadata.get("operand")
        if not isinstance(declaration, OperandDecl):
            raise TypeError(f"{cls.__name__}.{f.name} is not declared as an operand")
        declarations[f.name] = declaration
    if not cls.mnemonic or cls.mnemonic in COMMANDS:
        raise ValueError(f"{cls.__name__}: mnemonic '{cls.mnemonic}' is empty or taken")
    _OPERANDS[cls] = declarations
    _VALUES[cls] = _getter(tuple(declarations))
    COMMANDS[cls.mnemonic] = cls
    return cls


def _getter(names: tuple[str, ...]) -> Callable[[Command], tuple[Any, ...]]:
    """What gives some attributes as a tuple."""
    if len(names) > 1:
        return attrgetter(*names)
    return lambda command: tuple([getattr(command, name) for name in names])


def operands_of(cls: type[Command]) -> Mapping[str, OperandDecl]:
    """The declared operands of a command, in order."""
    return _OPERANDS[cls]


def values_of(item: Command) -> tuple[Any, ...]:
    """The values of a command's operands, in order."""
    return _VALUES[type(item)](item)


def operand_names(cls: type[Command]) -> tuple[str, ...]:
    return tuple(_OPERANDS[cls])


def mapped(item: CommandT, change: Callable[[Scalar], Scalar]) -> CommandT:
    """The command with `change` applied to each integer operand."""
    changes: dict[str, Scalar] = {}
    for name, declaration in _OPERANDS[type(item)].items():
        if declaration.kind == "int":
            old = getattr(item, name)
            new = change(old)
            if new != old:
                changes[name] = new
    return dataclasses.replace(item, **changes) if changes else item


@command
@record
class Signal(Command):
    """Add a token to a semaphore once every earlier command of this stream has completed."""

    mnemonic: ClassVar[str] = "SIGNAL"
    semaphore: Scalar = operand("the semaphore")

    def execute(self, state: DeviceState) -> None:
        """Synchronisation changes no values."""


@command
@record
class Wait(Command):
    """Hold the stream until the semaphore has a token from every instance of the signalling engine; take them."""

    mnemonic: ClassVar[str] = "WAIT"
    semaphore: Scalar = operand("the semaphore")

    def execute(self, state: DeviceState) -> None:
        """Synchronisation changes no values."""


SYNCHRONISING = (Signal, Wait)
