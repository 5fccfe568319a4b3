"""Times a model at many values of its dimensions: `--dim past=0:4095`.

Every point is compiled by itself, with one difference: which attention stays whole, the engine of an op, and the order
of ops are not decided again between two points that agree on all of it. Where the ends of a range do not, it is halved.
Programs that differ in nothing that time depends on (`sim/key.py`) are simulated once. Points are shared out among
processes; their order and their times do not depend on that.
"""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import field, replace
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
    spec_for,
    with_degrees,
)
from pimc.execution import seconds_of, time_program
from pimc.garbage import collect_seldom
from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.facts import Placement, Position
from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.stage import GraphStage
from pimc.ir.target import Target
from pimc.passes.bind import resolve_dims
from pimc.passes.manager import Pass, PassContext, Pipeline
from pimc.passes.split_attention import SplitAttentionPass, scores_name
from pimc.record import record
from pimc.sim.key import Key, KeyMaker

FEW_POINTS = 24
"""So many are not worth processes of their own."""
MOST_POINTS = 1_000_000
NEIGHBOURS = 32
"""Points that one process takes at a time, as they come: they have most in common."""


@record
class Point:
    """The time of a model with all its dimensions bound."""

    dims: Mapping[str, int]
    cycles: int
    """of the target's main clock"""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        return {"dims": dict(self.dims), "cycles": self.cycles, "seconds": self.seconds}


@record
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


@record
class Decided:
    """What was decided for a graph: engines of nodes, and the order of all nodes, by name."""

    engines: Mapping[str, str] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    """empty: nothing was"""

    @staticmethod
    def of(graph: Graph) -> Decided:
        """The decisions in a scheduled graph."""
        places = {n.name: placement.engine for n in graph.order() if (placement := n.fact(Placement)) is not None}
        return Decided(places, tuple(n.name for n in graph.scheduled()))


UNDECIDED = Decided()


@record
class KeepWhole(SplitAttentionPass):
    """Split attention where that was decided."""

    decided: Decided = UNDECIDED

    def stays_whole(self, node: Node, scores: Node, softmax: Node, rewriter: Rewriter, target: Target) -> bool:
        return scores_name(node) not in self.decided.engines


@record
class KeepPlaces(Pass):
    """Place nodes as was decided."""

    name: ClassVar[str] = "keep-places"
    before: ClassVar[GraphStage] = GraphStage.TAGGED
    after: ClassVar[GraphStage | None] = None

    decided: Decided = UNDECIDED

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for node in graph.order():
            engine = self.decided.engines.get(node.name)
            if engine is not None and node.fact(Placement) is None:
                rewriter.set_fact(node, Placement(engine, "as at both ends of the range"))


@record
class KeepOrder(Pass):
    """Order nodes as was decided."""

    name: ClassVar[str] = "keep-order"
    before: ClassVar[GraphStage] = GraphStage.PLACED
    after: ClassVar[GraphStage | None] = GraphStage.PLACED

    decided: Decided = UNDECIDED

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
        self.known: dict[Key, tuple[int, int]] = {}
        """Cycles and time by what they depend on."""
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
            cycles, time = self._timing(graph, bound)
        else:
            timing = time_program(emitted(run_passes(graph, options, self.machine)), options.sim_engine)
            cycles, time = timing.cycles, timing.time
        return Point(bound, cycles, time * 1e-12), Decided.of(graph)

    def _shorter(self, decided: Decided) -> tuple[Pipeline, frozenset[str]]:
        """The passes up to a scheduled graph, with those that decide replaced by what was decided."""
        if self.shorter is None or self.shorter[0] is not decided:
            registry = registry_for(self.options)
            pipeline = _as_decided(pipeline_for(self.options, self.machine, registry), decided)
            self.shorter = decided, pipeline, registry.builtin() | {KeepPlaces.name, KeepOrder.name}
        return self.shorter[1:]

    def _timing(self, graph: Graph, dims: Mapping[str, int]) -> tuple[int, int]:
        """Cycles and time of a scheduled graph, from an earlier one where nothing that matters is different."""
        order = self.machine.sequential(graph, self.memory)
        if self.keys is None:
            self.keys = KeyMaker(platform_of(self.machine.program(graph, order, dims)))
        key = self.keys.key(order)
        if key not in self.known:
            timing = time_program(self.machine.program(graph, order, dims), self.options.sim_engine)
            self.known[key] = timing.cycles, timing.time
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
        if isinstance(each, SplitAttentionPass):
            passes.append(KeepWhole(each.whole, decided) if each.whole == "auto" else each)
            continue
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
    known: dict[int, Point] = {}

    def told(numbers: Iterable[tuple[int, Point]]) -> None:
        for number, point in numbers:
            known[number] = point
            if progress is not None:
                progress(len(known), len(wanted))

    def at(number: int) -> Decided:
        point, decided = timer.time(wanted[number], UNDECIDED)
        told([(number, point)])
        return decided

    left = list(agreements(at, len(wanted)))
    workers = min(processes or os.cpu_count() or 1, -(-len(left) // FEW_POINTS))
    work = [(number, wanted[number], decided) for number, decided in left]
    told(_shared(work, (model, target, options), workers) if workers > 1 else _alone(work, timer))
    described = timer.spec
    points = tuple(known[number] for number in range(len(wanted)))
    return Points(str(model), described.name, target_hash(described), points)


def agreements(at: Callable[[int], Decided], count: int) -> Iterator[tuple[int, Decided]]:
    """The points, of so many, that lie between two which agree, in order, and what those agree on.

    at: has a point decided; the points that it is called with are not among those that are returned.
    """
    first, last = 0, count - 1
    known = {first: at(first), last: at(last)} if count > 1 else {first: at(first)}
    open_ends = [(first, last)]
    while open_ends:
        first, last = open_ends.pop()
        if known[first] == known[last]:
            yield from ((number, known[first]) for number in range(first + 1, last))
        elif last - first > 1:
            middle = (first + last) // 2
            known[middle] = at(middle)
            open_ends += [(middle, last), (first, middle)]


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


Work = tuple[int, Mapping[str, int], Decided]
"""A point's number, its dimensions, and what is decided for it."""


def _alone(wanted: Iterable[Work], timer: PointTimer) -> Iterator[tuple[int, Point]]:
    for number, dims, decided in wanted:
        yield number, timer.time(dims, decided)[0]


def _shared(
    wanted: Sequence[Work], model: tuple[str | Path, str | Path, Options], workers: int
) -> Iterator[tuple[int, Point]]:
    """The same with processes. A mistake in one of them is raised here."""
    given = (*model[:2], replace(model[2], observers=()))
    kinds = list({id(decided): decided for _, _, decided in wanted}.values())
    places = {id(decided): place for place, decided in enumerate(kinds)}
    work = [(dims, places[id(decided)]) for _, dims, decided in wanted]
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin, (given, kinds)) as pool:
        for (number, _, _), point in zip(wanted, pool.map(_point, work, chunksize=NEIGHBOURS), strict=True):
            if isinstance(point, CompileError):
                raise point
            yield number, point


_work: list[Any] = []


def _begin(model: tuple[str | Path, str | Path, Options], kinds: Sequence[Decided]) -> None:
    collect_seldom()
    _work[:] = [model, kinds]


@cache
def _timer() -> PointTimer:
    return PointTimer(*_work[0])


def _point(work: tuple[Mapping[str, int], int]) -> Point | CompileError:
    dims, kind = work
    try:
        return _timer().time(dims, _work[1][kind])[0]
    except CompileError as error:
        return error
