"""What passes know of a machine. Implemented by `pimc.backends`; passes see nothing else of it."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol

from pimc.ir.facts import Tile
from pimc.ir.graph import Graph, Node, Value
from pimc.ir.memory import Home
from pimc.ir.op import Attribute
from pimc.ir.types import TensorType
from pimc.record import record

MOST_HELD = 90
"""Percent of the buffer that weights which are held may take; the rest is for all that comes and goes."""


@record
class Engine:
    """A unit that can execute ops: its name in the target and its kind (npu, pim, pnm)."""

    name: str
    kind: str


class Target(Protocol):
    """A machine, as passes see it."""

    @property
    def name(self) -> str: ...

    @property
    def devices(self) -> int:
        """How many devices the system has."""
        ...

    def turns(self, stages: int, group: int) -> int:
        """How many pipeline stages take turns on one group of devices, if there are so many stages."""
        ...

    @property
    def cuts_graphs(self) -> bool:
        """Whether a model is spread over devices by cutting its graph; else the machine does it when it emits."""
        ...

    @property
    def request_channels(self) -> int:
        """Among how many memory channels requests are shared out, where keys and values of each stay in one; else 0."""
        ...

    @property
    def queues(self) -> frozenset[str]:
        """The queues that engines have beside their own (`pimc.ir.facts.Queue`)."""
        ...

    @property
    def takes_turns(self) -> bool:
        """Whether PIM and the other engines' memory traffic exclude each other."""
        ...

    @property
    def buffer_bytes(self) -> int:
        """The size of the on-chip buffer."""
        ...

    def stored_bytes(self, type: TensorType) -> int:
        """What a tensor takes in memory or on chip, element after element."""
        ...

    def engines(self) -> Sequence[Engine]:
        """The engines that can execute ops, in a fixed order."""
        ...

    def why_not(self, node: Node, engine: Engine) -> str:
        """Why the engine cannot execute the node; empty if it can."""
        ...

    def lying(self, node: Node, engine: Engine) -> Sequence[tuple[Value, Hashable]]:
        """The operands that must lie in an order of the engine's own, and in which: one value has one order at most."""
        ...

    def estimate(self, node: Node, engine: Engine) -> float:
        """Seconds of the node's own commands on an idle machine, moving its operands included."""
        ...

    def about(self, node: Node, engine: Engine) -> float:
        """The same, less exactly, where that is sooner told than by making commands."""
        ...

    def bound(self, node: Node, engine: Engine) -> str:
        """What limits the node on that engine, in a few words with numbers; empty where nothing is known of it."""
        ...

    def may_follow(self, node: Node, product: Node) -> bool:
        """Whether a node can be computed on tiles of the placed product that it reads (`Epilogue`)."""
        ...

    def may_precede(self, node: Node, product: Node) -> bool:
        """Whether a node that makes the left operand of a placed product can be computed on its tiles (`Prologue`)."""
        ...

    def gains_by_preceding(self, before: Sequence[Node], chain: Sequence[Node], keeps: bool) -> bool:
        """Whether nodes that make the left operand of a product take less time on tiles of it than by themselves.

        chain: the product and what follows it on its tiles. keeps: whether others read the operand, too.
        """
        ...

    def gains_by_following(self, chain: Sequence[Node], kept: Sequence[bool], instead: int = 0) -> bool:
        """Whether a product and what may follow it take less time on its tiles than where the first `instead` of them
        follow, and the others one after the other.

        kept: for each node, whether others read the value that it goes on with.
        """
        ...

    def gains_by_joining(self, joined: Sequence[Node], apart: Sequence[Node]) -> bool:
        """Whether two products take no longer with their tiles side by side (`Epilogue`) than one after the other.

        Both are the same nodes, with the facts that they would have.
        """
        ...

    def tile(
        self, node: Node, engine: Engine, homes: Mapping[Value, Home], chain: Sequence[Node] = ()
    ) -> Tile | None:
        """How the engine cuts a contraction whose values lie at `homes`; None for nodes that are not cut.

        chain: the node and those around it that are computed on its tiles.
        """
        ...

    def shared_tiles(self, node: Node, engine: Engine) -> Sequence[Tile]:
        """Tiles in which what the engine opens of a weight meets several vectors; they ask for another layout of it."""
        ...

    def homes(self, graph: Graph) -> Mapping[Value, Home]:
        """A place for every value of a placed graph; raises CompileError (CAPACITY) where the machine is too small."""
        ...

    def emit(self, graph: Graph, dims: Mapping[str, int]) -> object:
        """The program of a graph whose values have homes."""
        ...

    def pass_options(self) -> Mapping[str, Mapping[str, Attribute]]:
        """Default options of passes that the target's description asks for."""
        ...
