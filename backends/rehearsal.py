"""Lowering for nothing: how contractions would be cut, and what is computed on their tiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from pimc.backends.emission import emitter_for, load_rules, lower, lower_chain, scratch_areas
from pimc.backends.lowering import Cut, Lowering
from pimc.backends.planning import BufferSplit
from pimc.backends.target import TargetSpec
from pimc.ir.chains import together
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.facts import SubBatch, Tile
from pimc.ir.graph import Node, Value
from pimc.ir.memory import Home
from pimc.record import record

_CLEARLY = 2.0
"""What takes so many times as long hides all else, whatever waits for what."""


@record
class Rehearsed:
    """What lowering nodes for nothing tells."""

    on_tiles: int
    """how many are computed on tiles of a product"""
    cuts: tuple[Cut, ...]

    @property
    def limit(self) -> str:
        """What limits the first contraction; empty where there is none."""
        return self.cuts[0].limit if self.cuts else ""

    @property
    def tile(self) -> Tile | None:
        """The largest one, and how many there are in all."""
        tiles = [cut.tile for cut in self.cuts if cut.tile is not None]
        largest = max(tiles, key=lambda t: t.m * t.n * t.k, default=None)
        return None if largest is None else replace(largest, tiles=sum(t.tiles for t in tiles))

    @property
    def seconds(self) -> float:
        """Estimated, of the contractions and what is computed on their tiles alone."""
        return sum(cut.seconds for cut in self.cuts)

    @property
    def hides(self) -> bool:
        """Whether transfers take clearly longer than all that is computed meanwhile."""
        return all(cut.memory >= _CLEARLY * cut.computing for cut in self.cuts)


def rehearse(nodes: Sequence[Node], spec: TargetSpec, homes: Mapping[Value, Home]) -> Rehearsed:
    """Lower nodes that follow each other for nothing."""
    found: list[Cut] = []
    at = _rehearsal(nodes, spec, homes, found.append)
    return Rehearsed(sum(lower_chain(chain, at) for chain in together(nodes)), tuple(found))


def why_too_large(node: Node, spec: TargetSpec, homes: Mapping[Value, Home]) -> str:
    """What a node needs on chip, by itself, and does not have; empty if it fits."""
    try:
        lower(node, _rehearsal([node], spec, homes))
    except CompileError as error:
        if error.diagnostics[0].kind is not Kind.CAPACITY:
            raise
        return error.diagnostics[0].message
    return ""


def _rehearsal(
    nodes: Sequence[Node], spec: TargetSpec, homes: Mapping[Value, Home], told: Callable[[Cut], None] | None = None
) -> Lowering:
    load_rules(spec)
    split = BufferSplit.beside(spec, homes.values())
    areas = scratch_areas(split, {"", "pim", "cache"} if nodes[0].fact(SubBatch) is not None else {""})
    return Lowering(spec, emitter_for(spec, homes), areas[""], homes, told=told, rehearsed=True)
