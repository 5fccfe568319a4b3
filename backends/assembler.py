"""Reads `.pimasm` text back into a program. All mistakes are reported at once, each with its line and column."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, TypeVar

from pimc.backends.affine import DEVICE, INSTANCE, Scalar, affine
from pimc.backends.batches import request_from, rows_from
from pimc.backends.engines import commands
from pimc.backends.isa import Command, OperandDecl, operands_of
from pimc.backends.plain_blocks import blocks_from
from pimc.backends.program import (
    FORMAT_VERSION,
    Flight,
    Item,
    Loop,
    MapEntry,
    OpRow,
    PassRow,
    Program,
    Step,
    Stream,
    choice_from,
)
from pimc.backends.provenance import costs_from, pass_from
from pimc.backends.references import contents_of
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean
from pimc.ir.layout import Digit, Layout
from pimc.ir.requests import Request
from pimc.ir.source import TextSpan
from pimc.ir.types import DType

MOST_MISTAKES = 20
"""After so many, the rest of the text is not read."""
DEEPEST = 64
"""How deep loops may be nested."""
LARGEST = 1 << 63
"""Operands are smaller than this."""

T = TypeVar("T")


class Mistake(Exception):
    """Something wrong in the present line; `word` is what to point at."""

    def __init__(self, message: str, word: str = "", help: str | None = None) -> None:
        super().__init__(message)
        self.message, self.word, self.help = message, word, help


def assemble(text: str, file: str = "<text>") -> Program:
    """The program that the text describes. Raises CompileError with every mistake found."""
    return _Assembler(text, file).program()


@dataclass
class _Open:
    """A loop or stream whose closing brace is still to come."""

    line: int
    items: list[Item] = field(default_factory=list)
    count: int = 0


class _Assembler:
    def __init__(self, text: str, file: str) -> None:
        self._lines = text.split("\n")
        self._file = file
        self._at = 0
        self._mistakes: list[Diagnostic] = []
        self._fields: dict[str, Any] = {"dims": {}, "extent": {}, "notes": ()}
        self._entries: list[tuple[int, str]] = []
        self._ops: list[OpRow] = []
        self._requests: list[Request] = []
        self._passes: list[PassRow] = []
        self._blobs: list[bytes] = []
        self._streams: list[Stream] = []
        self._commands = commands()

    def program(self) -> Program:
        while (line := self._next()) is not None:
            self._attempt(lambda line=line: self._directive(line))  # type: ignore[misc]
        memory: list[MapEntry] = []
        for number, text in self._entries:
            self._at = number
            self._attempt(lambda text=text: memory.append(self._entry(text)))  # type: ignore[misc]
        self._at = len(self._lines)
        self._attempt(self._complete)
        if self._mistakes:
            raise CompileError(self._mistakes)
        return Program(
            streams=tuple(self._streams),
            memory=tuple(memory),
            ops=tuple(self._ops),
            requests=tuple(self._requests),
            passes=tuple(self._passes),
            **self._fields,
        )

    # -- lines ----------------------------------------------------------------------------------------------------

    def _next(self) -> str | None:
        """The next line with something in it."""
        while self._at < len(self._lines):
            line = self._lines[self._at].strip()
            self._at += 1
            if line and not line.startswith(";"):
                return line
        return None

    def _attempt(self, read: Callable[[], object]) -> None:
        try:
            read()
        except Mistake as mistake:
            self._note(mistake, self._at)

    def _note(self, mistake: Mistake, number: int) -> None:
        text = self._lines[number - 1] if 0 < number <= len(self._lines) else ""
        column = max(0, text.find(mistake.word)) if mistake.word else len(text) - len(text.lstrip())
        length = len(mistake.word) or max(1, len(text.strip()))
        span = TextSpan(self._file, max(1, number), column + 1, text, length)
        self._mistakes.append(Diagnostic(Kind.ASSEMBLY, mistake.message, span, help=mistake.help))
        if len(self._mistakes) >= MOST_MISTAKES:
            raise CompileError(self._mistakes)

    # -- directives -----------------------------------------------------------------------------------------------

    def _directive(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        readers: Mapping[str, Callable[[str], None]] = {
            ".pimprog": self._version,
            ".graph": lambda r: self._set("graph", string(r)),
            ".phase": lambda r: self._set("phase", string(r)),
            ".dims": lambda r: self._set("dims", dict(_numbers(r))),
            ".devices": lambda r: self._set("devices", number(r)),
            ".stages": lambda r: self._set("stages", number(r)),
            ".turns": lambda r: self._set("turns", number(r)),
            ".inputs": lambda r: self._set("inputs", tuple(_strings(r))),
            ".outputs": lambda r: self._set("outputs", tuple(_strings(r))),
            ".note": lambda r: self._set("notes", (*self._fields["notes"], string(r))),
            ".no-values": lambda r: self._set("no_values", string(r)),
            ".flight": self._flight,
            ".extent": lambda r: self._set("extent", dict(_numbers(r))),
            ".command": lambda r: self._set("command", string(r)),
            ".choice": lambda r: self._set("choice", _understood("the choice", choice_from, _json(r, 0)[0])),
            ".pass": lambda r: self._passes.append(_understood("the pass", pass_from, _json(r, 0)[0])),
            ".target": self._target,
            ".description": self._description,
            ".request": lambda r: self._requests.append(_understood("the request", request_from, _json(r, 0)[0])),
            ".memory": lambda r: self._block(r, lambda line: self._entries.append((self._at, line))),
            ".ops": lambda r: self._block(r, self._op),
            ".blobs": lambda r: self._block(r, self._blob),
            ".stream": self._stream,
        }
        reader = readers.get(word)
        if reader is None:
            raise Mistake(f"'{word}' is not a directive", word, did_you_mean(word, readers))
        reader(rest.strip())

    def _set(self, name: str, value: object) -> None:
        self._fields[name] = value

    def _version(self, rest: str) -> None:
        if number(rest) != FORMAT_VERSION:
            raise Mistake(f"this text is of version {rest}; this pimc reads version {FORMAT_VERSION}", rest)
        self._set("version", FORMAT_VERSION)

    def _flight(self, rest: str) -> None:
        given = {name: text for name, _, text in (word.partition("=") for word in rest.split())}
        names = [f.name for f in fields(Flight)]
        if sorted(given) != sorted(names):
            raise Mistake(f"a flight gives {', '.join(f'{n}=N' for n in names)}", rest)
        self._set("flight", Flight(**{name: number(text) for name, text in given.items()}))

    def _target(self, rest: str) -> None:
        name, end = _json(rest, 0)
        self._set("target_name", _is(name, str))
        digest = rest[end:].strip()
        self._set("target_hash", "" if digest == "-" else digest)

    def _description(self, rest: str) -> None:
        start = self._at
        while self._at < len(self._lines) and self._lines[self._at].strip() != ".end":
            self._at += 1
        text = "\n".join(self._lines[start : self._at])
        if self._at == len(self._lines):
            self._at = start
            raise Mistake("no '.end' closes the description")
        self._at += 1
        try:
            self._set("target", _is(json.loads(text), dict))
        except (ValueError, RecursionError) as error:
            raise Mistake(f"the description is not JSON: {error}") from None

    def _block(self, rest: str, read: Callable[[str], object]) -> None:
        if rest != "{":
            raise Mistake("a block starts with '{'")
        opened = self._at
        while (line := self._next()) != "}":
            if line is None:
                self._at = opened
                raise Mistake("no '}' closes this block")
            self._attempt(lambda line=line: read(line))  # type: ignore[misc]

    def _complete(self) -> None:
        needed = ("version", "graph", "phase", "devices", "target", "target_name", "target_hash")
        names = {"version": ".pimprog", "target": ".description", "target_name": ".target", "target_hash": ".target"}
        missing = [names.get(n, f".{n}") for n in needed if n not in self._fields]
        if missing and not self._mistakes:
            raise Mistake(f"the text lacks {', '.join(dict.fromkeys(missing))}")

    # -- rows -----------------------------------------------------------------------------------------------------

    def _op(self, line: str) -> None:
        index, _, rest = line.partition(" ")
        if number(index) != len(self._ops):
            raise Mistake(f"op {index} is out of order, {len(self._ops)} comes next", index)
        name, given = _row(rest)
        texts = {k: _is(_take(given, k), str) for k in ("op", "source", "phase", "nature", "engine", "reason")}
        counts = {k: number(_take(given, k), signed=True) for k in ("flops", "bytes", "layer", "shares")}
        named = {k: _is(given.pop(k, ""), str) for k in ("beat", "weight")}
        passes = tuple(_is(p, str) for p in _is(_take(given, "passes"), list))
        costs = _understood("costs", costs_from, given.pop("costs", []))
        _no_more(given, OpRow)
        fields: dict[str, Any] = {**texts, **counts, **named}
        self._ops.append(OpRow(name=name, passes=passes, costs=costs, **fields))

    def _blob(self, line: str) -> None:
        index, _, rest = line.partition(" ")
        if number(index) != len(self._blobs):
            raise Mistake(f"blob {index} is out of order, {len(self._blobs)} comes next", index)
        try:
            self._blobs.append(base64.b64decode(rest, validate=True))
        except binascii.Error as error:
            raise Mistake(f"not base64: {error}", rest) from None

    def _entry(self, line: str) -> MapEntry:
        name, given = _row(line)
        shard = given.pop("shard", None)
        fill = given.pop("fill", None)
        alias = given.pop("alias", None)
        extents = given.pop("extents", None)
        rows, blocks = given.pop("rows", None), given.pop("blocks", None)
        entry = MapEntry(
            name=name,
            role=str(_take(given, "role")),
            space=str(_take(given, "space")),
            dtype=dtype(str(_take(given, "dtype"))),
            layout=layout(str(_take(given, "layout"))),
            logical=dtype(str(_take(given, "logical"))),
            devices=numbers(str(_take(given, "devices"))),
            shard=None if shard is None else _shard(str(shard)),
            contents=None if fill is None else self._contents(_is(fill, dict)),
            alias=None if alias is None else _is(alias, str),
            extents=None if extents is None else tuple(number(n) for n in _is(extents, list)),
            rows=None if rows is None else _understood("rows", rows_from, rows),
            blocks=None if blocks is None else _understood("blocks", blocks_from, blocks),
        )
        _no_more(given, MapEntry)
        return entry

    def _contents(self, fill: dict[str, Any]) -> Any:
        try:
            return contents_of(fill, self._blobs)
        except KeyError as error:
            raise Mistake(f"fill lacks {error}") from None
        except (TypeError, ValueError, IndexError, RecursionError) as error:
            raise Mistake(f"fill is not understood: {error}") from None

    # -- streams --------------------------------------------------------------------------------------------------

    def _stream(self, rest: str) -> None:
        if not rest.endswith("{"):
            raise Mistake("a stream starts with '{'")
        engine, given = _row(rest[:-1])
        devices = numbers(str(_take(given, "devices")))
        instances = numbers(str(_take(given, "instances")))
        _no_more(given, Stream)
        stack = [_Open(self._at)]
        while stack:
            line = self._next()
            if line is None:
                self._note(Mistake("no '}' closes this"), stack[-1].line)
                return
            code = line.partition(";")[0].strip()
            self._attempt(lambda code=code: self._item(code, engine, stack))  # type: ignore[misc]
            if code == "}":
                closed = stack.pop()
                if stack:
                    stack[-1].items.append(Loop(len(stack) - 1, closed.count, tuple(closed.items)))
                else:
                    self._streams.append(Stream(engine, devices, instances, tuple(closed.items)))

    def _item(self, code: str, engine: str, stack: list[_Open]) -> None:
        if code == "}":
            return
        if code.startswith("loop "):
            opened = _Open(self._at)
            stack.append(opened)
            match = re.fullmatch(r"loop i(\d+) (\d+) \{", code)
            if match is None:
                raise Mistake("a loop is written 'loop i0 8 {'")
            if int(match[1]) != len(stack) - 2:
                raise Mistake(f"the counter of this loop is i{len(stack) - 2}", f"i{match[1]}")
            if len(stack) > DEEPEST:
                raise Mistake(f"loops are nested deeper than {DEEPEST}")
            opened.count = number(match[2])
            return
        stack[-1].items.append(self._step(code, engine, len(stack) - 1))

    def _step(self, code: str, engine: str, depth: int) -> Step:
        mnemonic, *words = code.split()
        cls = self._commands.get(mnemonic)
        if cls is None:
            raise Mistake(f"no command is called '{mnemonic}'", mnemonic, did_you_mean(mnemonic, self._commands))
        op, instances = -1, None
        given: dict[str, object] = {}
        declared = operands_of(cls)
        for word in words:
            name, sign, text = word.partition("=")
            if word.startswith("@"):
                op = self._op_index(word)
            elif word.startswith("%"):
                instances = numbers(word[1:])
            elif not sign:
                raise Mistake(f"'{word}' is not 'operand=value'", word)
            elif name not in declared:
                raise Mistake(f"{mnemonic} has no operand '{name}'", word, did_you_mean(name, declared))
            elif name in given:
                raise Mistake(f"operand '{name}' is given twice", word)
            else:
                given[name] = _operand(text, declared[name], depth, word)
        return Step(engine, _made(cls, declared, given), op, instances)

    def _op_index(self, word: str) -> int:
        index = number(word[1:])
        if index >= len(self._ops):
            raise Mistake(f"there is no op {index}: the table has {len(self._ops)}", word)
        return index


def _made(cls: type[Command], declared: Mapping[str, OperandDecl], given: Mapping[str, object]) -> Command:
    missing = [n for n, d in declared.items() if d.default is MISSING and n not in given]
    if missing:
        raise Mistake(f"{cls.mnemonic} lacks {', '.join(missing)}", cls.mnemonic)
    try:
        return cls(**given)
    except (ValueError, TypeError) as error:
        raise Mistake(f"{cls.mnemonic}: {error}", cls.mnemonic) from None
    except CompileError as error:
        raise Mistake(f"{cls.mnemonic}: {error.diagnostics[0].message}", cls.mnemonic) from None


# -- words --------------------------------------------------------------------------------------------------------


def _operand(text: str, declaration: OperandDecl, depth: int, word: str) -> object:
    try:
        match declaration.kind:
            case "int":
                return scalar(text, depth)
            case "real":
                return float(text)
            case "dtype":
                return dtype(text)
            case "ints":
                if not (text.startswith("[") and text.endswith("]")):
                    raise Mistake("a list is written [1,2,3]")
                return tuple(number(t, signed=True) for t in text[1:-1].split(",") if t)
    except Mistake as mistake:
        raise Mistake(mistake.message, word, mistake.help) from None
    except ValueError:
        raise Mistake(f"'{text}' is not a number", word) from None
    if text not in declaration.choices:
        raise Mistake(f"'{text}' is not a choice here", word, did_you_mean(text, declaration.choices))
    return text


_TERM = re.compile(r"([+-]?)(?:(\d+)\*(i\d+|dev|ch)|(i\d+|dev|ch)|(0x[0-9a-fA-F]+|\d+))")


def scalar(text: str, depth: int) -> Scalar:
    """`0x100+64*i0-4*dev` inside `depth` loops."""
    base, terms, at = 0, dict[int, int](), 0
    while at < len(text) or not at:
        found = _TERM.match(text, at)
        if found is None or (at and not found[1]):
            raise Mistake(f"'{text}' is not a number or a sum like 0x100+64*i0")
        sign = -1 if found[1] == "-" else 1
        name = found[3] or found[4]
        if name:
            which = {"dev": DEVICE, "ch": INSTANCE}.get(name)
            which = int(name[1:]) if which is None else which
            if which >= depth:
                raise Mistake(f"there is no loop {name} here")
            terms[which] = terms.get(which, 0) + sign * (int(found[2]) if found[2] else 1)
        else:
            base += sign * int(found[5], 0 if found[5].startswith("0x") else 10)
        at = found.end()
    if abs(base) >= LARGEST or any(abs(c) >= LARGEST for c in terms.values()):
        raise Mistake(f"'{text}' does not fit 64 bits")
    return affine(base, terms)


def number(text: object, *, signed: bool = False) -> int:
    """A decimal number below 2**63."""
    word = str(text)
    if not re.fullmatch(r"-?\d{1,19}" if signed else r"\d{1,19}", word) or abs(int(word)) >= LARGEST:
        raise Mistake(f"'{word}' is not a number", word)
    return int(word)


def numbers(text: str) -> tuple[int, ...]:
    """`0-3,6`."""
    if text == "-":
        return ()
    found: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        first, last = number(low), number(high or low)
        if not first <= last <= first + 65536:
            raise Mistake(f"'{part}' is not a range", text)
        found += range(first, last + 1)
    return tuple(found)


def dtype(text: str) -> DType:
    try:
        return DType.parse(text)
    except ValueError as error:
        raise Mistake(str(error), text, did_you_mean(text, (d.text for d in DType))) from None


def layout(text: str) -> Layout:
    """`@64(4:32,2:64*8:4)`."""
    match = re.fullmatch(r"@(-?\d+)\((.*)\)", text)
    if match is None:
        raise Mistake(f"'{text}' is not a layout like @64(4:32,8:4)", text)
    dims = [] if not match[2] else [_digits(d) for d in match[2].split(",")]
    return Layout(number(match[1], signed=True), tuple(dims))


def _digits(text: str) -> tuple[Digit, ...]:
    if text == "-":
        return ()
    digits: list[Digit] = []
    for part in text.split("*"):
        count, _, stride = part.partition(":")
        digits.append((number(count), number(stride, signed=True)))
    return tuple(digits)


def _understood(what: str, read: Callable[[object], T], plain: object) -> T:
    try:
        return read(plain)
    except ValueError as error:
        raise Mistake(f"{what}: {error}") from None


def _shard(text: str) -> tuple[int, int]:
    axis, _, count = text.partition("/")
    return number(axis), number(count)


def string(text: str) -> str:
    value, end = _json(text, 0)
    if text[end:].strip():
        raise Mistake(f"unexpected '{text[end:].strip()}'", text[end:].strip())
    return _is(value, str)


def _json(text: str, at: int) -> tuple[Any, int]:
    try:
        value, end = json.JSONDecoder().raw_decode(text, at)
    except (ValueError, RecursionError):
        raise Mistake("expected a quoted text or JSON value", text[at:].split(" ")[0]) from None
    return value, end


def _strings(text: str) -> Iterator[str]:
    at = 0
    while at < len(text):
        value, at = _json(text, at)
        yield _is(value, str)
        at += len(text[at:]) - len(text[at:].lstrip())


def _numbers(text: str) -> Iterator[tuple[str, int]]:
    at = 0
    while at < len(text):
        name, at = _json(text, at)
        match = re.compile(r"=(\d+)\s*").match(text, at)
        if match is None:
            raise Mistake(f'expected "{name}"=number', text[at:].split(" ")[0])
        yield _is(name, str), number(match[1])
        at = match.end()


def _row(text: str) -> tuple[str, dict[str, Any]]:
    """`"name" key=word key="text" key={json}`."""
    name, at = _json(text, 0)
    given: dict[str, Any] = {}
    key = re.compile(r"\s*(\w+)=")
    while text[at:].strip():
        match = key.match(text, at)
        if match is None:
            raise Mistake("expected key=value", text[at:].strip().split(" ")[0])
        at = match.end()
        if text[at : at + 1] in ('"', "[", "{"):
            given[match[1]], at = _json(text, at)
        else:
            word = text[at:].split(" ", 1)[0]
            given[match[1]] = word
            at += len(word)
    return _is(name, str), given


def _take(given: dict[str, Any], key: str) -> Any:
    if key not in given:
        raise Mistake(f"'{key}=' is missing")
    return given.pop(key)


def _no_more(given: Mapping[str, Any], cls: type) -> None:
    if given:
        first = next(iter(given))
        raise Mistake(f"'{first}=' is unknown here", first, did_you_mean(first, (f for f in cls.__annotations__)))


def _is(value: object, kind: type[T]) -> T:
    if not isinstance(value, kind):
        raise Mistake(f"{value!r} is not a {kind.__name__}")
    return value
