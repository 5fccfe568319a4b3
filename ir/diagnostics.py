"""What the user is told when work cannot be done. Every kind of error is a row of `Kind`.

`CompileError` carries one or more `Diagnostic`s (exit status 1), `UsageError` is a wrong command line (2),
`InternalError` is a bug of pimc (70). Rendering lives in `pimc.cli`; here is only what is said.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from enum import Enum
from pathlib import Path

from pimc.ir.source import Source, roots
from pimc.record import record


class Kind(Enum):
    """Every kind of error: its code and what it is about."""

    FILE_MISSING = "P0101", "a file cannot be read"
    FILE_UNWRITABLE = "P0102", "a file cannot be written"
    MODEL_BROKEN = "P0201", "a model file is damaged or is not a model"
    OP_UNSUPPORTED = "P0202", "a model uses ops that are not declared"
    WEIGHT_MISSING = "P0203", "the data of a weight is missing"
    DATA_DEPENDENT = "P0204", "a shape depends on data"
    SYNTAX = "P0301", "a text does not follow its grammar"
    NAME_UNKNOWN = "P0302", "a name is not defined"
    NAME_TWICE = "P0303", "a name is defined twice"
    TYPE = "P0401", "operand types do not fit an op"
    ATTRIBUTE = "P0402", "an attribute is unknown, missing or has a bad value"
    GRAPH = "P0403", "a graph is not well formed"
    STAGE = "P0404", "a graph lacks what its stage asks for"
    DIM_UNBOUND = "P0501", "a dimension has no value"
    DIM_BAD = "P0502", "a dimension has an impossible value"
    INPUT_BAD = "P0503", "given arrays do not fit the model"
    REQUESTS_BAD = "P0504", "requests have mistakes, or a model cannot serve them together"
    TARGET_UNKNOWN = "P0601", "no such target"
    TARGET_BAD = "P0602", "a target file has mistakes"
    CAPACITY = "P0603", "the machine is too small"
    ILLEGAL = "P0604", "no engine of the target can run an op"
    PARALLEL = "P0605", "a model cannot be split as asked"
    PASS_UNKNOWN = "P0701", "no such pass"
    PASS_OPTION = "P0702", "a pass has no such option, or the value does not fit"
    PIPELINE = "P0703", "passes are in an impossible order"
    PLUGIN = "P0704", "a plug-in file cannot be loaded"
    PROGRAM_BROKEN = "P0801", "a program file is damaged"
    PROGRAM_BAD = "P0802", "a program breaks a rule of its target"
    ASSEMBLY = "P0803", "assembly text has a mistake"
    DEADLOCK = "P0804", "streams wait for each other for ever"
    VALUES = "P0901", "values differ from the expected ones"
    VALUES_NONE = "P0902", "a run has no values"
    RESULT_BAD = "P0903", "a stored result is not one"
    SWEEP_BAD = "P0904", "a sweep file has mistakes"
    UNAVAILABLE = "P1001", "an option needs something that is not there"

    def __init__(self, code: str, about: str) -> None:
        self.code = code
        self.about = about


@record
class Diagnostic:
    """One thing that is wrong: where, why, and the likely mend."""

    kind: Kind
    message: str
    source: Source | None = None
    notes: tuple[str, ...] = ()
    help: str | None = None
    window: str = ""
    """A few lines of IR or model around the place, when the source itself has no text."""

    def to_json(self) -> dict[str, object]:
        """As plain data; `places`: what it goes back to in the user's files."""
        return {
            "code": self.kind.code,
            "kind": self.kind.name,
            "message": self.message,
            "places": [place.to_json() for place in roots(self.source)],
            "notes": list(self.notes),
            "help": self.help,
        }

    def __str__(self) -> str:
        place = f"{self.source}: " if self.source is not None else ""
        return f"{place}error[{self.kind.code}]: {self.message}"


class PimcError(Exception):
    """The base of all errors that pimc raises on purpose."""


class CompileError(PimcError):
    """The work cannot be done, for the reasons in `diagnostics` (at least one)."""

    def __init__(self, diagnostics: Diagnostic | Sequence[Diagnostic]) -> None:
        self.diagnostics = (diagnostics,) if isinstance(diagnostics, Diagnostic) else tuple(diagnostics)
        super().__init__("\n".join(str(d) for d in self.diagnostics))


class UsageError(PimcError):
    """The command line or the call is wrong."""


class InternalError(PimcError):
    """A bug of pimc: an invariant that no input should be able to break."""


def fail(
    kind: Kind,
    message: str,
    source: Source | None = None,
    *,
    notes: Iterable[str] = (),
    help: str | None = None,
) -> CompileError:
    """The exception for a single diagnostic; `raise fail(Kind.TYPE, "...")`."""
    return CompileError(Diagnostic(kind, message, source, tuple(notes), help))


def file_missing(path: str | Path, reason: str, source: Source | None = None) -> CompileError:
    """The exception for a file that cannot be read; where it is not there, the nearest name in its folder."""
    place = Path(path)
    try:
        beside = [] if place.exists() else [str(each.relative_to(place.parent)) for each in place.parent.iterdir()]
    except (OSError, ValueError):
        beside = []
    return fail(Kind.FILE_MISSING, reason, source, help=nearest(place.name, beside))


def nearest(name: str, known: Iterable[str]) -> str | None:
    """A help line with the nearest known name, where there is a near one."""
    help_line = did_you_mean(name, known)
    return help_line if help_line is not None and help_line.startswith("did") else None


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """A help line for a misspelled name: the nearest known one, or the choice when it is short."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.6)
    if near:
        letters = sorted(name.lower())
        best = next((each for each in near if sorted(each.lower()) == letters), near[0])  # letters changed places
        return f"did you mean '{best}'?"
    return f"known: {', '.join(names)}" if 0 < len(names) <= 24 else None
