"""Type rules against meanings: whatever a rule accepts, its op can compute, with results of the types it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import PCG64, Generator

from pimc.ir.op import Array, Attribute, TypeRuleError, lookup
from pimc.ir.types import DType, TensorType
from tests.fuzz.cases import Verdict, WrongError
from tests.fuzz.model_mutations import pick
from tests.ir.test_ops import CASES

DTYPES = (np.float32, np.float16, np.int64, np.int32, np.int8, np.uint8, np.bool_)
EXTENTS = (0, 1, 2, 3, 4, 5, 8)
NUMBERS = (-1, 0, 1, 2, 3, 4, 5, -2, -5, 7, 2**31, -(2**63))
MOST_ELEMENTS = 2**20
"""Results above this are not computed."""


def rule_case(seed: int, folder: Path) -> Verdict:
    """An application that is known to be right, with something about it changed."""
    chance = Generator(PCG64([seed, 76]))
    case = CASES[seed % len(CASES)]
    op = lookup(case.name)
    operands = [None if x is None else np.asarray(x) for x in case.inputs]
    attributes: dict[str, Attribute] = dict(case.attributes if case.ours is None else case.ours)
    for _ in range(1 + int(chance.integers(2))):
        _change(operands, attributes, {**op.attributes}, chance)
    what = f"{op.name}({', '.join(_text(x) for x in operands)}) {attributes}"
    try:
        types = [None if x is None else _type(x) for x in operands]
        results = op.infer(types, attributes)
    except TypeRuleError as error:
        return Verdict("refused", f"{op.name}: {error}")
    except Exception as error:
        raise WrongError(f"the rule of {what} fails: {error!r}") from error
    if not all(r.is_static for r in results) or max((r.elements for r in results), default=0) > MOST_ELEMENTS:
        return Verdict("unjudged", "large")
    try:
        arrays = op.evaluate(operands, attributes)
    except IndexError:
        return Verdict("refused", "an index out of range")
    except Exception as error:
        raise WrongError(f"{what} is accepted, but cannot be computed: {error!r}") from error
    made = [(a.dtype, a.shape) for a in arrays]
    said = [(r.dtype.numpy, r.shape) for r in results]
    if made != said:
        raise WrongError(f"{what} is said to give {said}, but gives {made}")
    return Verdict("equal")


def _text(x: Array | None) -> str:
    return "_" if x is None else f"{x.dtype}{list(x.shape)}" + (f"={x.tolist()}" if x.size < 5 else "")


def _type(x: Array) -> TensorType:
    """Contents are known as they are in models: of integers that may steer shapes."""
    return TensorType(DType.of(x), x.shape, x if x.dtype.kind in "iu" and x.size <= 64 else None)


def _change(
    operands: list[Array | None], attributes: dict[str, Attribute], defaults: dict[str, Attribute], chance: Generator
) -> None:
    what = chance.integers(8)
    known = {**defaults, **attributes}
    if what < 3 and known:
        name = pick(chance, sorted(known))
        if known[name] is not None:
            attributes[name] = _other(known[name], chance)
        return
    places = [i for i, x in enumerate(operands) if x is not None]
    if not places:
        return
    at = pick(chance, places)
    x = operands[at]
    assert x is not None
    if what == 3:
        with np.errstate(all="ignore"):
            operands[at] = x.astype(pick(chance, DTYPES))
    elif what == 4 and x.dtype.kind in "iu" and x.size:
        copy = x.copy()
        copy.reshape(-1)[int(chance.integers(x.size))] = np.array(pick(chance, NUMBERS)).astype(x.dtype)
        operands[at] = copy
    elif what == 5:
        operands[at] = None if chance.random() < 0.5 else operands[int(chance.integers(len(operands)))]
    else:
        operands[at] = _reshaped(x, chance)


def _other(value: Attribute, chance: Generator) -> Any:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return pick(chance, NUMBERS)
    if isinstance(value, float):
        return pick(chance, (0.0, 1.0, -1.0, 0.5))
    if isinstance(value, str):
        return pick(chance, ("", "none", "add", "f32", "i4", "reflect", "nonsense"))
    return tuple(int(n) for n in chance.integers(-1, 4, int(chance.integers(5))))


def _reshaped(x: Array, chance: Generator) -> Array:
    """An array of another rank, or with another extent."""
    shape = list(x.shape)
    what = chance.integers(3)
    if what == 0 and shape:
        del shape[int(chance.integers(len(shape)))]
    elif what == 1 and len(shape) < 5:
        shape.insert(int(chance.integers(len(shape) + 1)), pick(chance, (1, 2)))
    elif shape:
        shape[int(chance.integers(len(shape)))] = pick(chance, EXTENTS)
    return np.resize(x, shape) if x.size else np.zeros(shape, x.dtype)
