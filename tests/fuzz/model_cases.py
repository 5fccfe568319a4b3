"""Cases of damaged ONNX models: pimc refuses them, or computes what ONNX Runtime makes of them."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.random import PCG64, Generator
from onnx import ModelProto, helper

from pimc.driver import compile_model
from pimc.ir.diagnostics import CompileError
from tests.e2e.harness import DATA, MODELS
from tests.fuzz import stages
from tests.fuzz.cases import TARGETS, Verdict, WrongError, compare, executed, interpreted, refused
from tests.fuzz.eager import ROUNDING, Array, Rejected, run, session
from tests.fuzz.model_mutations import damaged_bytes, mutated
from tests.fuzz.nodes import random_sample

LARGEST_INPUT = 100_000
"""Elements of an input beyond which none is drawn."""


@cache
def exported() -> tuple[tuple[str, bytes, dict[str, Array]], ...]:
    """The exported models of the tests with sample inputs: name, bytes, arrays."""
    found = []
    for folder in (DATA, MODELS):
        for path in sorted(folder.glob("*.npz")):
            stems = (path.stem, path.stem.rpartition(".")[0])
            model = next(f for s in stems if (f := folder / f"{s}.onnx").exists())
            with np.load(path) as arrays:
                inputs = {n[3:]: a for n, a in arrays.items() if n.startswith("in:")}
            found.append((path.stem, model.read_bytes(), inputs))
    return tuple(found)


def add_weights(folder: Path) -> None:
    """The weight files of the exported models beside a damaged one; ONNX Runtime follows no links."""
    for path in DATA.glob("*.bin"):
        if not (folder / path.name).exists():
            shutil.copy(path, folder)


def mutated_case(seed: int, folder: Path) -> Verdict:
    """A random model, damaged."""
    chance = Generator(PCG64([seed, 72]))
    sample = random_sample(seed)
    model, what = mutated(sample.model, chance)
    return judge(model.SerializeToString(), sample.inputs, folder, seed, what)


def exported_case(seed: int, folder: Path) -> Verdict:
    """An exported model, damaged."""
    chance = Generator(PCG64([seed, 73]))
    name, data, inputs = exported()[seed % len(exported())]
    model, what = mutated(ModelProto.FromString(data), chance)
    add_weights(folder)
    return judge(model.SerializeToString(), inputs, folder, seed, f"{name}: {what}", whole=seed % 3 == 0)


def byte_case(seed: int, folder: Path) -> Verdict:
    """A model file with damaged bytes."""
    chance = Generator(PCG64([seed, 74]))
    if seed % 4:
        sample = random_sample(seed)
        data, inputs = sample.model.SerializeToString(), sample.inputs
    else:
        _, data, inputs = exported()[(seed // 4) % len(exported())]
        add_weights(folder)
    return judge(damaged_bytes(data, chance), inputs, folder, seed, "bytes")


def judge(
    data: bytes, inputs: Mapping[str, Array], folder: Path, seed: int, what: str, *, whole: bool = True
) -> Verdict:
    """Run a damaged model here and there. `whole`: compile it as well as interpret it."""
    path = folder / "model.onnx"
    path.write_bytes(data)
    target = TARGETS[seed % len(TARGETS)]
    found: dict[str, dict[str, Array]] = {}
    try:
        given = fitting(data, inputs, Generator(PCG64([seed, 75])))
        if given is None:  # nobody knows inputs; at least it must come to an end
            compile_model(path, target)
            return Verdict("unjudged", "no inputs")
        found["the interpreter"] = interpreted(path, given)
        if whole:
            found[target] = executed(path, target, given, timed=False)
    except CompileError as error:
        return refused(error)
    stages.enter("oracle")
    try:
        expected, tolerances = oracle(path, given)
    except Rejected as error:
        return Verdict("unjudged", f"ONNX Runtime refuses it ({what}): {error}")
    stages.enter("pimc")
    for who, outputs in found.items():
        try:
            compare(who, outputs, expected, tolerances)
        except WrongError as error:
            raise WrongError(f"{what}: {error}") from None
    return Verdict("equal")


def fitting(data: bytes, inputs: Mapping[str, Array], chance: Generator) -> dict[str, Array] | None:
    """Arrays for the inputs that the damaged model declares: those of the sample where they fit, else new ones."""
    try:
        graph = ModelProto.FromString(data).graph
    except Exception:  # protobuf's own type of errors is not public
        return {}
    stored = {t.name for t in graph.initializer}
    given: dict[str, Array] = {}
    for info in graph.input:
        if info.name in stored:
            continue
        tensor = info.type.tensor_type
        try:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except (KeyError, ValueError):
            return None
        old = inputs.get(info.name)
        dims = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
        if old is not None and old.dtype == dtype and _may_be(old.shape, dims):
            given[info.name] = old
            continue
        shape = [2 if d is None else d for d in dims]
        if min(shape, default=1) < 0 or np.prod(shape, dtype=object) > LARGEST_INPUT or dtype.kind not in "fiub":
            return None
        given[info.name] = chance.integers(0, 2, shape).astype(dtype)
    return given


def _may_be(shape: Sequence[int], dims: Sequence[int | None]) -> bool:
    return len(shape) == len(dims) and all(d in (None, n) for d, n in zip(dims, shape, strict=True))


def oracle(path: Path, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], dict[str, float]]:
    """ONNX Runtime's outputs and the errors allowed. Raises Rejected, also where rounding decides the result.

    Where weights have four bits it rounds activations as well.
    """
    made = session(str(path))
    expected = run(made, inputs)
    if len(expected) != len(made.get_outputs()):
        raise Rejected("an output is no tensor")
    shaken = run(made, {n: _shaken(a) for n, a in inputs.items()})
    rounding = any(n.op_type == "MatMulNBits" for n in ModelProto.FromString(path.read_bytes()).graph.node)
    coarse = any(a.dtype == np.float16 for a in (*expected.values(), *inputs.values()))
    tolerances = {}
    for name, array in expected.items():
        other = shaken[name]
        if array.dtype.kind != "f":
            if not np.array_equal(array, other):
                raise Rejected("decided by rounding")
            tolerances[name] = 0.0
            continue
        if np.isnan(array).any() or not np.array_equal(np.isfinite(array), np.isfinite(other)):
            raise Rejected("undefined")
        fine = np.isfinite(array)
        a, b = array[fine].astype(np.float64), other[fine].astype(np.float64)
        scale, spread = float(np.max(np.abs(a), initial=0.0)), float(np.max(np.abs(a - b), initial=0.0))
        if scale > 1e9:
            raise Rejected("too large")
        tolerances[name] = (5e-2 if rounding else 2e-2 if coarse else 1e-3) * max(scale, 1e-3) + 100 * spread
    return expected, tolerances


def _shaken(array: Array) -> Array:
    size = ROUNDING.get(array.dtype, 0.0)
    if not size:
        return array
    signs = np.where(np.arange(array.size).reshape(array.shape) % 2, 1.0, -1.0)
    return np.asarray(array.astype(np.float64) * (1 + size * signs)).astype(array.dtype)
