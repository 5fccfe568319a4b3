"""Which packages bring engines: their commands and their timers, by the kind of engine.

A package that brings a kind of engine has a module `isa` (importing it declares the commands) and a module `timing`
with `make_timer(spec, engine, resources)`. It is registered by an entry point of the group `pimc.engines`, whose name
is the kind and whose value is the package; those of this repository are in `BUILT_IN` as well, so that a plain
checkout works.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Protocol, cast

from pimc.backends.isa import COMMANDS, Command
from pimc.backends.program import Program
from pimc.backends.state import DramGeometry
from pimc.backends.timing import EngineDecl, Resources, Timer
from pimc.installed import references
from pimc.ir.diagnostics import Kind, fail
from pimc.record import record

if TYPE_CHECKING:
    from pimc.backends.target import TargetSpec

BUILT_IN = {kind: f"pimc.backends.{kind}" for kind in ("analytic", "dma", "link", "npu", "pim", "pnm")}


@cache
def packages() -> Mapping[str, str]:
    """The package of each kind of engine."""
    return references("pimc.engines", BUILT_IN)


@cache
def commands() -> Mapping[str, type[Command]]:
    """Every command there is, by mnemonic; imports the packages of all engines."""
    for package in packages().values():
        importlib.import_module(f"{package}.isa")
    return COMMANDS


class TimerMaker(Protocol):
    def __call__(self, spec: Any, engine: EngineDecl, resources: Resources) -> Timer: ...


def timer_maker(kind: str) -> TimerMaker:
    """How timers of a kind of engine are made. Raises CompileError for an unknown kind."""
    package = packages().get(kind)
    if package is None:
        raise fail(Kind.PROGRAM_BAD, f"no engines of kind '{kind}' are known")
    return cast(TimerMaker, importlib.import_module(f"{package}.timing").make_timer)


@record
class Platform:
    """What executing a program needs to know of its machine."""

    engines: Mapping[str, EngineDecl]
    timer: Callable[[EngineDecl, Resources], Timer]
    clock_ps: int
    """period of the main clock"""
    geometry: DramGeometry
    spaces: Mapping[str, int]
    """Bytes of each memory of one device that is known to be limited."""


def platform_of(program: Program) -> Platform:
    """The machine that a program carries in its description. Raises CompileError where that is damaged."""
    return _platform(program.target_text)


def spec_of(program: Program) -> TargetSpec:
    """The same as a target."""
    return _described(program.target_text)


@lru_cache(maxsize=16)
def _platform(description: str) -> Platform:
    return platform_for(_described(description))


@lru_cache(maxsize=16)
def _described(description: str) -> TargetSpec:
    from pydantic import ValidationError

    from pimc.backends.target import from_description

    try:
        return from_description(json.loads(description))
    except (ValidationError, TypeError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise fail(Kind.PROGRAM_BROKEN, f"the description of the target in the program is damaged: {first}") from None


def platform_for(spec: TargetSpec) -> Platform:
    """The machine of a target."""
    spaces = {"dram": spec.dram.bytes, "buffer": spec.buffer_bytes}
    if spec.npu is not None:
        spaces["acc"] = spec.npu.device_accumulator_bytes
    return Platform(
        engines={engine.name: engine for engine in spec.engines()},
        timer=lambda engine, resources: timer_maker(engine.kind)(spec, engine, resources),
        clock_ps=spec.clock_ps,
        geometry=spec.dram.geometry,
        spaces=spaces,
    )
