"""How much of a product the banks work on at a time."""

from __future__ import annotations

from pimc.backends.pim.cells import CELL_BYTES
from pimc.backends.target import TargetSpec
from pimc.ir.facts import Tile, Work
from pimc.ir.graph import Node


def tile_of(node: Node, spec: TargetSpec) -> Tile | None:
    """One activation: a row of every bank that takes part times one vector (all of a device's banks for a weight, those
    of one channel for keys and values), at most a row of elements deep. None before the node's work is known."""
    work = node.fact(Work)
    if work is None or not work.k:
        return None
    channels = spec.dram.channels if node.op.name in ("matmul", "expert_matmul") else 1
    columns = min(work.n, spec.dram.banks * channels)
    depth = min(work.k, spec.dram.row_bytes // CELL_BYTES)
    count = work.count * work.m * -(-work.n // columns) * -(-work.k // depth)
    return Tile(1, columns, depth, count)
