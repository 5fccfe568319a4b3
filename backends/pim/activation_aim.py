"""Activation functions on GDDR6-AiM: values become biases of accumulators, which AF looks up in every bank."""

from __future__ import annotations

from math import prod

from pimc.backends.dma.copy import issue_copy
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import SLOTS, dense_strides, nests, tilings, walk
from pimc.backends.kernels.places import given, place
from pimc.backends.lowering import Lowering
from pimc.backends.pim.aim_isa import Activate, ReadActivated, WriteBias
from pimc.backends.pim.aim_transfer import clear
from pimc.backends.pim.cells import CELL_BYTES, COLUMN_BYTES, LANES
from pimc.backends.target import TargetSpec
from pimc.ir.facts import Ragged
from pimc.ir.graph import Node

TABLES = {"silu": "silu", "sigmoid": "sigmoid", "tanh": "tanh", "gelu": "gelu"}
"""The table of each op."""


def why_not(node: Node, spec: TargetSpec) -> str:
    """Why the banks cannot look an op up; empty if they can."""
    x = given(node, 0).type
    if spec.pim is None or spec.pim.style != "aim" or spec.dma is None or spec.dram.banks != LANES:
        return "they have no tables, or no way to bring values there"
    if node.op.name == "gelu" and node.attribute("approximate") != "tanh":
        return "their table is the approximation by tanh"
    if not x.dtype.is_float or not x.elements or node.fact(Ragged) is not None:
        return "there is nothing to look up"
    return ""


def lower_activation(node: Node, at: Lowering) -> None:
    """As many values at a time as there are accumulators over all banks."""
    spec = at.spec
    assert spec.pim is not None
    x, y = place(at, given(node, 0)), place(at, node.result)
    unit, mask = spec.dram.channels * LANES, (1 << spec.dram.channels) - 1
    function, dtype, share = TABLES[node.op.name], x.dtype, spec.dram.channels
    for nest in nests([x.layout, y.layout], node.result.type.static_shape):
        nest = nest.merged()
        size = padded(min(spec.pim.accumulators * unit, -(-nest.elements // unit) * unit) * CELL_BYTES)
        arena = Arena(at, SLOTS * size)
        limit = min(spec.pim.accumulators, arena.left // SLOTS // (unit * CELL_BYTES)) * unit
        held = [arena.take(min(size, limit * CELL_BYTES)) for _ in range(SLOTS)]
        for tiling in tilings(nest, limit):
            counts = [a.count for a in tiling.tile]
            far, near = ([a.strides[i] for a in tiling.tile] for i in range(2))
            dense, elements = dense_strides(counts, CELL_BYTES), prod(counts)
            registers = -(-elements // unit)
            for starts, slot in walk(at.emit, tiling.outer, SLOTS):
                here = held[slot]
                if elements % LANES:  # what lies behind is looked up too: it must be a number
                    clear(at, here + elements // LANES * COLUMN_BYTES, 1, dtype)
                issue_copy(at.emit, (x.space, "buffer"), starts[0], here, dtype, counts, far, dense)
                with at.emit.loop(registers) as r:
                    address = here + r * (unit * CELL_BYTES)
                    at.emit.issue("pim", WriteBias(r, mask, "no", address, 0, share, dtype))
                with at.emit.loop(registers) as r:
                    at.emit.issue("pim", Activate(function, mask, r, dtype))
                    address = here + r * (unit * CELL_BYTES)
                    at.emit.issue("pim", ReadActivated(mask, address, 0, share, dtype))
                issue_copy(at.emit, ("buffer", y.space), here, starts[1], dtype, counts, dense, near)
