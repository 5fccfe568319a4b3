"""How much of a product the banks work on at a time."""

from __future__ import annotations

from math import prod

from pimc.backends.pim.cells import CELL_BYTES, LANES
from pimc.backends.pim.mapping import rules_of
from pimc.backends.target import TargetSpec
from pimc.ir.facts import Tile, Work
from pimc.ir.graph import Node

SLOTS = (2, 4, 8)
"""Outputs that may share a row."""


def tile_of(node: Node, spec: TargetSpec) -> Tile | None:
    """One activation: a row of every bank that takes part times one vector (all of a device's banks for a weight, those
    of one channel for keys and values), at most a row of elements deep. None before the node's work is known."""
    work = node.fact(Work)
    return None if work is None or not work.k else _cut(node, work, spec, 1, 1)


def shared_tiles(node: Node, spec: TargetSpec) -> tuple[Tile, ...]:
    """Other tiles of a product with a weight: an opened row has parts of several outputs, and meets several vectors,
    which share the global buffer. There are accumulators for each output and vector."""
    work = node.fact(Work)
    if work is None or node.op.name != "matmul" or rules_of(spec) != "aim":
        return ()
    assert spec.pim is not None
    vectors, found = prod(node.result.type.static_shape[:-1]), []
    for slots in SLOTS:
        together = min(slots, vectors, spec.pim.accumulators // slots)
        if together > 1 and row_elements(spec) // slots % LANES == 0 and work.n > spec.dram.banks:
            found.append(_cut(node, work, spec, together, slots))
    return tuple(found)


def slots_of(node: Node, spec: TargetSpec) -> int:
    """How many outputs share a row of the node's weight, by its tile."""
    tile = node.fact(Tile)
    return row_elements(spec) // tile.k if tile is not None and tile.m > 1 else 1


def row_elements(spec: TargetSpec) -> int:
    return spec.dram.row_bytes // CELL_BYTES


def _cut(node: Node, work: Work, spec: TargetSpec, vectors: int, slots: int) -> Tile:
    channels = spec.dram.channels if node.op.name in ("matmul", "expert_matmul") else 1
    columns = min(work.n, spec.dram.banks * channels * slots)
    depth = row_elements(spec) // slots
    depth = depth if slots > 1 else min(work.k, depth)
    count = work.count * -(-work.m // vectors) * -(-work.n // columns) * -(-work.k // depth)
    return Tile(vectors, columns, depth, count)
