"""Remembers how nodes were lowered, for graphs that differ in little (the same model at many positions)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field

from pimc.backends.lowering import Lowering
from pimc.backends.program import Item
from pimc.ir.facts import Epilogue, Placement, Prologue, Tile
from pimc.ir.graph import Node, Value
from pimc.ir.memory import Home

MOST_CONTENTS = 1 << 12
"""Elements of a constant beyond which a node that reads it is lowered anew each time."""
MOST_NODES = 1 << 14
READING_TABLES = frozenset({"dequantize_linear", "quantize_linear", "quantized_matmul"})
"""Ops whose rules look into constants of several floats (are all zero points alike?); others do not."""


@dataclass
class LoweringMemory:
    """Items by all that a lowering rule may look at."""

    known: dict[Hashable, tuple[tuple[Item, ...], int, int, int]] = field(default_factory=dict)

    def lower(
        self, nodes: Sequence[Node], at: Lowering, rule: Callable[[Sequence[Node], Lowering], object]
    ) -> None:
        """Emit nodes that are lowered together by their rule, or as before."""
        key = tuple(_key(node, at) for node in nodes)
        if None in key:
            rule(nodes, at)
            return
        found = self.known.get(key)
        if found is not None:
            items, variable, position, gathered = found
            at.emit.again(items, variable)
            at.scratch.resume(position)
            if at.accumulators is not None:
                at.accumulators.resume(gathered)
            return
        if len(self.known) >= MOST_NODES:
            self.known.clear()
        level = at.emit.level
        rule(nodes, at)
        self.known[key] = at.emit.since(level), at.emit.level[1], at.scratch.position, _gathered(at)


def _gathered(at: Lowering) -> int:
    return 0 if at.accumulators is None else at.accumulators.position


def _key(node: Node, at: Lowering) -> Hashable | None:
    values = [*node.operands, *node.results]
    seen = tuple(None if v is None else seen_by_rules(node, v, at.places) for v in values)
    if any(part is None and v is not None for part, v in zip(seen, values, strict=True)):
        return None
    scratch = at.scratch.base, at.scratch.capacity, at.scratch.position, _gathered(at)
    state = at.emit.op, at.emit.level[1], scratch, at.staging, at.stage, at.ranks
    attributes = tuple(sorted(node.attributes.items()))
    facts = tuple(node.fact(kind) for kind in (Placement, Tile, Epilogue, Prologue))
    return node.op.name, attributes, facts, seen, state


def seen_by_rules(node: Node, value: Value, homes: Mapping[Value, Home]) -> Hashable | None:
    """What matters of a value; None where that is too much."""
    array = value.type.array
    if array is not None and array.size > 1 and value.type.dtype.is_float and node.op.name not in READING_TABLES:
        array = None
    if array is not None and array.size > MOST_CONTENTS:
        return None
    contents = None if array is None else array.tobytes()
    home = homes.get(value)
    return value.type.dtype, value.type.shape, value.role, value.shard, contents, home
