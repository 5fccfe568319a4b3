"""`pimc.load_program` and `pimc.simulate`: a stored program is executed. `pimc sim` calls it too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pimc.backends.engines import spec_of
from pimc.backends.program import MapEntry, Program
from pimc.backends.references import FileReference
from pimc.backends.verify import verify_program
from pimc.execution import (
    SimEngine,
    ValueForm,
    Values,
    compared,
    given_inputs,
    given_outputs,
    is_wide,
    run_program,
    time_program,
)
from pimc.garbage import collecting_seldom
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail, file_missing
from pimc.ir.op import Array
from pimc.ir.weights import Contents, Sharded, Sliced
from pimc.loading import load_program as load_program
from pimc.record import record
from pimc.sim.report import Report, build_report
from pimc.sim.timing import Timing

if TYPE_CHECKING:
    from pimc.sim.compare import Comparison
    from pimc.sim.issue_trace import IssueLog
    from pimc.sim.values import Progress


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
        expected = given_outputs(values)
        if expected:
            comparison = compared(outputs, expected, spec_of(loaded), wide=is_wide(form))
    return Run(loaded, timing, comparison, outputs, form)


def _execute(
    program: Program,
    values: Values,
    weights: Mapping[str, Array],
    form: ValueForm,
    seed: int,
    progress: Progress | None,
) -> dict[str, Array]:
    inputs = random_arrays(program, seed) if isinstance(values, str) else given_inputs(values)
    check_weights(program, weights)
    return run_program(program, inputs, wide=is_wide(form), weights=weights, progress=progress)


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
