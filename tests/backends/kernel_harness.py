"""Lowers single nodes onto places chosen by a test, executes the commands on a state, and compares with the reference.

A place is described by a word: "dram", "buffer" (dense there), or an odd view of one of those: "dram:padded" (rows with
a gap behind them), "dram:turned" (stored with dimensions in reverse), "dram:digits" (the last dimension cut in two
digits that lie apart), "dram:cache" (a place larger than the tensor).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np

import pimc.backends.npu.lower
import pimc.backends.pnm.lower  # noqa: F401  (registers the rules)
from pimc.backends.emitter import Emitter, Scratch
from pimc.backends.lowering import RULES, Lowering, Tensor
from pimc.backends.program import Item, count, steps, unrolled
from pimc.backends.state import DeviceState, DramGeometry, Space, ValueFormat
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.layout import Layout
from pimc.ir.op import Array, Attribute, lookup
from pimc.ir.types import DType, TensorType

DRAM_BYTES = 1 << 24
BUFFER_BYTES = 1 << 21


@dataclass
class Machine:
    """Places are handed out from the start of each space; scratch lies at the end of the buffer."""

    spec: TargetSpec
    kind: str
    scratch_bytes: int = 1 << 16
    wide: bool = True
    free: dict[str, int] = field(default_factory=lambda: {"dram": 256, "buffer": 0})

    def __post_init__(self) -> None:
        form = ValueFormat(self.wide)
        acc = self.spec.npu.accumulator_bytes if self.spec.npu else 64
        sizes = {"dram": DRAM_BYTES, "buffer": BUFFER_BYTES, "acc": min(acc, 1 << 20)}
        self.state = DeviceState(
            0, {name: Space(name, size, form) for name, size in sizes.items()}, form, DramGeometry(4, 4, 512, 2048)
        )

    def place(self, shape: Sequence[int], dtype: DType, where: str) -> Tensor:
        space, _, view = where.partition(":")
        stored = DType.F16 if dtype.is_float else dtype
        size = stored.bits // 8
        layout = _VIEWS[view](tuple(shape), size)
        start = -(-self.free[space] // 64) * 64
        low, high = layout.span(size)
        self.free[space] = start + max(high - low, size)
        return Tensor(space, layout.moved(start - low), stored)

    def write(self, tensor: Tensor, values: Array) -> None:
        layout = tensor.layout
        if layout.shape != values.shape:  # a larger place: only its first elements are given
            whole = np.zeros(layout.shape, values.dtype)
            whole[tuple(slice(0, n) for n in values.shape)] = values
            values = whole
        self.state.spaces[tensor.space].write_layout(layout, tensor.dtype, values)

    def read(self, tensor: Tensor, shape: Sequence[int]) -> Array:
        whole = self.state.spaces[tensor.space].read_layout(tensor.layout, tensor.dtype)
        return whole[tuple(slice(0, n) for n in shape)]


def _padded(shape: tuple[int, ...], size: int) -> Layout:
    if not shape:
        return Layout.dense(shape, size)
    wider = Layout.dense((*shape[:-1], shape[-1] + 3), size)
    cut = wider.sliced(len(shape) - 1, 0, shape[-1])
    assert cut is not None
    return cut


def _turned(shape: tuple[int, ...], size: int) -> Layout:
    return Layout.dense(shape[::-1], size).permuted(range(len(shape))[::-1])


def _digits(shape: tuple[int, ...], size: int) -> Layout:
    """The last even dimension as (n/2 digits far apart, 2 digits near), the far one innermost in memory."""
    dims = list(Layout.dense(shape, size).dims)
    for i, extent in enumerate(shape):
        if extent % 2 == 0 and extent > 2:
            stride = dims[i][0][1]
            dims[i] = ((extent // 2, stride), (2, stride * (extent // 2)))
    return Layout(0, tuple(dims))


def _cache(shape: tuple[int, ...], size: int) -> Layout:
    """Every dimension rounded up to a multiple of 4, the last but one in two digits."""
    larger = tuple(-(-n // 4) * 4 for n in shape)
    dims = list(Layout.dense(larger, size).dims)
    if len(dims) > 1:
        (count_, stride), *_ = dims[-2]
        dims[-2] = ((count_ // 4, stride), (4, stride * (count_ // 4)))
    return Layout(0, tuple(dims))


_VIEWS: Mapping[str, Callable[[tuple[int, ...], int], Layout]] = {
    "": Layout.dense, "padded": _padded, "turned": _turned, "digits": _digits, "cache": _cache
}  # fmt: skip


@dataclass
class Outcome:
    items: tuple[Item, ...]
    results: list[Array]
    expected: tuple[Array, ...]

    @property
    def commands(self) -> int:
        return len(list(steps(self.items)))

    @property
    def executed(self) -> int:
        return count(self.items)


def node_of(op: str, arrays: Sequence[Array | None], attributes: Mapping[str, Attribute], known: Sequence[int]) -> Node:
    """A graph of one node; operands in `known` are constants."""
    rewriter = Rewriter(Graph("test"))
    operands: list[Value | None] = []
    for i, array in enumerate(arrays):
        if array is None:
            operands.append(None)
        elif i in known:
            operands.append(rewriter.constant(f"x{i}", array))
        else:
            operands.append(rewriter.input(f"x{i}", TensorType(DType.of(array), array.shape)))
    return rewriter.add(lookup(op), operands, attributes)


def run(
    machine: Machine,
    op: str,
    arrays: Sequence[Array | None],
    attributes: Mapping[str, Attribute] | None = None,
    places: Sequence[str] | str = "dram",
    result_place: str = "dram",
    known: Sequence[int] = (),
    same: Mapping[int, int] | None = None,
) -> Outcome:
    """Lower and execute one node. `same` maps an operand to the result whose first address it shares."""
    node = node_of(op, arrays, attributes or {}, known)
    words = [places] * len(arrays) if isinstance(places, str) else list(places)
    at_places: dict[Value, Tensor] = {}
    for result in node.results:
        at_places[result] = machine.place(result.type.static_shape, result.type.dtype, result_place)
        stale = np.nan if result.type.dtype.is_float else 1
        machine.write(at_places[result], np.full(result.type.static_shape, stale, result.type.dtype.numpy))
    for i, (value, array) in enumerate(zip(node.operands, arrays, strict=False)):
        if value is None or array is None or value in at_places:
            continue
        if same and i in same:
            whole = at_places[node.results[same[i]]]
            at_places[value] = Tensor(whole.space, whole.layout, whole.dtype)
        else:
            at_places[value] = machine.place(array.shape, value.type.dtype, words[i])
        machine.write(at_places[value], array)
    emit = Emitter()
    base = BUFFER_BYTES - machine.scratch_bytes
    assert machine.free["buffer"] <= base
    at = Lowering(machine.spec, emit, Scratch(base, machine.scratch_bytes), at_places)
    RULES[machine.kind, op](node, at)
    items = emit.take()
    for step in unrolled(items):
        list(step.command.regions())
        step.command.execute(machine.state)
    results = [machine.read(at_places[v], v.type.static_shape) for v in node.results]
    return Outcome(items, results, node.op.evaluate(list(arrays), dict(node.attributes)))


def check(outcome: Outcome, tolerance: float = 2e-5) -> None:
    """Every result equals its reference: floats within `tolerance` of the largest value, the rest exactly."""
    for got, want in zip(outcome.results, outcome.expected, strict=True):
        assert got.shape == want.shape
        if want.dtype.kind in "iub":
            np.testing.assert_array_equal(got, want)
            continue
        finite = np.isfinite(want)
        np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
        np.testing.assert_array_equal(got[~finite & ~np.isnan(want)], want[~finite & ~np.isnan(want)])
        scale = max(1e-6, float(np.max(np.abs(want[finite]), initial=0)))
        assert float(np.max(np.abs(got[finite] - want[finite]), initial=0)) <= tolerance * scale


def floats(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    generator = np.random.default_rng([seed, *shape])
    return (generator.standard_normal(shape) * scale).astype(np.float32)


def integers(*shape: int, low: int = 0, high: int = 10, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape, np.int64)


@cache
def machine_spec(kind: str) -> TargetSpec:
    """A target with engines of a kind, its accumulators small."""
    small = ["npu.accumulator_bytes=64KiB"] if kind == "npu" else []
    return load_target({"npu": "npu", "pnm": "cent"}[kind], small)


def machine(kind: str, scratch_bytes: int = 1 << 16, *, wide: bool = True) -> Machine:
    return Machine(machine_spec(kind), kind, scratch_bytes, wide)
