"""Streams as bytes: commands are encoded from the declarations of their operands, loops nest.

Numbers are variable-length (seven bits a byte, least first); signed ones are folded to even and odd. A stream's items
are its count and then, for each, 0 and a loop (count, items), or the number of a command in the program's command
table plus one, the change of the op index, the instances, and the operands in the order of their declaration.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pimc.backends.affine import DEVICE, INSTANCE, Affine, Scalar, affine
from pimc.backends.isa import Command, OperandDecl, operands_of
from pimc.backends.program import Item, Loop, Step, Stream, steps
from pimc.ir.diagnostics import CompileError, InternalError
from pimc.ir.types import DType
from pimc.record import record

DEEPEST = 64
"""How deep loops may be nested."""
LONGEST_NUMBER = 10
"""Bytes of a number."""


class Damaged(Exception):
    """The bytes are not what `encode` writes."""


@record
class Tables:
    """What numbers in the bytes stand for."""

    commands: Mapping[str, type[Command]]
    """commands in use by mnemonic, in order"""
    words: Sequence[str]
    """choices and element types in use, in order"""

    @staticmethod
    def of(streams: Sequence[Stream]) -> Tables:
        used: dict[str, type[Command]] = {}
        words: set[str] = set()
        for stream in streams:
            for step in steps(stream.items):
                used[step.command.mnemonic] = type(step.command)
                for name, declaration in operands_of(type(step.command)).items():
                    if declaration.kind in ("dtype", "choice"):
                        words.add(_word(getattr(step.command, name)))
        return Tables(dict(sorted(used.items())), sorted(words))

    def signatures(self) -> dict[str, list[str]]:
        """Names and kinds of each command's operands, to recognise commands that have changed since."""
        return {name: signature(cls) for name, cls in self.commands.items()}


def signature(cls: type[Command]) -> list[str]:
    return [f"{name}:{declaration.kind}" for name, declaration in operands_of(cls).items()]


def _word(value: object) -> str:
    return value.text if isinstance(value, DType) else str(value)


# -- writing --------------------------------------------------------------------------------------------------------


def encode(stream: Stream, tables: Tables) -> bytes:
    """The items of one stream, whose loop variables must be canonical."""
    return bytes(_Writer(tables, stream.engine).items(stream.items).out)


class _Writer:
    def __init__(self, tables: Tables, engine: str) -> None:
        self.out = bytearray()
        self._engine = engine
        self._op = -1
        self._numbers = {mnemonic: i for i, mnemonic in enumerate(tables.commands)}
        self._words = {word: i for i, word in enumerate(tables.words)}

    def items(self, items: Sequence[Item]) -> _Writer:
        self.natural(len(items))
        for item in items:
            if isinstance(item, Loop):
                self.natural(0)
                self.natural(item.count)
                self.items(item.body)
            else:
                self._step(item)
        return self

    def _step(self, step: Step) -> None:
        if step.engine != self._engine:
            raise InternalError(f"a command of engine {step.engine} in the stream of {self._engine}")
        self.natural(self._numbers[step.command.mnemonic] + 1)
        self.integer(step.op - self._op)
        self._op = step.op
        self.instances(step.instances)
        for name, declaration in operands_of(type(step.command)).items():
            self._operand(getattr(step.command, name), declaration)

    def instances(self, instances: tuple[int, ...] | None) -> None:
        self.natural(0 if instances is None else len(instances) + 1)
        for instance in instances or ():
            self.natural(instance)

    def _operand(self, value: object, declaration: OperandDecl) -> None:
        match value:
            case float() | int() if declaration.kind == "real":
                self.out += struct.pack("<d", value)
            case int():
                self._scalar(value, ())
            case Affine(base=base, terms=terms):
                self._scalar(base, terms)
            case tuple():
                self.natural(len(value))
                for number in value:
                    self.integer(number)
            case _:
                self.natural(self._words[_word(value)])

    def _scalar(self, base: int, terms: tuple[tuple[int, int], ...]) -> None:
        self.natural(len(terms))
        self.integer(base)
        for variable, coefficient in terms:
            self.integer(variable)
            self.integer(coefficient)

    def integer(self, number: int) -> None:
        self.natural(number << 1 if number >= 0 else (-number << 1) - 1)

    def natural(self, number: int) -> None:
        while number > 0x7F:
            self.out.append(number & 0x7F | 0x80)
            number >>= 7
        self.out.append(number)


# -- reading --------------------------------------------------------------------------------------------------------


def decode(data: bytes, engine: str, tables: Tables, ops: int) -> tuple[Item, ...]:
    """The items that `encode` wrote; `ops` is the length of the op table. Raises `Damaged`."""
    reader = _Reader(data, engine, tables, ops)
    items = reader.items(0)
    if reader.at != len(data):
        raise Damaged(f"{len(data) - reader.at} bytes too many in the stream of {engine}")
    return items


@dataclass
class _Reader:
    data: bytes
    engine: str
    tables: Tables
    ops: int
    at: int = 0
    op: int = -1
    _commands: list[type[Command]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._commands = list(self.tables.commands.values())

    def items(self, depth: int) -> tuple[Item, ...]:
        if depth > DEEPEST:
            raise Damaged(f"loops are nested deeper than {DEEPEST}")
        return tuple(self._item(depth) for _ in range(self._length()))

    def _item(self, depth: int) -> Item:
        tag = self.natural()
        if tag == 0:
            count = self.natural()
            return Loop(depth, count, self.items(depth + 1))
        if tag > len(self._commands):
            raise Damaged(f"command number {tag} is not in the table")
        cls = self._commands[tag - 1]
        self.op += self.integer()
        if not -1 <= self.op < self.ops:
            raise Damaged(f"op {self.op} is not in the table")
        instances = self._instances()
        values = {name: self._operand(d, depth) for name, d in operands_of(cls).items()}
        try:
            return Step(self.engine, cls(**values), self.op, instances)
        except (ValueError, TypeError, CompileError) as error:
            raise Damaged(f"{cls.mnemonic}: {error}") from None

    def _instances(self) -> tuple[int, ...] | None:
        length = self._length()
        return None if length == 0 else tuple(self.natural() for _ in range(length - 1))

    def _operand(self, declaration: OperandDecl, depth: int) -> object:
        match declaration.kind:
            case "int":
                return self._scalar(depth)
            case "real":
                return self._real()
            case "ints":
                return tuple(self.integer() for _ in range(self._length()))
        number = self.natural()
        if number >= len(self.tables.words):
            raise Damaged(f"word {number} is not in the table")
        word = self.tables.words[number]
        if declaration.kind == "dtype":
            try:
                return DType.parse(word)
            except ValueError as error:
                raise Damaged(str(error)) from None
        if word not in declaration.choices:
            raise Damaged(f"'{word}' is not a choice of its operand")
        return word

    def _real(self) -> float:
        if self.at + 8 > len(self.data):
            raise Damaged("a stream ends in the middle of a command")
        (number,) = struct.unpack_from("<d", self.data, self.at)
        self.at += 8
        return float(number)

    def _scalar(self, depth: int) -> Scalar:
        length = self._length()
        base = self.integer()
        terms: dict[int, int] = {}
        for _ in range(length):
            variable = self.integer()
            if variable not in (DEVICE, INSTANCE) and not 0 <= variable < depth:
                raise Damaged(f"an operand uses loop i{variable} outside of it")
            terms[variable] = self.integer()
        return affine(base, terms)

    def _length(self) -> int:
        """A count of things that take at least a byte each."""
        length = self.natural()
        if length > len(self.data) - self.at + 1:
            raise Damaged("a stream ends in the middle of a command")
        return length

    def integer(self) -> int:
        folded = self.natural()
        return -((folded + 1) >> 1) if folded & 1 else folded >> 1

    def natural(self) -> int:
        number = shift = 0
        for _ in range(LONGEST_NUMBER):
            if self.at >= len(self.data):
                raise Damaged("a stream ends in the middle of a command")
            byte = self.data[self.at]
            self.at += 1
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7
        raise Damaged("a number is too long")
