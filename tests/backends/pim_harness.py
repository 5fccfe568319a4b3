"""Lowers PIM products onto a small machine, executes the commands one after another, and compares with the reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

import pimc.backends.pim.lower  # noqa: F401  (registers the rules)
from pimc.backends.affine import DEVICE, INSTANCE
from pimc.backends.emitter import Emitter, Scratch
from pimc.backends.lowering import RULES, Lowering, Tensor
from pimc.backends.pim.layouts import bank_layout, staging_rows
from pimc.backends.program import Item, count, steps, unrolled
from pimc.backends.state import DeviceState, Space, ValueFormat
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.layout import Layout
from pimc.ir.op import Array, Attribute, lookup
from pimc.ir.types import DType, TensorType

BUFFER_BYTES = 1 << 22
KINDS = {"matmul": "weight", "attention_scores": "key", "attention_context": "value"}


@cache
def small(name: str, channels: int, rows: int = 512) -> TargetSpec:
    return load_target(name, [f"dram.channels={channels}", f"dram.rows={rows}"])


def new_state(spec: TargetSpec, *, wide: bool = True, buffer_bytes: int = BUFFER_BYTES) -> DeviceState:
    form = ValueFormat(wide)
    spaces = {"dram": Space("dram", spec.dram.bytes, form), "buffer": Space("buffer", buffer_bytes, form)}
    return DeviceState(0, spaces, form, spec.dram.geometry)


def execute(state: DeviceState, items: Sequence[Item]) -> None:
    """Run in program order; commands of PIM once for each channel that takes them."""
    for step in unrolled(tuple(items), {DEVICE: 0, INSTANCE: 0}):
        list(step.command.regions())
    for step in _instances(state, items):
        step.execute(state)


def _instances(state, items):  # type: ignore[no-untyped-def]
    style = "INSTANCE"
    assert style
    for step in _open(items, {}):
        command, env, engine, instances = step
        if engine == "pim" and instances is not None:
            channels = instances
        elif engine == "pim" and type(command).__module__.endswith("newton_isa"):
            channels = tuple(range(state.geometry.channels))
        else:
            channels = (0,)
        for channel in channels:
            state.channel = channel
            yield command.resolved({**env, INSTANCE: channel, DEVICE: 0})


def _open(items, env):  # type: ignore[no-untyped-def]
    for item in items:
        if hasattr(item, "body"):
            for i in range(item.count):
                yield from _open(item.body, {**env, item.variable: i})
        else:
            yield item.command, env, item.engine, item.instances


@dataclass
class Outcome:
    items: tuple[Item, ...]
    got: Array
    want: Array

    @property
    def written(self) -> int:
        """Commands as written."""
        return len(list(steps(self.items)))

    @property
    def executed(self) -> int:
        return count(self.items)

    @property
    def error(self) -> float:
        return float(np.max(np.abs(self.got - self.want)) / np.max(np.abs(self.want)))


def lower(
    spec: TargetSpec, op: str, shapes: Sequence[tuple[int, ...]], places: Mapping[Value, Tensor] | None = None,
    attributes: Mapping[str, Attribute] | None = None, **chosen: object,
) -> tuple[Node, Lowering, tuple[Item, ...]]:  # fmt: skip
    """Lower an op whose second operand lies in the banks; returns the node, its places and the commands."""
    rewriter = Rewriter(Graph("test"))
    x = rewriter.input("x", TensorType(DType.F32, shapes[0]))
    w = rewriter.input("w", TensorType(DType.F32, shapes[1]), role=Role.CACHE)
    node = rewriter.add(lookup(op), [x, w], attributes or {})
    at = place(spec, node, op, **chosen)  # type: ignore[arg-type]
    RULES["pim", op](node, at)
    return node, at, at.emit.take()


def place(
    spec: TargetSpec, node: Node, op: str, *, x_place: str = "buffer", y_place: str = "buffer", scratch: int = 1 << 18,
    turned: bool = False, buffer_bytes: int = BUFFER_BYTES,
) -> Lowering:  # fmt: skip
    """First the rows of the right operand, then staging, then what else is in DRAM."""
    x, w = node.inputs()
    row = 1
    layout, taken = bank_layout(spec, KINDS[op], row, w.type.static_shape)
    staging = row + taken
    free = {"dram": (staging + staging_rows(spec)) * spec.dram.geometry.stride_row, "buffer": 0}
    storage = spec.storage_dtype
    places = {w: Tensor("dram", layout, storage)}
    for value, where in ((x, x_place), (node.result, y_place)):
        shape = value.type.static_shape
        if turned and value is x and len(shape) == 4:  # as a transpose of [B, S, H, X] leaves it
            dense = Layout.dense((shape[0], shape[2], shape[1], shape[3]), 2, free[where]).permuted((0, 2, 1, 3))
        else:
            dense = Layout.dense(shape, 2, free[where])
        places[value] = Tensor(where, dense, storage)
        free[where] += -(-dense.elements * 2 // 64) * 64
    base = buffer_bytes - scratch
    assert free["buffer"] <= base
    return Lowering(spec, Emitter(), Scratch(base, scratch), places, staging * spec.dram.geometry.stride_row)


def run(
    spec: TargetSpec, op: str, shapes: Sequence[tuple[int, ...]], attributes: Mapping[str, Attribute] | None = None,
    *, wide: bool = True, **chosen: object,
) -> Outcome:  # fmt: skip
    """Lower and execute on random values; NaNs fill all of the buffer that nobody has written."""
    node, at, items = lower(spec, op, shapes, None, attributes, **chosen)
    state = new_state(spec, wide=wide)
    buffer = state.spaces["buffer"]
    buffer.write(0, ((BUFFER_BYTES // 2, 2),), spec.storage_dtype, np.float32(np.nan))
    arrays = []
    for number, value in enumerate(node.inputs()):
        generator = np.random.default_rng([number, *value.type.static_shape])
        array = generator.standard_normal(value.type.static_shape).astype(np.float32)
        array = array.astype(spec.storage_dtype.numpy).astype(np.float32)
        arrays.append(array)
        home = at.tensor(value)
        state.spaces[home.space].write_layout(home.layout, home.dtype, array)
    execute(state, items)
    result = at.tensor(node.result)
    got = state.spaces[result.space].read_layout(result.layout, result.dtype)
    (want,) = node.op.evaluate(arrays, dict(node.attributes))
    return Outcome(items, got, want)
