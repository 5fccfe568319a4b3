"""What the end-to-end tests share: models with outputs of ONNX Runtime, and programs compiled only once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from pimc.backends.executors import selected
from pimc.backends.isa import Command
from pimc.backends.program import Program, Step, steps
from pimc.backends.target import TargetSpec
from pimc.driver import Options, checked_program, inputs_and_expected, lower_model, run_passes
from pimc.execution import Values, compared
from pimc.execution import given_inputs as given_inputs
from pimc.ir import interp
from pimc.ir.graph import Graph
from pimc.ir.op import Array
from pimc.sim.compare import Comparison
from pimc.sim.values import execute

ROOT = Path(__file__).parent.parent.parent
DATA = ROOT / "tests" / "data" / "onnx"
MODELS = ROOT / "models"
TARGETS = ("npu", "neupims", "newton", "cent")
TINY = ("tiny-llama.pimc", "tiny-gpt2.pimc")
PREFILL = {"batch": 2, "seq": 5, "past": 0}
DECODE = {"batch": 2, "seq": 1, "past": 7}
CHUNK = {"batch": 2, "seq": 3, "past": 4}


@dataclass(frozen=True)
class Sample:
    """A model and the file with its inputs and ONNX Runtime's outputs."""

    model: Path
    arrays: Path

    def __str__(self) -> str:
        return self.arrays.stem

    @property
    def is_oracle(self) -> bool:
        """ONNX Runtime rounds activations where weights are int4; those outputs are compared with the interpreter's."""
        return "int4" not in self.arrays.name

    def values(self) -> dict[str, Array]:
        with np.load(self.arrays) as arrays:
            return dict(arrays)


def _samples() -> Iterator[Sample]:
    for folder in (DATA, MODELS):
        for arrays in sorted(folder.glob("*.npz")):
            stems = (arrays.stem, arrays.stem.rpartition(".")[0])
            yield Sample(next(f for s in stems if (f := folder / f"{s}.onnx").exists()), arrays)


SAMPLES = tuple(_samples())


@dataclass(frozen=True)
class Built:
    """A program, and what it is to compute."""

    program: Program
    spec: TargetSpec
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]
    graph: Graph | None = None

    def run(self, order: int | str = "forward", *, wide: bool = True) -> dict[str, Array]:
        return execute(self.program, self.inputs, wide=wide, order=order)[0]

    def compare(self, outputs: Mapping[str, Array], *, wide: bool = True) -> Comparison:
        return compared(outputs, self.expected, self.spec, wide=wide)

    @property
    def mnemonics(self) -> set[str]:
        return {step.command.mnemonic for step in all_steps(self.program)}


def build(model: Path, target: str, options: Options | None = None, values: Values = "random") -> Built:
    """Compile, with values that are given or random."""
    options = options or Options()
    lowered = lower_model(model, target, options, given_inputs(values))
    inputs, expected = inputs_and_expected(lowered, values, seed=0)
    return Built(checked_program(lowered), lowered.machine.spec, inputs, expected, lowered.graph)


def build_sample(sample: Sample, target: str, options: Options | None = None) -> Built:
    if sample.is_oracle:
        return build(sample.model, target, options, sample.values())

    lowered = lower_model(sample.model, target, options or Options(), given_inputs(sample.values()))
    run_passes(lowered.reference, Options(dims=lowered.dims, until="fold"), None)
    inputs = given_inputs(sample.values())
    expected = interp.run(lowered.reference, inputs)
    return Built(checked_program(lowered), lowered.machine.spec, inputs, expected, lowered.graph)


@cache
def tiny(
    name: str,
    target: str,
    dims: tuple[tuple[str, int], ...],
    passes: tuple[str, ...] = (),
    parallel: tuple[tuple[str, int], ...] = (),
) -> Built:
    """One of the small models of `models/` with random inputs; `options_of` makes the arguments."""
    devices = int(np.prod([n for _, n in parallel])) if parallel else 1
    overrides = (f"system.devices={devices}",) if devices > 1 else ()
    options = Options(dims=dict(dims), pass_options=passes, parallel=dict(parallel), overrides=overrides)
    return build(MODELS / name, target, options)


def key(mapping: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    """A mapping as an argument of `tiny`."""
    return tuple(mapping.items())


def with_layers(name: str, layers: int, folder: Path) -> Path:
    """A copy of a model of `models/` with so many layers."""
    text = (MODELS / f"{name}.pimc").read_text()
    text = re.sub(r"^let layers = \d+$", f"let layers = {layers}", text, flags=re.MULTILINE)
    copy = folder / f"{name}-{layers}.pimc"
    copy.write_text(text.replace('include "', f'include "{MODELS}/'))
    return copy


def all_steps(program: Program) -> Iterator[Step]:
    """Every command as written, of all streams."""
    for stream in program.streams:
        yield from steps(stream.items)


def keeping(program: Program, wanted: Callable[[str, Command], bool]) -> Program:
    """The program with only the commands for which `wanted(engine, command)` holds."""

    streams = []
    for stream in program.streams:
        engine = stream.engine
        items = selected(stream.items, lambda command, engine=engine: wanted(engine, command))  # type: ignore[misc]
        streams.append(replace(stream, items=items))
    return replace(program, streams=tuple(streams))


def assert_equal_bits(one: Mapping[str, Array], other: Mapping[str, Array]) -> None:
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert array.dtype == other[name].dtype
        assert array.tobytes() == other[name].tobytes(), f"output '{name}' differs"
