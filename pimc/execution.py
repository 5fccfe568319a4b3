"""Programs are executed: for the time they take, and on values for what they compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Literal

from pimc.backends.program import Program
from pimc.backends.target import TargetSpec
from pimc.garbage import collecting_seldom
from pimc.ir.diagnostics import UsageError
from pimc.ir.op import Array
from pimc.sim.time import simulate
from pimc.sim.timing import Timing

if TYPE_CHECKING:
    from pimc.sim.compare import Comparison
    from pimc.sim.issue_trace import IssueLog
    from pimc.sim.values import Progress

SimEngine = Literal["fast", "plain"]
Values = Mapping[str, Array] | Literal["random"]
"""Arrays named `in:<input>` and `out:<output>`, or random inputs with the interpreter's outputs to compare with."""
ValueForm = Literal["wide", "device"]


@collecting_seldom()
def time_program(
    program: Program, engine: SimEngine = "fast", issues: IssueLog | None = None, background: int | None = None
) -> Timing:
    return simulate(program, engine=engine, issues=issues, background=background)


def seconds_of(engine: SimEngine) -> Callable[[Program], float]:
    """The simulator as what a machine asks for its estimates."""
    return lambda program: time_program(program, engine).time * 1e-12


def given_inputs(values: Values | None) -> dict[str, Array]:
    """The input arrays of an npz by name."""
    return _named(values, "in:")


def given_outputs(values: Values | None) -> dict[str, Array]:
    """The arrays that its outputs are to be, by name."""
    return _named(values, "out:")


def _named(values: Values | None, prefix: str) -> dict[str, Array]:
    if values is None or isinstance(values, str):
        return {}
    return {name.removeprefix(prefix): array for name, array in values.items() if name.startswith(prefix)}


def is_wide(form: str) -> bool:
    if form not in ("wide", "device"):
        raise UsageError(f"the format of values is wide or device, not '{form}'")
    return form == "wide"


def check_program_computes(program: Program) -> None:
    """Raises CompileError (UNAVAILABLE) for a program that has a time alone."""
    from pimc.sim.values import check_computes

    check_computes(program)


def run_program(
    program: Program,
    inputs: Mapping[str, Array],
    *,
    wide: bool,
    weights: Mapping[str, Array] | None = None,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """The outputs by name. weights: arrays that take the place of the program's own."""
    from pimc.sim.values import execute

    outputs, _ = execute(program, inputs, wide=wide, weights=weights, progress=progress)
    return outputs


def compared(
    outputs: Mapping[str, Array], expected: Mapping[str, Array], spec: TargetSpec, *, wide: bool
) -> Comparison:
    """Compare with the tolerance of the format."""
    from pimc.sim.compare import compare

    return compare(outputs, expected, tolerance_of(spec, wide=wide))


def tolerance_of(spec: TargetSpec, *, wide: bool) -> float:
    """The largest relative error that is ok: 1e-4 in the wide format, else the documented bound of the storage type."""
    from pimc.sim.compare import WIDE_TOLERANCE

    return WIDE_TOLERANCE if wide else spec.value_tolerance
