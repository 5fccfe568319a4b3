"""Lowers PIM products onto a small machine, executes the commands in order, and compares with the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

import pimc.backends.pim.lower  # noqa: F401  (registers the rules)
from pimc.backends.affine import DEVICE, INSTANCE
from pimc.backends.emitter import Emitter, Scratch
from pimc.backends.isa import Command
from pimc.backends.lowering import RULES, Lowering, Tensor
from pimc.backends.pim.layouts import bank_layout, staging_rows
from pimc.backends.pim.newton_isa import NewtonCommand
from pimc.backends.program import Item, Loop, count, steps
from pimc.backends.state import DeviceState, Space, ValueFormat
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.ir.graph import Graph, Node, Rewriter, Role, Value
from pimc.ir.layout import Layout
from pimc.ir.op import Array, Attribute, lookup
from pimc.ir.types import DType, TensorType

BUFFER_BYTES = 1 << 21
KINDS = {"matmul": "weight", "attention_scores": "key", "attention_context": "value"}


@cache
def small(name: str, channels: int, rows: int = 256) -> TargetSpec:
    """A target with few channels."""
    return load_target(name, [f"dram.channels={channels}", f"dram.rows={rows}"])


def new_state(spec: TargetSpec, *, wide: bool = True) -> DeviceState:
    """Memories in which nothing but NaN is in the buffer, so that reading what nobody wrote shows."""
    form = ValueFormat(wide)
    spaces = {"dram": Space("dram", spec.dram.bytes, form), "buffer": Space("buffer", BUFFER_BYTES, form)}
    spaces["buffer"].write(0, ((BUFFER_BYTES // 2, 2),), spec.storage_dtype, np.full(1, np.nan, np.float32))
    return DeviceState(0, spaces, form, spec.dram.geometry)


def execute(state: DeviceState, items: Sequence[Item]) -> None:
    """Run in program order; commands of a channel's stream once for each channel that takes them."""
    for command, channel in executions(items, state.geometry.channels):
        state.channel = channel
        list(command.regions())
        command.execute(state)


def executions(items: Sequence[Item], channels: int) -> Iterator[tuple[Command, int]]:
    """Every command as executed, and by which channel."""
    for step, variables in _unrolled(items, {}):
        takers: Sequence[int] = (0,)
        if isinstance(step[0], NewtonCommand):
            takers = range(channels) if step[1] is None else step[1]
        for channel in takers:
            yield step[0].resolved({**variables, INSTANCE: channel, DEVICE: 0}), channel


def _unrolled(
    items: Sequence[Item], variables: dict[int, int]
) -> Iterator[tuple[tuple[Command, tuple[int, ...] | None], dict[int, int]]]:
    for item in items:
        if isinstance(item, Loop):
            for i in range(item.count):
                yield from _unrolled(item.body, {**variables, item.variable: i})
        else:
            yield (item.command, item.instances), variables


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
        assert self.got.shape == self.want.shape
        return float(np.max(np.abs(self.got - self.want)) / np.max(np.abs(self.want)))


@dataclass(frozen=True)
class Setting:
    """Where operand and result lie, and how much scratch there is."""

    source: str = "buffer"
    target: str = "buffer"
    turned: bool = False
    """[B, H, S, X] operands lie as [B, S, H, X], as a transpose leaves them"""
    scratch: int = 1 << 18
    buffer_bytes: int = BUFFER_BYTES


def node_of(op: str, shapes: Sequence[tuple[int, ...]], attributes: Mapping[str, Attribute] | None = None) -> Node:
    rewriter = Rewriter(Graph("test"))
    x = rewriter.input("x", TensorType(DType.F32, shapes[0]))
    w = rewriter.input("w", TensorType(DType.F32, shapes[1]), role=Role.CACHE)
    return rewriter.add(lookup(op), [x, w], attributes or {})


def lower(spec: TargetSpec, node: Node, setting: Setting) -> tuple[Lowering, tuple[Item, ...]]:
    """Lower a product. In DRAM lie first the rows of the right operand, then staging rows, then the rest."""
    x, w = node.inputs()
    layout, taken = bank_layout(spec, KINDS[node.op.name], 1, w.type.static_shape)
    staging = 1 + taken
    free = {"dram": (staging + staging_rows(spec)) * spec.dram.geometry.stride_row, "buffer": 0}
    places: dict[Value, Tensor] = {w: Tensor("dram", layout, spec.storage_dtype)}
    for value, where in ((x, setting.source), (node.result, setting.target)):
        shape = value.type.static_shape
        dense = Layout.dense(shape, 2, free[where])
        if setting.turned and len(shape) == 4:
            dense = Layout.dense([shape[i] for i in (0, 2, 1, 3)], 2, free[where]).permuted((0, 2, 1, 3))
        places[value] = Tensor(where, dense, spec.storage_dtype)
        free[where] += -(-dense.elements * 2 // 64) * 64
    base = setting.buffer_bytes - setting.scratch
    assert free["buffer"] <= base
    at = Lowering(spec, Emitter(), Scratch(base, setting.scratch), places, staging * spec.dram.geometry.stride_row)
    RULES["pim", node.op.name](node, at)
    return at, at.emit.take()


def run(
    spec: TargetSpec,
    op: str,
    shapes: Sequence[tuple[int, ...]],
    attributes: Mapping[str, Attribute] | None = None,
    setting: Setting | None = None,
    *,
    wide: bool = True,
) -> Outcome:
    """Lower and execute on random values."""
    node = node_of(op, shapes, attributes)
    at, items = lower(spec, node, setting or Setting())
    state = new_state(spec, wide=wide)
    arrays = []
    for number, value in enumerate(node.inputs()):
        array = floats(*value.type.static_shape, seed=number).astype(spec.storage_dtype.numpy).astype(np.float32)
        arrays.append(array)
        home = at.tensor(value)
        state.spaces[home.space].write_layout(home.layout, home.dtype, array)
    execute(state, items)
    result = at.tensor(node.result)
    got = state.spaces[result.space].read_layout(result.layout, result.dtype)
    (want,) = node.op.evaluate(arrays, dict(node.attributes))
    return Outcome(items, got, want)


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape).astype(np.float32)
