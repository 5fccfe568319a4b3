"""One fuzz case of each kind: what pimc makes of a model or a text, and whether that is allowed.

A case ends as one of these, or raises:

- equal: pimc computes what ONNX Runtime does;
- refused: pimc gives a diagnostic;
- unjudged: pimc takes it, and nobody says what is right (ONNX Runtime refuses it, or rounding decides the result);
- done: a command succeeds (texts and programs).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pimc.cli.render import render
from pimc.cli.screen import plain
from pimc.driver import Options, checked_program, lower_model, read_model, run_passes
from pimc.execution import time_program
from pimc.ir import interp
from pimc.ir.diagnostics import CompileError
from pimc.passes.bind import dims_from_arrays, resolve_dims
from pimc.sim.values import execute
from tests.fuzz.eager import Array
from tests.fuzz.nodes import random_sample

TARGETS = ("npu", "neupims", "newton", "cent")


class WrongError(AssertionError):
    """pimc computes something else than ONNX Runtime, or says something that it must not say."""


@dataclass(frozen=True)
class Verdict:
    """How a case ended, and why."""

    kind: str
    why: str = ""


def refused(error: CompileError) -> Verdict:
    """A diagnostic, which must be fit for a terminal."""
    if not all(d.message.strip() for d in error.diagnostics):
        raise WrongError("a diagnostic says nothing")
    check_printable(plain(render(error.diagnostics)))
    first = error.diagnostics[0]
    return Verdict("refused", f"{first.kind.code} {first.message}")


def check_printable(text: str) -> None:
    """Raises WrongError for text that would do something to a terminal."""
    bad = sorted({c for c in text if not c.isprintable() and c != "\n"})
    if bad:
        raise WrongError(f"control characters reach the screen: {bad}")


def compare(
    what: str, given: Mapping[str, Array], expected: Mapping[str, Array], tolerances: Mapping[str, float]
) -> None:
    """Raises WrongError where an output differs by more than its tolerance."""
    if set(given) != set(expected):
        raise WrongError(f"{what} has outputs {sorted(given)}, not {sorted(expected)}")
    for name, wanted in expected.items():
        array = given[name]
        if array.shape != wanted.shape or (array.dtype != wanted.dtype and not _is_widened(array, wanted)):
            raise WrongError(f"{what}: '{name}' is {array.dtype}{array.shape}, not {wanted.dtype}{wanted.shape}")
        off = difference(array, wanted)
        if not off <= tolerances[name]:
            raise WrongError(f"{what}: '{name}' is off by {off:.3g}, and {tolerances[name]:.3g} is allowed")


def _is_widened(array: Array, wanted: Array) -> bool:
    """All floats are float32 in the wide format."""
    return array.dtype == np.float32 and wanted.dtype.kind == "f"


def difference(array: Array, wanted: Array) -> float:
    """The largest absolute difference; infinite where what is not finite differs."""
    if wanted.dtype.kind != "f":
        return 0.0 if np.array_equal(array, wanted) else float("inf")
    a, w = array.astype(np.float64), wanted.astype(np.float64)
    special = ~np.isfinite(w) | ~np.isfinite(a)
    if not np.array_equal(a[special], w[special], equal_nan=True):
        return float("inf")
    return float(np.max(np.abs(a[~special] - w[~special]), initial=0.0))


def interpreted(path: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by the reference meanings of ops, dimensions bound by the inputs."""
    graph = read_model(path, Options(), inputs)
    dims = resolve_dims(graph, dims_from_arrays(graph, inputs))
    run_passes(graph, Options(dims=dims, until="fold"), None)
    return interp.run(graph, inputs)


def executed(path: Path, target: str, inputs: Mapping[str, Array], *, timed: bool) -> dict[str, Array]:
    """The outputs of the streams for a target."""
    program = checked_program(lower_model(path, target, Options(), inputs))
    if timed and time_program(program).cycles < 0:
        raise WrongError("time runs backwards")
    outputs, _ = execute(program, inputs, wide=True)
    return outputs


def graph_case(seed: int, folder: Path) -> Verdict:
    """A random model: interpreted, compiled for one of the targets, and executed."""
    sample = random_sample(seed)
    path = folder / "model.onnx"
    path.write_bytes(sample.model.SerializeToString())
    target = TARGETS[seed % len(TARGETS)]
    try:
        compare("the interpreter", interpreted(path, sample.inputs), sample.expected, sample.tolerances)
        outputs = executed(path, target, sample.inputs, timed=seed % 5 == 0)
    except CompileError as error:
        return refused(error)
    compare(target, outputs, sample.expected, sample.tolerances)
    return Verdict("equal")


def kinds() -> dict[str, Callable[[int, Path], Verdict]]:
    """The cases by name."""
    from tests.fuzz.model_cases import byte_case, exported_case, mutated_case
    from tests.fuzz.rule_cases import rule_case
    from tests.fuzz.text_cases import program_case, text_case

    return {
        "rules": rule_case,
        "graphs": graph_case,
        "mutated": mutated_case,
        "exported": exported_case,
        "bytes": byte_case,
        "texts": text_case,
        "programs": program_case,
    }
