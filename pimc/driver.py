"""One compilation from model to report: what `pimc compile` does, and `pimc.compile` in Python."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from pimc.backends.machine import Estimates, Machine
from pimc.backends.program import Choice, Objective, PassRow, Program
from pimc.backends.schedules import scheduled_machine
from pimc.backends.sharing import shared
from pimc.backends.target import TargetSpec, target_hash
from pimc.backends.target_registry import load_target
from pimc.backends.verify import verify_program
from pimc.execution import (
    SimEngine,
    Values,
    check_program_computes,
    compared,
    given_inputs,
    given_outputs,
    run_program,
    seconds_of,
    time_program,
)
from pimc.frontends import load_model
from pimc.garbage import collecting_seldom
from pimc.ir import interp
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Phase
from pimc.ir.graph import Graph
from pimc.ir.op import Array
from pimc.ir.requests import Batch, Request
from pimc.ir.stage import GraphStage
from pimc.passes.bind import dims_from_arrays, resolve_dims
from pimc.passes.manager import Observer, PassContext, PassManager, Pipeline
from pimc.passes.pipeline import DEFAULT, WITH_REQUESTS, default_pipeline
from pimc.passes.registry import PassRegistry, default_registry
from pimc.random_inputs import random_inputs
from pimc.record import record
from pimc.reproduce import compile_command
from pimc.requests import batch_of, expected_of_each, name_of_one, of_each, own_inputs, padded_inputs
from pimc.sim.report import Report, build_report
from pimc.sim.timing import Timing

if TYPE_CHECKING:
    from pimc.sim.compare import Comparison


@record
class Options:
    """What a compilation is asked for beyond model and target."""

    dims: Mapping[str, int] = field(default_factory=dict)
    requests: Sequence[Request] = ()
    """requests with lengths of their own, which decide the dimensions of batch and tokens"""
    overrides: Sequence[str] = ()
    """`key=value` for numbers of the target"""
    parallel: Mapping[str, int] = field(default_factory=dict)
    """degrees of parallelism: pp, tp; where they are not given and the system has several devices, chosen by cost"""
    objective: Objective = "latency"
    """what they are chosen for"""
    choice: Choice | None = None
    """by which they were chosen, where they were"""
    phase: str | None = None
    pass_options: Sequence[str] = ()
    """`pass.option=value`"""
    disabled: Sequence[str] = ()
    """names of passes"""
    plugins: Sequence[str | Path] = ()
    """Python files with passes; they run before placement"""
    shapes_only: bool = False
    simulate: bool = True
    sim_engine: SimEngine = "fast"
    background: int | None = None
    """normal reads that every channel with PIM work is offered in a clock"""
    observers: Sequence[Observer] = ()
    seed: int = 0
    cache_tokens: int | None = None
    """room for caches along their token axis, beyond what the graph needs"""
    banked: frozenset[str] = frozenset()
    """weights that lie in the banks' pattern whoever reads them"""
    until: str | None = None
    """the last pass to run; no program is made"""
    command: str | None = None
    """the command line that asks for this, where it is not the one of these options"""


@record
class Result:
    """What a compilation gives."""

    program: Program
    graph: Graph
    """the placed graph, with homes"""
    spec: TargetSpec
    timing: Timing | None = None
    comparison: Comparison | None = None
    outputs: Mapping[str, Array] | None = None
    model: str = ""
    form: str = "wide"
    """of the values that were compared"""
    pass_seconds: Sequence[float] = ()
    """that each pass took, where that is to be told"""

    @cached_property
    def report(self) -> Report | None:
        """Made when it is asked for; None: nothing was simulated."""
        if self.timing is None:
            return None
        return build_report(
            self.program,
            self.timing,
            model=self.model,
            comparison=self.comparison,
            form=self.form,
            pass_seconds=self.pass_seconds,
        )


@record
class Lowered:
    """A graph that has been through the passes for a machine, and its dimensions."""

    graph: Graph
    machine: Machine
    dims: Mapping[str, int]
    again: Callable[[], Graph]
    """reads the model once more"""
    batch: Batch | None = None
    """the requests, in the order of the user's file"""
    program: Program | None = None
    """None where the passes stopped before `emit`"""
    choice: Choice | None = None
    """of how the model is spread over devices, where one was made"""

    @cached_property
    def reference(self) -> Graph:
        """The graph as it was before; read when it is asked for, as values alone need it."""
        return self.again()


@collecting_seldom()
def compile_model(
    model: str | Path | Graph,
    target: str | Path,
    options: Options | None = None,
    *,
    values: Values | None = None,
    wide: bool = True,
) -> Result:
    """Compile a model, simulate its program, and run it on values if asked.

    Raises CompileError for whatever cannot be done.
    """
    options = options or Options()
    lowered = lower_model(model, target, options, given_inputs(values))
    program = checked_program(lowered, timed=options.simulate)
    told = options.command if options.command is not None else command_of([model], target, options, lowered.dims)
    program = replace(program, command=told, choice=lowered.choice)
    background = options.background
    timing = time_program(program, options.sim_engine, background=background) if options.simulate else None
    comparison, outputs = None, None
    if values is not None:
        check_program_computes(program)
        inputs, expected = inputs_and_expected(lowered, values, options.seed, wide=wide)
        outputs = run_program(program, inputs, wide=wide)
        found = outputs if lowered.batch is None else of_each(lowered.batch, outputs, expected)
        comparison = compared(found, expected, lowered.machine.spec, wide=wide) if expected else None
    form = "wide" if wide else "device"
    return Result(program, lowered.graph, lowered.machine.spec, timing, comparison, outputs, str(model), form)


def command_of(
    models: Sequence[str | Path | Graph], target: str | Path, options: Options, dims: Mapping[str, int]
) -> str:
    """The command line that asks for the same; empty for a graph, which has no file."""
    files = [model for model in models if not isinstance(model, Graph)]
    if len(files) < len(models):
        return ""
    return compile_command(
        files,
        target,
        dims={} if options.requests else dims,
        requests=bool(options.requests),
        phase=options.phase,
        parallel=options.parallel if options.choice is None else {},
        objective=options.objective,
        overrides=options.overrides,
        pass_options=options.pass_options,
        disabled=options.disabled,
        plugins=options.plugins,
        shapes_only=options.shapes_only,
    )


def lower_model(
    model: str | Path | Graph, target: str | Path, options: Options, inputs: Mapping[str, Array] | None = None
) -> Lowered:
    """Load, bind (dimensions also from the shapes of `inputs`), and run the passes."""
    whole = load_target(target, options.overrides)
    options = _with_degrees(model, whole, options, inputs)
    spec = _part_of(whole, options)
    graph = model if isinstance(model, Graph) else read_model(model, options, inputs)
    given = options.dims
    batch = batch_of(graph, options.requests, given) if options.requests else None
    if batch is not None:
        options = replace(options, dims=batch.dims)
    elif inputs:
        options = replace(options, dims={**dims_from_arrays(graph, inputs), **options.dims})
    dims = resolve_dims(graph, options.dims)
    kept = options.cache_tokens, options.banked, options.parallel
    machine = scheduled_machine(spec, seconds_of(options.sim_engine), *kept, _estimates(spec, options))

    def again() -> Graph:
        return graph if isinstance(model, Graph) else read_model(model, options, inputs)

    bound = replace(options, dims=dims)
    instance = None
    if batch is not None and not isinstance(model, Graph):
        instance = _instances(again, given, batch.new, bound, machine)
    program = run_passes(graph, bound, machine, batch=batch, instance=instance)
    return Lowered(graph, machine, dims, again, batch, program, options.choice)


def with_degrees(
    model: str | Path | Graph, target: str | Path, options: Options, inputs: Mapping[str, Array] | None = None
) -> Options:
    """Options that say how the model is spread over devices; chosen by cost, where they do not say it yet."""
    return _with_degrees(model, load_target(target, options.overrides), options, inputs)


def _with_degrees(
    model: str | Path | Graph, spec: TargetSpec, options: Options, inputs: Mapping[str, Array] | None
) -> Options:
    if options.parallel or spec.system.devices == 1:
        return options
    from pimc.parallel import choose

    graph = model.copy() if isinstance(model, Graph) else read_model(model, options, inputs)
    batch = batch_of(graph, options.requests, options.dims) if options.requests else None
    given = batch.dims if batch is not None else {**dims_from_arrays(graph, inputs or {}), **options.dims}
    bound = replace(options, dims=resolve_dims(graph, given), observers=(), until=None)
    choice = choose(_Spreading(graph, bound, batch, spec))
    return replace(options, parallel=choice.degrees, choice=choice)


class _Spreading:
    """What `pimc/parallel.py` asks of a compilation."""

    def __init__(self, graph: Graph, options: Options, batch: Batch | None, spec: TargetSpec) -> None:
        self.graph = graph
        self.objective: Objective = options.objective
        self.tokens = prod(n for name, n in options.dims.items() if name in ("batch", "seq"))
        self._options, self._batch = options, batch
        self._registry = registry_for(options)
        self.machine = self.part_of(spec)

    def part_of(self, spec: TargetSpec) -> Machine:
        options = self._options
        kept = options.cache_tokens, options.banked, None, _estimates(spec, options)
        return scheduled_machine(spec, seconds_of(options.sim_engine), *kept)

    def run(self, graph: Graph, first: str | None, last: str, degrees: Mapping[str, int], machine: Machine) -> None:
        options = replace(self._options, parallel=dict(degrees))
        passes = pipeline_for(options, machine, self._registry).passes
        names = [each.name for each in passes]
        start = 0 if first is None else names.index(first)
        run_pipeline(
            Pipeline(passes[start : names.index(last) + 1]), graph, options, machine, self._registry.builtin(),
            batch=self._batch, verify=False, start=GraphStage.IMPORTED if first is None else GraphStage.CANONICAL,
        )  # fmt: skip


def _estimates(spec: TargetSpec, options: Options) -> Estimates:
    """What compilations for the same target have found out about single nodes, unless plug-ins may change it."""
    return Estimates() if options.plugins else _estimates_of(target_hash(spec), options.sim_engine)


@lru_cache(maxsize=8)
def _estimates_of(target: str, engine: SimEngine) -> Estimates:
    return Estimates()


def spec_for(target: str | Path, options: Options) -> TargetSpec:
    """The target, or a part of its devices where the pipeline has more stages than there are devices."""
    return _part_of(load_target(target, options.overrides), options)


def _part_of(spec: TargetSpec, options: Options) -> TargetSpec:
    return shared(spec, options.parallel.get("pp", 1), options.parallel.get("tp", 1))


def _instances(
    again: Callable[[], Graph], given: Mapping[str, int], room: int, options: Options, machine: Machine
) -> Callable[[Sequence[Request]], Graph]:
    """Makes the graphs of some of the requests, which have their channels already.

    again: reads the model; given: dimensions that the user has bound beside the requests; room: for new tokens.
    """

    def instance(requests: Sequence[Request]) -> Graph:
        graph = again()
        batch = batch_of(graph, requests, given, room)
        registry = registry_for(options)
        stays = ["assign-requests.balance=file"] if machine.request_channels else []
        own = replace(options, dims=resolve_dims(graph, batch.dims), observers=(), until="place")
        own = replace(own, pass_options=(*options.pass_options, *stays))
        run_pipeline(pipeline_for(own, machine, registry), graph, own, machine, registry.builtin(), batch=batch)
        return graph

    return instance


def read_model(model: str | Path, options: Options, inputs: Mapping[str, Array] | None = None) -> Graph:
    return load_model(model, shapes_only=options.shapes_only, phase=options.phase, inputs=inputs)


def run_passes(
    graph: Graph,
    options: Options,
    machine: Machine | None,
    *,
    batch: Batch | None = None,
    instance: Callable[[Sequence[Request]], Graph] | None = None,
) -> Program | None:
    """Run the default pipeline, as options say, on a graph in place; the program that it emits, if it comes so far.

    batch: requests with lengths of their own; instance: makes the graph of some of them.
    """
    if batch is not None:
        _check_needed(options.disabled)
    registry = registry_for(options)
    pipeline = pipeline_for(options, machine, registry)
    return run_pipeline(pipeline, graph, options, machine, registry.builtin(), batch=batch, instance=instance)


def run_pipeline(
    pipeline: Pipeline,
    graph: Graph,
    options: Options,
    machine: Machine | None,
    trusted: frozenset[str],
    *,
    batch: Batch | None = None,
    instance: Callable[[Sequence[Request]], Graph] | None = None,
    verify: bool = True,
    start: GraphStage = GraphStage.IMPORTED,
) -> Program | None:
    """Run passes on a graph in place. trusted: those whose failures are ours. verify: look at the graph after each.
    start: the stage that the graph is at."""
    programs: list[object] = []
    record = _Record()
    manager = PassManager(verify=verify, observers=(*options.observers, record), trusted=trusted)
    context = PassContext(
        dims=options.dims,
        batch=batch,
        target=machine,
        phase=Phase(options.phase) if options.phase else None,
        parallel=options.parallel,
        emitted=programs.append,
        disabled=frozenset(options.disabled),
        instance=instance,
    )
    manager.run(pipeline, graph, context, start=start)
    program = next((p for p in programs if isinstance(p, Program)), None)
    return replace(program, passes=tuple(record.rows)) if program is not None else None


@dataclass
class _Record(Observer):
    """What becomes of the graph, pass by pass."""

    rows: list[PassRow] = field(default_factory=list)

    def after_pass(self, name: str, graph: Graph, seconds: float, changed: bool) -> None:
        self.rows.append(PassRow(name, changed, len(graph)))


def _check_needed(disabled: Sequence[str]) -> None:
    """Without these passes a batch of requests would be computed as if all were as long as the longest."""
    for name in ("assign-requests", "spread-positions", "ragged-attention"):
        if name in disabled:
            raise fail(Kind.PIPELINE, f"--requests needs the pass '{name}'", help=f"leave out --disable-pass {name}")


def registry_for(options: Options) -> PassRegistry:
    """The known passes, and those of the plug-in files for this compilation alone."""
    known = default_registry()
    registry = PassRegistry(dict(known.references), dict(known.loaded))
    for path in options.plugins:
        registry.load_file(path)
    return registry


def pipeline_for(options: Options, machine: Machine | None, registry: PassRegistry) -> Pipeline:
    """The default pipeline with the passes of plug-in files, as far as it is to run."""
    for name in options.disabled:
        registry.load(name)  # an unknown name is a mistake, not nothing
    asked = machine.pass_options() if machine is not None else {}
    wanted = WITH_REQUESTS if options.requests else DEFAULT
    optional = set(WITH_REQUESTS) - set(wanted)
    from_target = [
        f"{name}.{key}={value}" for name, given in asked.items() for key, value in given.items() if name not in optional
    ]
    pipeline = default_pipeline([*from_target, *options.pass_options], names=wanted, registry=registry)
    if options.until is None:
        return pipeline
    names = [p.name for p in pipeline]
    if options.until not in names:
        raise fail(
            Kind.PASS_UNKNOWN, f"pass '{options.until}' is not in the pipeline", help=f"it runs {', '.join(names)}"
        )
    return Pipeline(pipeline.passes[: names.index(options.until) + 1])


def checked_program(lowered: Lowered, *, timed: bool = False) -> Program:
    """The emitted program, verified. timed: it is simulated next."""
    program = emitted(lowered.program)
    verify_program(program, timed=timed)
    return program


def emitted(program: Program | None) -> Program:
    """What the passes have emitted. Raises CompileError (PIPELINE) where they stopped before."""
    if program is None:
        raise fail(Kind.PIPELINE, "no program was emitted", help="let the pass 'emit' run")
    return program


# -- values -----------------------------------------------------------------------------------------------------------


def inputs_and_expected(
    lowered: Lowered, values: Values, seed: int, *, wide: bool = True
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs, and outputs to compare with: given ones, or the interpreter's on random inputs in the same format."""
    if lowered.batch is not None:
        return _of_requests(lowered, lowered.batch, values, seed, wide=wide)
    if not isinstance(values, str):
        return given_inputs(values), given_outputs(values)
    reference = lowered.reference
    if reference is lowered.graph:
        raise fail(Kind.UNAVAILABLE, "random values need the model as a file", help="give inputs and expected outputs")
    run_passes(reference, Options(dims=lowered.dims, until="fold"), None)
    inputs = random_inputs(reference, seed)
    return inputs, interp.run(reference, inputs, wide=wide)


def _of_requests(
    lowered: Lowered, batch: Batch, values: Values, seed: int, *, wide: bool
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Inputs of the batch, and what is expected of each request: random inputs are run through the model request by
    request, each at its own lengths."""
    reference = lowered.reference
    if not isinstance(values, str):
        inputs = padded_inputs(reference, batch, given_inputs(values))
        return inputs, expected_of_each(batch, reference, given_outputs(values))
    if reference is lowered.graph:
        raise fail(Kind.UNAVAILABLE, "random values need the model as a file", help="give inputs and expected outputs")
    inputs = random_inputs(_folded(reference, batch.dims), seed)
    alone: dict[tuple[int, int], Graph] = {}
    expected: dict[str, Array] = {}
    for index, request in enumerate(batch.requests):
        size = request.past, request.new
        if size not in alone:
            alone[size] = _folded(lowered.again(), batch.own_dims[index])
        outputs = interp.run(alone[size], own_inputs(batch, index, inputs), wide=wide)
        expected |= {name_of_one(name, request): array for name, array in outputs.items()}
    return inputs, expected


def _folded(graph: Graph, dims: Mapping[str, int]) -> Graph:
    run_passes(graph, Options(dims=dims, until="fold"), None)
    return graph
