"""The text format of the AiM simulator's traces, read and written.

A line names a command and its operands: `AiM MAC_ABK 64 0xffffffff 3`, `W MEM 0 4 559`. Masks have channel 0 in their
highest bit. Blank lines and lines that begin with # mean nothing; the run ends at `AiM EOC`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pimc.backends.pim.aim_line import MARKER, NO_REQUEST, NONE, TABLE_ROW, Line
from pimc.backends.pim.aim_rules import COMMANDS, NUMBER
from pimc.backends.pim.cells import channels_of
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean
from pimc.ir.source import TextSpan
from pimc.record import record


@record
class Form:
    """The operands of an opcode, and the DRAM command that it ends in (empty: none)."""

    operands: tuple[str, ...]
    command: str = ""
    each: str = ""
    """the operand that says how many requests it makes of a channel; empty: one"""


FORMS = {
    "WR_SBK": Form(("gpr", "mask", "bank", "row"), "WR"),
    "RD_SBK": Form(("gpr", "mask", "bank", "row"), "RD"),
    "WR_ABK": Form(("gpr", "mask", "row"), "WRA16"),
    "WR_GB": Form(("opsize", "gpr", "mask"), "WRGB", "opsize"),
    "WR_BIAS": Form(("gpr", "mask"), "WRMAC16"),
    "RD_MAC": Form(("gpr", "mask"), "RDMAC16"),
    "RD_AF": Form(("gpr", "mask"), "RDAF16"),
    "COPY_BKGB": Form(("opsize", "mask", "bank", "row"), "RDCP", "opsize"),
    "COPY_GBBK": Form(("opsize", "mask", "bank", "row"), "WRCP", "opsize"),
    "MAC_SBK": Form(("opsize", "mask", "bank", "row"), "MAC", "opsize"),
    "MAC_ABK": Form(("opsize", "mask", "row"), "MAC16", "opsize"),
    "AF": Form(("mask",), "AF16"),
    "EWMUL": Form(("opsize", "mask", "row"), "EWMUL16", "opsize"),
    "EWADD": Form(("opsize", "gpr", "gpr")),
    "SYNC": Form(()),
    "EOC": Form(()),
}
"""After `AiM`."""
DIRECT = {
    ("W", "MEM"): Form(("channel", "bank", "row"), "WR"),
    ("R", "MEM"): Form(("channel", "bank", "row"), "RD"),
    ("W", "GPR"): Form(("gpr",)),
    ("R", "GPR"): Form(("gpr",)),
    ("W", "CFR"): Form(("register", "value")),
    ("R", "CFR"): Form(("register", "value")),
}
FIRST = {"AiM": "a command", "W": "MEM, GPR or CFR", "R": "MEM, GPR or CFR"}
"""How lines begin, and what comes next."""
ACTIVATION_REGISTER = 2
MOST_REQUESTS = 1 << 20
"""Of one line. The format has no limit; this one is that of a bank's columns, not of a row's 64."""
MOST_MISTAKES = 10
NUMBER_FORM = re.compile(r"-?(0x[0-9a-f]+|0|[1-9][0-9]*)", re.IGNORECASE)
BEYOND = 1 << 63
"""No operand is so large."""
MOST_SHOWN = 160
"""characters of a wrong line"""


class TraceReader:
    """Reads the lines of one trace. Lines that look alike are read once."""

    def __init__(self, name: str, channels: int, banks: int) -> None:
        self.name, self.channels, self.banks = name, channels, banks
        everyone = (1 << channels) - 1
        self.sync, self.end = Line(everyone), Line(everyone)
        self.activation = 0
        """the configuration register that chooses the activation table"""
        self._known: dict[str, Line] = {}
        self._mistakes: list[Diagnostic] = []

    def lines(self, texts: Iterable[str]) -> Iterator[Line]:
        """All lines up to and with EOC. Raises CompileError: SYNTAX, with as many mistakes as there are up to ten."""
        known, end = self._known, self.end
        number = 0
        for number, text in enumerate(texts, 1):
            line = known.get(text)
            if line is None:
                tokens = text.split()
                if not tokens or tokens[0].startswith("#"):
                    continue
                try:
                    line = self._line(tokens)
                except TraceMistake as mistake:
                    self._note(mistake, number, text)
                    continue
                if not self._depends_on_registers(tokens):
                    known[text] = line
            yield line
            if line is end:
                self._stop()
                return
        ends = f"{self.name} ends without 'AiM EOC'" if number else f"{self.name} is empty"
        self._note(TraceMistake(ends, 0, "the last line of a trace is 'AiM EOC'"), None, "")
        self._stop()

    def _depends_on_registers(self, tokens: list[str]) -> bool:
        return tokens[1] in ("CFR", "AF", "ISR_AF")

    def _stop(self) -> None:
        if self._mistakes:
            raise CompileError(self._mistakes)

    def _note(self, mistake: TraceMistake, number: int | None, text: str) -> None:
        span = None
        if number is not None:
            tokens = [(m[0], m.start()) for m in re.finditer(r"\S+", text)]
            token, column = tokens[mistake.token] if mistake.token < len(tokens) else ("", len(text.rstrip()))
            span = TextSpan(self.name, number, column + 1, text.rstrip("\n")[:MOST_SHOWN], max(1, len(token)))
        self._mistakes.append(Diagnostic(Kind.SYNTAX, mistake.what, span, help=mistake.help))
        if len(self._mistakes) >= MOST_MISTAKES:
            self._stop()

    def _line(self, tokens: list[str]) -> Line:
        form, name = self._form(tokens)
        given = tokens[2:]
        if len(given) != len(form.operands):
            wanted = " ".join(form.operands) or "none"
            raise TraceMistake(
                f"{name} takes {len(form.operands)} operands, here are {len(given)}", 1, f"they are: {wanted}"
            )
        values = {
            what: _number(what, text, 2 + i) for i, (what, text) in enumerate(zip(form.operands, given, strict=True))
        }
        if name == "W CFR" and values["register"] == ACTIVATION_REGISTER:
            self.activation = values["value"]
        if name in ("SYNC", "EOC"):
            return self.end if name == "EOC" else self.sync
        return self._made(name, form, values) if form.command else NO_REQUEST

    def _form(self, tokens: list[str]) -> tuple[Form, str]:
        if tokens[0] == "AiM" and len(tokens) > 1:
            opcode = tokens[1].removeprefix("ISR_")
            if opcode == "WR_AFLUT":
                raise TraceMistake("WR_AFLUT is not supported, nor is it by the simulator whose format this is", 1)
            if opcode not in FORMS:
                raise TraceMistake(f"no such command: '{tokens[1]}'", 1, did_you_mean(opcode, FORMS))
            return FORMS[opcode], opcode
        if tuple(tokens[:2]) in DIRECT:
            return DIRECT[tokens[0], tokens[1]], " ".join(tokens[:2])
        if tokens[0] not in FIRST:
            help = "tokens are separated by blanks" if "," in tokens[0] else did_you_mean(tokens[0], FIRST)
            raise TraceMistake(f"a line begins with 'AiM', 'W' or 'R', not with '{tokens[0][:MOST_SHOWN]}'", 0, help)
        if len(tokens) < 2:
            raise TraceMistake(f"'{tokens[0]}' is followed by {FIRST[tokens[0]]}", 0)
        places = {place for kind, place in DIRECT if kind == tokens[0]}
        raise TraceMistake(
            f"'{tokens[0]}' is followed by MEM, GPR or CFR, not by '{tokens[1]}'", 1, did_you_mean(tokens[1], places)
        )

    def _made(self, name: str, form: Form, values: dict[str, int]) -> Line:
        at = {what: 2 + i for i, what in enumerate(form.operands)}
        if values.get("bank", 0) >= self.banks:
            raise TraceMistake(f"there is no bank {values['bank']}: a channel has {self.banks}", at["bank"])
        if "channel" in values:
            if values["channel"] >= self.channels:
                raise TraceMistake(f"there is no channel {values['channel']}: there are {self.channels}", at["channel"])
            mask = 1 << values["channel"]
        else:
            mask = self._mask(values["mask"], at["mask"])
            if name == "WR_ABK" and mask.bit_count() != 1:
                raise TraceMistake("WR_ABK writes to one channel: its mask has exactly one bit", at["mask"])
        count = values[form.each] if form.each else 1
        if count > MOST_REQUESTS:
            raise TraceMistake(f"{count} columns are more than {MOST_REQUESTS}", at[form.each])
        row = TABLE_ROW + self.activation if name == "AF" else values.get("row", NONE)
        return Line(mask if count else 0, NUMBER[form.command], values.get("bank", NONE), row, count)

    def _mask(self, written: int, token: int) -> int:
        """The channels that a trace's mask names."""
        if written >> self.channels:
            raise TraceMistake(f"the mask {written:#x} has more than {self.channels} channels", token)
        return mirrored(written, self.channels)


class TraceMistake(Exception):
    """What is wrong with a line, and at which of its tokens."""

    def __init__(self, what: str, token: int, help: str | None = None) -> None:
        super().__init__(what)
        self.what, self.token, self.help = what, token, help


def mirrored(mask: int, channels: int) -> int:
    """A mask in the other order: the first channel is the lowest bit here, and the highest in a trace."""
    return sum(1 << (channels - 1 - channel) for channel in channels_of(mask))


def _number(what: str, text: str, token: int) -> int:
    if not NUMBER_FORM.fullmatch(text):
        help = "numbers are decimal, or hexadecimal like 0x1f"
        raise TraceMistake(f"{what} '{text}' is not a number", token, help)
    if text[0] == "-":
        raise TraceMistake(f"{what} {text} is negative", token)
    value = int(text, 0) if len(text) < MOST_SHOWN else BEYOND
    if value >= BEYOND:
        raise TraceMistake(f"{what} {text[:MOST_SHOWN]} is out of range", token)
    return value


OPCODES = {form.command: (name, form) for name, form in FORMS.items() if form.command}
"""How to ask for a DRAM command."""
END_TEXT = "AiM EOC"


def text_of(line: Line, channels: int) -> str:
    """A line of a trace; registers of the host's interface, which take no time, are all called 0."""
    if not line.mask:
        return f"W CFR {ACTIVATION_REGISTER} {line.row}" if line.row != NONE else "AiM EWADD 1 0 0"
    if line.command == MARKER:
        return "AiM SYNC"
    name, form = OPCODES[COMMANDS[line.command]]
    mask = mirrored(line.mask, channels)
    values = {"opsize": str(line.times), "gpr": "0", "mask": f"{mask:#x}", "bank": str(line.bank), "row": str(line.row)}
    return " ".join(["AiM", name, *(values[operand] for operand in form.operands)])
