"""What a sweep file says, as it is written: frozen groups, every axis a list of values."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

Setting = str | int | float | bool
"""A value of a number of the target, or of an option of a pass."""

_RANGE = re.compile(r"\s*(\d{1,15}):(\d{1,15})(?::(\d{1,15}))?\s*")


def _listed(given: object) -> object:
    """A single value is a list of one."""
    return given if isinstance(given, list | tuple) else (given,)


def _numbers(given: object) -> Sequence[int]:
    """Whole numbers out of numbers, ranges `start:stop:step` (stop included), and lists of both."""
    found: list[int] = []
    for each in given if isinstance(given, list | tuple) else (given,):
        if isinstance(each, int) and not isinstance(each, bool):
            found.append(each)
            continue
        parts = _RANGE.fullmatch(each) if isinstance(each, str) else None
        if parts is None:
            raise ValueError(f"{each!r} is neither a whole number nor a range such as 128:1024:128")
        start, stop, step = int(parts[1]), int(parts[2]), int(parts[3] or 1)
        if step < 1 or stop < start:
            raise ValueError(f"'{each}': a range is start:stop or start:stop:step, upwards")
        if (stop - start) // step >= MOST_VALUES:
            raise ValueError(f"'{each}' has more than {MOST_VALUES} values")
        found += range(start, stop + 1, step)
    if not found:
        raise ValueError("it has no values")
    return tuple(dict.fromkeys(found))


def _distinct(given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Without repetitions; true and 1 are two values."""
    return tuple({(type(v), v): v for v in given}.values())


def _objectives(given: object) -> object:
    """`[seconds, energy]` is each in its better direction."""
    return given if isinstance(given, dict) else dict.fromkeys(given if isinstance(given, list | tuple) else (given,))


MOST_VALUES = 1_000_000

Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed)]
SomeWords = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(_listed), Field(min_length=1)]
Values = Annotated[tuple[Setting, ...], BeforeValidator(_listed), Field(min_length=1)]
Numbers = Annotated[tuple[int, ...], BeforeValidator(_numbers)]
Degrees = Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_numbers)]
Phases = Annotated[tuple[Literal["prefill", "decode"], ...], BeforeValidator(_listed)]


class Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class GridSearch(Group):
    """All combinations."""

    kind: Literal["grid"]


class RandomSearch(Group):
    """Different combinations, drawn alike."""

    kind: Literal["random"]
    points: Annotated[int, Field(ge=1)]
    seed: Annotated[int, Field(ge=0)] = 0


class OptunaSearch(Group):
    """Combinations that Optuna asks for, batch by batch, having seen the objectives of those before."""

    kind: Literal["optuna"]
    points: Annotated[int, Field(ge=1)]
    """that are asked for; what was asked for before is not run again"""
    seed: Annotated[int, Field(ge=0)] = 0
    sampler: Literal["tpe", "nsga2", "random"] = "tpe"
    batch: Annotated[int, Field(ge=1)] = 8
    """points of which none waits for the others: at most so many are run at once"""


Search = Annotated[GridSearch | RandomSearch | OptunaSearch, Field(discriminator="kind")]


class ParallelAxes(Group):
    """Degrees of parallelism."""

    tp: Degrees = ()
    pp: Degrees = ()


class SweepSpec(Group):
    """A sweep: values for each axis, which of their combinations to run, and what to compare them by."""

    name: str = ""
    description: str = ""
    models: SomeWords
    """files, relative to the sweep file"""
    targets: SomeWords
    """names, or YAML files relative to the sweep file"""
    phases: Phases = ()
    set: Mapping[str, Values] = Field(default_factory=dict)
    """numbers of the target, as `--set` takes them"""
    dims: Mapping[str, Numbers] = Field(default_factory=dict)
    parallel: ParallelAxes = ParallelAxes()
    mappings: Words = ()
    pass_config: Mapping[str, Values] = Field(default_factory=dict)
    """options of passes, as `--pass-config` takes them"""
    disable_pass: Words = ()
    """left out at every point"""
    load: Words = ()
    """Python files with passes, relative to the sweep file; they run at every point"""
    shapes_only: StrictBool = False
    objectives: Annotated[
        Mapping[str, Literal["min", "max"] | None], BeforeValidator(_objectives), Field(min_length=1)
    ] = Field(default_factory=lambda: {"seconds": None})
    search: Search = GridSearch(kind="grid")
