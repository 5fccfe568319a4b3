"""The public functions: `pimc.compile` and `pimc.simulate`. The command line calls them too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pimc.backends.engines import spec_of
from pimc.backends.program import MapEntry, Objective, Program
from pimc.backends.references import FileReference
from pimc.backends.verify import verify_program
from pimc.driver import Options, Result, SimEngine, Values, compared, compile_model, given_inputs, time_program
from pimc.garbage import collecting_seldom
from pimc.ir.diagnostics import UsageError
from pimc.ir.graph import Graph
from pimc.ir.op import Array
from pimc.ir.requests import Request
from pimc.ir.weights import Contents, Sharded, Sliced
from pimc.loading import load_program as load_program
from pimc.passes.manager import Observer
from pimc.record import record
from pimc.sim.report import Report, build_report
from pimc.sim.timing import Timing

if TYPE_CHECKING:
    from pimc.sim.compare import Comparison
    from pimc.sim.issue_trace import IssueLog
    from pimc.sim.values import Progress

ValueForm = Literal["wide", "device"]


@record
class Run:
    """What executing a stored program gives."""

    program: Program
    timing: Timing
    comparison: Comparison | None = None
    outputs: Mapping[str, Array] | None = None
    form: ValueForm = "wide"

    @cached_property
    def report(self) -> Report:
        """What `pimc sim` prints; made when it is asked for."""
        return build_report(self.program, self.timing, comparison=self.comparison, form=self.form)


def compile(
    model: str | Path | Graph,
    target: str | Path,
    *,
    dims: Mapping[str, int] | None = None,
    requests: Sequence[Request] | str | Path = (),
    overrides: Sequence[str] = (),
    parallel: Mapping[str, int] | Objective | None = None,
    phase: str | None = None,
    pass_options: Sequence[str] = (),
    disable: Sequence[str] = (),
    load: Sequence[str | Path] = (),
    observers: Sequence[Observer] = (),
    shapes_only: bool = False,
    simulate: bool = True,
    sim_engine: SimEngine = "fast",
    values: Values | None = None,
    form: ValueForm = "wide",
    seed: int = 0,
    background: int | None = None,
) -> Result:
    """Compile a model for a target and simulate the program.

    model: an ONNX, `.pimc` or `.pimir` file, or a graph. target: a name or a YAML file. dims: numbers for symbolic
    dimensions. requests: a batch whose requests have lengths of their own, or the CSV file that lists them.
    overrides: `key=value` for numbers of the target. parallel: `{"pp": P, "tp": T}`, or what the degrees are
    chosen for where there are several devices: "latency" (as when nothing is said) or "throughput". pass_options:
    `pass.option=value`. load: Python files with passes. values: arrays `in:<input>` and `out:<output>`, or "random":
    run the streams on them and compare the outputs. Dimensions follow from the shapes of arrays, and where shapes
    depend on what an input holds (the target of a reshape), the program is made for the contents of its array.
    background: normal reads that every channel with PIM work is offered in a clock, and serves beside it.
    Raises CompileError for what cannot be done.
    """
    if phase not in (None, "prefill", "decode"):
        raise UsageError(f"the phase is prefill or decode, not '{phase}'; compile_phases compiles both")
    options = Options(
        dims=dict(dims or {}),
        requests=_requests(requests),
        overrides=tuple(overrides),
        parallel={} if isinstance(parallel, str) else dict(parallel or {}),
        objective=parallel if isinstance(parallel, str) else "latency",
        phase=phase,
        pass_options=tuple(pass_options),
        disabled=tuple(disable),
        plugins=tuple(load),
        shapes_only=shapes_only,
        simulate=simulate,
        sim_engine=sim_engine,
        observers=tuple(observers),
        seed=seed,
        background=background,
    )
    return compile_model(model, target, options, values=values, wide=is_wide(form))


def _requests(given: Sequence[Request] | str | Path) -> tuple[Request, ...]:
    """Requests numbered in their order."""
    if isinstance(given, str | Path):
        from pimc.frontends.requests_csv import read_requests

        given = read_requests(str(given))
    return tuple(replace(r, row=row) for row, r in enumerate(given))


@collecting_seldom()
def simulate(
    program: Program | str | Path,
    *,
    values: Values | None = None,
    weights: Mapping[str, Array] | str | Path | None = None,
    form: ValueForm = "wide",
    sim_engine: SimEngine = "fast",
    seed: int = 0,
    progress: Progress | None = None,
    issues: IssueLog | None = None,
    background: int | None = None,
) -> Run:
    """Execute a program (or a `.pimprog` file) for its time, and on `values` if given.

    values: arrays `in:<input>`, and `out:<output>` to compare with; or "random" inputs, with nothing to compare with.
    weights: arrays that take the place of the program's own, by name; or the file that the program's weights are in, if
    that is no longer where it was. issues: takes every DRAM command of the PIM engines; nothing is skipped then.
    background: as for `compile`. Raises CompileError for what cannot be done.
    """
    loaded = program if isinstance(program, Program) else load_program(program)
    if isinstance(weights, str | Path):
        loaded, weights = relocated(loaded, Path(weights)), None
    verify_program(loaded)
    timing = time_program(loaded, sim_engine, issues, background)
    comparison, outputs = None, None
    if values is not None:
        outputs = _execute(loaded, values, weights or {}, form, seed, progress)
        expected = {} if isinstance(values, str) else {n[4:]: a for n, a in values.items() if n.startswith("out:")}
        if expected:
            comparison = compared(outputs, expected, spec_of(loaded), wide=is_wide(form))
    return Run(loaded, timing, comparison, outputs, form)


def is_wide(form: str) -> bool:
    if form not in ("wide", "device"):
        raise UsageError(f"the format of values is wide or device, not '{form}'")
    return form == "wide"


def _execute(
    program: Program,
    values: Values,
    weights: Mapping[str, Array],
    form: ValueForm,
    seed: int,
    progress: Progress | None,
) -> dict[str, Array]:
    from pimc.sim.values import execute

    inputs = random_arrays(program, seed) if isinstance(values, str) else given_inputs(values)
    check_weights(program, weights)
    outputs, _ = execute(program, inputs, wide=is_wide(form), weights=weights, progress=progress)
    return outputs


def random_arrays(program: Program, seed: int) -> dict[str, Array]:
    """An array for each input of a program: normal floats; integers and booleans are ones, which every table has."""
    import numpy as np

    generator = np.random.Generator(np.random.PCG64(seed))
    arrays: dict[str, Array] = {}
    for name in program.inputs:
        entry = program.entry(name)
        if entry is not None:
            shape = entry.whole_shape
            drawn = generator.standard_normal(shape, np.float32) if entry.logical.is_float else np.ones(shape)
            arrays[name] = drawn.astype(entry.logical.numpy)
    return arrays


def check_weights(program: Program, weights: Mapping[str, Array]) -> None:
    """Raises CompileError (INPUT_BAD) for arrays that are no weights of the program."""
    from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean

    known = [e.name for e in program.memory if e.role in ("weight", "constant")]
    wrong = [
        Diagnostic(Kind.INPUT_BAD, f"the program has no weight '{name}'", help=did_you_mean(name, known))
        for name in weights
        if name not in known
    ]
    if wrong:
        raise CompileError(wrong)


def relocated(program: Program, file: Path) -> Program:
    """The program with its weights in `file`, where it names that file elsewhere. Raises CompileError."""
    from pimc.ir.diagnostics import Kind, fail, file_missing

    if not file.is_file():
        raise file_missing(file, f"cannot read {file}: no such file")
    names = {Path(r.path).name for e in program.memory if (r := _reference(e.contents)) is not None}
    if file.name not in names and len(names) != 1:
        what = f"takes its weights from {', '.join(sorted(names))}" if names else "names no file with weights"
        raise fail(Kind.INPUT_BAD, f"the program {what}, not from {file.name}")
    wanted = file.name if file.name in names else names.pop()
    return replace(program, memory=tuple(_moved(entry, wanted, file) for entry in program.memory))


def _reference(contents: Contents | None) -> FileReference | None:
    while isinstance(contents, Sharded | Sliced):
        contents = contents.whole
    return contents if isinstance(contents, FileReference) else None


def _moved(entry: MapEntry, name: str, file: Path) -> MapEntry:
    reference = _reference(entry.contents)
    if reference is None or Path(reference.path).name != name:
        return entry
    return replace(entry, contents=_with_reference(entry.contents, replace(reference, path=str(file), beside=None)))


def _with_reference(contents: Contents | None, reference: FileReference) -> Contents:
    """The same parts of another file."""
    if isinstance(contents, Sharded | Sliced):
        return replace(contents, whole=_with_reference(contents.whole, reference))
    return reference
