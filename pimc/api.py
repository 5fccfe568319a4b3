"""`pimc.compile`. The command line compiles in the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from pimc.backends.program import Objective
from pimc.driver import Options, Result, compile_model
from pimc.execution import SimEngine, ValueForm, Values, is_wide
from pimc.ir.diagnostics import UsageError
from pimc.ir.graph import Graph
from pimc.ir.requests import Request
from pimc.passes.manager import Observer


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
