"""What a lowering rule works with, and how rules are registered.

A rule turns one placed node into commands:

    @lowers("npu", "matmul")
    def lower_matmul(node: Node, at: Lowering) -> None: ...

It finds its operands through `at.tensor(value)` (space, layout, element type), takes short-lived buffers from
`at.scratch`, and issues commands through `at.emit`. Rules are written as if commands ran one after another.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pimc.backends.emitter import Emitter, Scratch
from pimc.backends.target import TargetSpec
from pimc.ir.facts import Tile
from pimc.ir.graph import Node, Value
from pimc.ir.memory import Home
from pimc.record import record

Tensor = Home
"""A value's place, as lowering rules see it."""


@record
class Cut:
    """How a contraction is cut, and what that is estimated to take, in seconds."""

    tile: Tile | None
    """None: a way without one"""
    seconds: float
    memory: float
    """of the transfers alone"""
    computing: float
    """of arrays and vector unit alone, one after the other"""
    limit: str
    """which bound holds, in words"""


@record
class Lowering:
    """Everything that a rule may use."""

    spec: TargetSpec
    emit: Emitter
    scratch: Scratch
    """Short-lived bytes in the space `buffer`."""
    places: Mapping[Value, Tensor]
    staging: int = 0
    """The first byte of the DRAM rows through which operands reach PIM."""
    stage: int = 0
    """The pipeline stage whose devices execute this."""
    ranks: int = 1
    """Devices of one stage."""
    tile: Tile | None = None
    """The largest tile of the node that is lowered, where a pass has chosen one."""
    told: Callable[[Cut], None] | None = None
    """Told how each contraction is cut."""
    marked: bool = False
    """Vectors on their way into PIM are taken to be where it reads them."""
    rehearsed: bool = False
    """Nothing comes of it but what `told` is: commands need not be issued."""
    accumulators: Scratch | None = None
    """Of the arrays: those of ops that follow each other lie apart, so that no op need wait for another's to leave."""

    def tensor(self, value: Value) -> Tensor:
        return self.places[value]


Rule = Callable[[Node, Lowering], None]
ChainRule = Callable[[Sequence[Node], Node, Sequence[Node], Lowering], int | None]
"""Lowers nodes that make a product's left operand, the product, and what follows it, tile by tile.

Gives how many of the followers are done, perhaps the first of them alone; None, and nothing is done, where that cannot
be.
"""

RULES: dict[tuple[str, str], Rule] = {}
"""Lowering rules by kind of engine and op name."""
CHAIN_RULES: dict[tuple[str, str], ChainRule] = {}
"""The same for chains, by their first op."""


def lowers(kind: str, *ops: str) -> Callable[[Rule], Rule]:
    """Register a rule for ops on engines of a kind (npu, pim, pnm)."""

    def register(rule: Rule) -> Rule:
        for name in ops:
            if (kind, name) in RULES:
                raise ValueError(f"{name} on {kind} has two lowering rules")
            RULES[kind, name] = rule
        return rule

    return register
