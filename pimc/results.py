"""Results that are read again: stored programs, which are simulated, and what `--json` printed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pimc.backends.storage import MAGIC, from_bytes
from pimc.execution import time_program
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.record import record
from pimc.served import Served
from pimc.sim.report import Report, build_report

if TYPE_CHECKING:
    from pydantic import TypeAdapter

    from pimc.backends.program import Program
    from pimc.sim.timing import Timing

T = TypeVar("T")

MOST_MISTAKES = 12
HELP = "a result is a .pimprog, or the JSON of `pimc compile` or `pimc sim`"


@record
class Result:
    """One run. `name`: where it comes from, for people."""

    name: str
    report: Report
    program: Program | None = None
    """None where only the report was stored"""
    timing: Timing | None = None
    part: str = ""
    """of a run that has several, each with a report"""
    served: Served | None = None
    """the request that it is a part of"""


def read_results(data: bytes, name: str, folder: Path, *, whole: bool = False) -> tuple[Result, ...]:
    """The run, or the runs, of a file; `folder`: where files that it names are looked for.

    whole: phases (`--phase both`, `-t PREFILL:DECODE`) are one run, not one each. Raises CompileError: PROGRAM_BROKEN,
    SYNTAX, RESULT_BAD.
    """
    if data.startswith(MAGIC):
        program = from_bytes(data, name, folder)
        timing = time_program(program)
        return (Result(name, build_report(program, timing), program, timing),)
    plain = _object(data, name)
    found = tuple(Result(label, _report(each, label)) for label, each in _runs(plain, name))
    if "transfer" in plain and len(found) == len(plain.get("phases", ())):
        served = _checked(Served, plain, name)
        found = tuple(replace(f, part=part, served=served) for f, part in zip(found, plain["phases"], strict=True))
    if whole and isinstance(plain.get("phases"), dict) and found:
        return (Result(name, joined(plain, [run.report for run in found])),)
    return found


def has_phases(data: bytes) -> bool:
    """Whether a file holds the phases of one run."""
    if data.startswith(MAGIC):
        return False
    try:
        found = json.loads(data.decode())
    except (ValueError, RecursionError):
        return False
    return isinstance(found, dict) and isinstance(found.get("phases"), dict)


def joined(plain: Mapping[str, Any], parts: Sequence[Report]) -> Report:
    """Parts of a run, one after another, as one. plain: what it says of the whole.

    Engines keep their phases where parts have the same ones; cycles are of the last part's main clock, in which the
    time of the whole is counted.
    """
    last = parts[-1]
    seconds = plain.get("seconds")
    time = float(seconds) if isinstance(seconds, int | float) else sum(r.seconds for r in parts)
    bound = sum(r.bound_seconds for r in parts if r.phase != TRANSFER)
    bound += max((r.bound_seconds for r in parts if r.phase == TRANSFER), default=0.0)
    return replace(
        last,
        target=str(plain.get("target", last.target)),
        target_hash=str(plain.get("target_hash", last.target_hash)),
        dims={name: size for name, size in last.dims.items() if all(r.dims.get(name) == size for r in parts)},
        phase="mixed",
        devices=max(r.devices for r in parts),
        cycles=round(time * last.cycles / last.seconds) if last.seconds else 0,
        seconds=time,
        bound_seconds=bound,
        bound_share=bound / time if time else 1.0,
        engines=[replace(e, name=f"{r.phase} {e.name}") for r in parts for e in r.engines],
        resources=[replace(e, name=f"{r.phase} {e.name}") for r in parts for e in r.resources],
        ops=[op for r in parts for op in r.ops],
        phases=[phase for r in parts for phase in r.phases],
        bytes_moved=dict(sorted(sum((Counter(r.bytes_moved) for r in parts), Counter[str]()).items())),
        moves=[move for r in parts for move in r.moves],
        energy=None,
        pipeline=None,
        beats=(),
        passes=(),
        roofs=(),
        memory=(),
        banks=None,
        channels=None,
        timeline=None,
        sources={},
    )


TRANSFER = "transfer"
"""The phase of both ends of a transfer, which work side by side."""


def _object(data: bytes, name: str) -> dict[str, Any]:
    try:
        found = json.loads(data.decode())
    except RecursionError:
        raise fail(Kind.SYNTAX, f"{name} is nested too deeply", help=HELP) from None
    except ValueError as error:
        raise _unreadable(error, data, name) from None
    if not isinstance(found, dict):
        raise fail(Kind.RESULT_BAD, f"{name} holds no JSON object", help=HELP)
    return found


def _unreadable(error: ValueError, data: bytes, name: str) -> CompileError:
    if name.endswith(".pimprog"):
        from_bytes(data, name, Path())  # raises: it says what is wrong with a program
    if isinstance(error, json.JSONDecodeError):
        where = f"{name}:{error.lineno}:{error.colno}"
        return fail(Kind.SYNTAX, f"{where}: {error.msg[:1].lower()}{error.msg[1:]}", help=HELP)
    return fail(Kind.RESULT_BAD, f"{name} is neither a program nor JSON", help=HELP)


def _runs(found: dict[str, Any], name: str) -> list[tuple[str, Any]]:
    """The reports in what `--json` printed, each with a name."""
    if isinstance(found.get("results"), list):  # of several targets
        return [(f"{name}#{number}", each) for number, each in enumerate(found["results"], 1)]
    if isinstance(found.get("phases"), dict):  # of --phase both
        return [(f"{name}#{phase}", each) for phase, each in found["phases"].items()]
    for key, why in {"points": "times of a range of a dimension", "steps": "the steps of --generate"}.items():
        if key in found:
            raise fail(Kind.RESULT_BAD, f"{name} holds {why}, and no report of a run", help=HELP)
    if "cycles" not in found and "ops" in found:
        raise fail(Kind.RESULT_BAD, f"{name} was not simulated (--no-sim): there are no times in it", help=HELP)
    return [(name, found)]


def _report(plain: Any, name: str) -> Report:
    return _checked(Report, plain, name)


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}


def _checked(cls: type[T], plain: Any, name: str) -> T:
    """Plain data as the dataclass that it was made of. Raises CompileError (RESULT_BAD) with what does not fit."""
    from pydantic import TypeAdapter, ValidationError

    if cls not in _ADAPTERS:
        _ADAPTERS[cls] = TypeAdapter(cls)
    try:
        found: T = _ADAPTERS[cls].validate_python(plain)
        return found
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False)
        notes = [f"{'.'.join(str(part) for part in m['loc']) or 'it'}: {m['msg']}" for m in mistakes[:MOST_MISTAKES]]
        more = len(mistakes) - MOST_MISTAKES
        notes += [f"and {more} more"] if more > 0 else []
        raise fail(Kind.RESULT_BAD, f"{name} is no report of a run", notes=notes, help=HELP) from None
