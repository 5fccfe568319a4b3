"""Times a model at many values of its dimensions: `--dim past=0:4095`.

Every point is compiled by itself, with one difference: the engine of an op and the order of ops are not decided again
where both ends of the ranges agree on them. Programs that differ in nothing that time depends on (`sim/key.py`) are
simulated once. Points are shared out among processes; their order and their times do not depend on that.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from pimc.backends.engines import platform_of
from pimc.backends.lowering_memory import LoweringMemory
from pimc.backends.schedules import scheduled_machine
from pimc.backends.target import target_hash
from pimc.driver import (
    Options,
    compile_model,
    emitted,
    pipeline_for,
    read_model,
    registry_for,
    run_passes,
    run_pipeline,
    seconds_of,
    spec_for,
    time_program,
    with_degrees,
)
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.facts import Placement, Position
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.stage import GraphStage
from pimc.passes.bind import resolve_dims
from pimc.passes.manager import Pass, PassContext, Pipeline
from pimc.sim.key import Key, KeyMaker
from pimc.sim.timing import Timing

FEW_POINTS = 24
"""So many are not worth processes of their own."""
MOST_POINTS = 1_000_000
NEIGHBOURS = 32
"""Points that one process takes at a time, as they come: they have most in common."""


@dataclass(frozen=True)
class Point:
    """The time of a model with all its dimensions bound."""

    dims: Mapping[str, int]
    cycles: int
    """of the target's main clock"""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {"dims": dict(self.dims), "cycles": self.cycles, "seconds": self.seconds}


@dataclass(frozen=True)
class Points:
    """All points of a model on a target, in the order of the ranges, the last one running fastest."""

    model: str
    target: str
    target_hash: str
    points: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "target": self.target,
            "target_hash": self.target_hash,
            "points": [point.to_json() for point in self.points],
        }


@dataclass(frozen=True)
class Decided:
    """What the compilations at both ends of the ranges agree on: engines of nodes, and the order of all nodes, by
    name."""

    engines: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    """empty: they do not agree"""

    @staticmethod
    def of(graph: Graph) -> Decided:
        """The decisions in a scheduled graph."""
        places = {n.name: placement.engine for n in graph.order() if (placement := n.fact(Placement)) is not None}
        return Decided(places, tuple(n.name for n in graph.scheduled()))

    def common(self, other: Decided) -> Decided:
        engines = {name: engine for name, engine in self.engines.items() if other.engines.get(name) == engine}
        same = self.order == other.order and len(engines) == len(self.engines)
        return Decided(engines, self.order if same else ())


@dataclass(frozen=True)
class KeepPlaces(Pass):
    """Place nodes as was decided."""

    name: ClassVar[str] = "keep-places"
    before: ClassVar[GraphStage] = GraphStage.TAGGED
    after: ClassVar[GraphStage | None] = None

    decided: Decided = field(default_factory=Decided)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for node in graph.order():
            engine = self.decided.engines.get(node.name)
            if engine is not None and node.fact(Placement) is None:
                rewriter.set_fact(node, Placement(engine, "as at both ends of the range"))


@dataclass(frozen=True)
class KeepOrder(Pass):
    """Order nodes as was decided."""

    name: ClassVar[str] = "keep-order"
    before: ClassVar[GraphStage] = GraphStage.PLACED
    after: ClassVar[GraphStage | None] = GraphStage.PLACED

    decided: Decided = field(default_factory=Decided)

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        positions = {name: index for index, name in enumerate(self.decided.order)}
        for node in graph.order():
            rewriter.set_fact(node, Position(positions[node.name]))


class PointTimer:
    """Compiles and simulates one model at point after point."""

    def __init__(self, model: str | Path, target: str | Path, options: Options) -> None:
        self.options = options
        self.spec = spec_for(target, options)
        self.machine = scheduled_machine(self.spec, seconds_of(options.sim_engine), parallel=options.parallel)
        self.original = Original(read_model(model, options))
        self.memory = LoweringMemory()
        self.known: dict[Key, Timing] = {}
        """Timings by what they depend on."""
        self.keys: KeyMaker | None = None
        self.shorter: tuple[Decided, Pipeline, frozenset[str]] | None = None

    def time(self, dims: Mapping[str, int], decided: Decided) -> tuple[Point, Decided]:
        """The point, and what was decided for it. Raises CompileError."""
        graph = self.original.copy()
        bound = resolve_dims(graph, {**self.options.dims, **dims})
        options = replace(self.options, dims=bound, observers=())
        if decided.order:
            pipeline, trusted = self._shorter(decided)
            run_pipeline(pipeline, graph, options, self.machine, trusted, verify=False)
            timing = self._timing(graph, bound)
        else:
            timing = time_program(emitted(run_passes(graph, options, self.machine)), options.sim_engine)
        return Point(bound, timing.cycles, timing.time * 1e-12), Decided.of(graph)

    def _shorter(self, decided: Decided) -> tuple[Pipeline, frozenset[str]]:
        """The passes up to a scheduled graph, with those that decide replaced by what was decided."""
        if self.shorter is None or self.shorter[0] is not decided:
            registry = registry_for(self.options)
            pipeline = _as_decided(pipeline_for(self.options, self.machine, registry), decided)
            self.shorter = decided, pipeline, registry.builtin() | {KeepPlaces.name, KeepOrder.name}
        return self.shorter[1:]

    def _timing(self, graph: Graph, dims: Mapping[str, int]) -> Timing:
        """The time of a scheduled graph, from an earlier one where nothing that matters is different."""
        order = self.machine.sequential(graph, self.memory)
        if self.keys is None:
            self.keys = KeyMaker(platform_of(self.machine.program(graph, order, dims)))
        key = self.keys.key(order)
        if key not in self.known:
            self.known[key] = time_program(self.machine.program(graph, order, dims), self.options.sim_engine)
        return self.known[key]


class Original:
    """A graph that is copied again and again. Weights and other arrays are shared by all copies."""

    def __init__(self, graph: Graph) -> None:
        self._shared: list[Any] = []
        written = io.BytesIO()
        pickler = pickle.Pickler(written, pickle.HIGHEST_PROTOCOL)
        pickler.persistent_id = self._number_of  # type: ignore[method-assign]  # documented, but typed as a method
        pickler.dump(graph)
        self._written = written.getvalue()

    def _number_of(self, each: Any) -> int | None:
        if not isinstance(each, np.ndarray):
            return None
        self._shared.append(each)
        return len(self._shared) - 1

    def copy(self) -> Graph:
        unpickler = pickle.Unpickler(io.BytesIO(self._written))
        unpickler.persistent_load = self._shared.__getitem__  # type: ignore[method-assign]  # as above
        found: Graph = unpickler.load()
        return found


LAYING_OUT = frozenset({"layout", "tile", "emit"})
"""Passes whose work is done here, in a shorter way."""


def _as_decided(pipeline: Pipeline, decided: Decided) -> Pipeline:
    passes: list[Pass] = []
    for each in pipeline:
        if each.name == "place":
            passes.append(KeepPlaces(decided))
        if each.name not in LAYING_OUT:
            passes.append(KeepOrder(decided) if each.name == "schedule" else each)
    return Pipeline(tuple(passes))


def time_points(
    model: str | Path,
    target: str | Path,
    options: Options,
    ranges: Mapping[str, Sequence[int]],
    *,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Points:
    """Time a model for all combinations of the values in `ranges`.

    progress: called with the number of points that are done and that of all. Raises CompileError for the first point
    that cannot be compiled, in the order of the ranges.
    """
    wanted = [dict(zip(ranges, values, strict=True)) for values in product(*ranges.values())]
    if not 0 < len(wanted) <= MOST_POINTS:
        raise fail(Kind.UNAVAILABLE, f"{len(wanted)} points are not between 1 and {MOST_POINTS}")
    largest = replace(options, dims={**options.dims, **wanted[-1]})
    options = replace(options, parallel=with_degrees(model, target, largest).parallel)
    published = _published(model, target, options, ranges, wanted)
    if published is not None:
        return published
    timer = PointTimer(model, target, options)
    first, at_first = timer.time(wanted[0], Decided())
    last, at_last = (first, at_first) if len(wanted) == 1 else timer.time(wanted[-1], Decided())
    same = at_first.common(at_last)
    inner = wanted[1:-1]
    workers = min(processes or os.cpu_count() or 1, -(-len(inner) // FEW_POINTS))
    between = _shared(inner, same, (model, target, options), workers) if workers > 1 else _alone(inner, same, timer)
    points = [first]
    for point in between:
        points.append(point)
        if progress is not None:
            progress(len(points) + 1, len(wanted))
    points += [last] if len(wanted) > 1 else []
    described = timer.spec
    return Points(str(model), described.name, target_hash(described), tuple(points))


def _published(
    model: str | Path,
    target: str | Path,
    options: Options,
    ranges: Mapping[str, Sequence[int]],
    wanted: Sequence[Mapping[str, int]],
) -> Points | None:
    """The points of a target whose mapping makes programs by itself; None for any other.

    Where the dimension moves nothing but the position of a single new token, the token's own traces are timed.
    """
    spec = spec_for(target, options)
    if scheduled_machine(spec, seconds_of(options.sim_engine)).cuts_graphs:
        return None
    from pimc.positions import Positions

    def at(dims: Mapping[str, int]) -> Positions:
        return Positions(model, target, replace(options, dims={**options.dims, **dims}))

    first, last = at(wanted[0]), at(wanted[-1])
    name, values = next(iter(ranges.items()))
    moves = len(ranges) == 1 and options.sim_engine == "fast" and first.moves_to(last, values[-1] - values[0])
    points: list[Point] = []
    for dims in wanted:
        if moves:
            bound = {**first.dims, **dims}
            seconds = first.at(first.keys[0] + dims[name] - values[0]).seconds
        else:
            result = compile_model(model, target, replace(options, dims={**options.dims, **dims}, observers=()))
            assert result.timing is not None
            bound, seconds = dict(result.program.dims), result.timing.time * 1e-12
        points.append(Point(bound, -(-round(seconds * 1e12) // spec.clock_ps), seconds))
    return Points(str(model), spec.name, target_hash(spec), tuple(points))


def _alone(wanted: Sequence[Mapping[str, int]], decided: Decided, timer: PointTimer) -> Iterator[Point]:
    for dims in wanted:
        yield timer.time(dims, decided)[0]


def _shared(
    wanted: Sequence[Mapping[str, int]], decided: Decided, work: tuple[str | Path, str | Path, Options], workers: int
) -> Iterator[Point]:
    """The same with processes. A mistake in one of them is raised here."""
    quiet = replace(work[2], observers=())
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, ((work[0], work[1], quiet), decided)) as pool:
        for point in pool.map(_point, wanted, chunksize=NEIGHBOURS):
            if isinstance(point, CompileError):
                raise point
            yield point


_work: list[Any] = []


def _begin(work: tuple[str | Path, str | Path, Options], decided: Decided) -> None:
    _work[:] = [work, decided]


@cache
def _timer() -> PointTimer:
    return PointTimer(*_work[0])


def _point(dims: Mapping[str, int]) -> Point | CompileError:
    try:
        return _timer().time(dims, _work[1])[0]
    except CompileError as error:
        return error
