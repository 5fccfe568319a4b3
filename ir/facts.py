"""What passes find out about a node, as typed facts: phase, nature, placement, layer, device share.

Facts are attached by `Rewriter.set_fact` and verified by type; the text form prints them behind the node.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from fractions import Fraction

from pimc.record import record


class Phase(Enum):
    """The phase of inference a node belongs to."""

    PREFILL = "prefill"
    DECODE = "decode"
    CHUNKED = "chunked"
    ENCODE = "encode"
    MIXED = "mixed"


class Nature(Enum):
    """The shape of a node's work, which decides the engine that suits it."""

    GEMM = "gemm"
    GEMV = "gemv"
    SKINNY_GEMM = "skinny_gemm"
    ELEMENTWISE = "elementwise"
    REDUCTION = "reduction"
    MOVEMENT = "movement"


@record
class Work:
    """The nature of a node with its numbers.

    m, n, k: rows of the moving operand that share one stationary operand, columns, contraction length
    (0 for anything but contractions); count: how many independent products of that size. `why` says what made a vector
    a matrix ("batch of 8 shares the weight", "4 query heads share K and V").
    """

    nature: Nature
    flops: int
    bytes: int
    m: int = 0
    n: int = 0
    k: int = 0
    count: int = 0
    why: str = ""

    @property
    def intensity(self) -> float:
        """Arithmetic intensity, operations per byte."""
        return self.flops / self.bytes if self.bytes else 0.0


@record
class Alternative:
    """What a node would cost on an engine: seconds of work and of moving operands, or why it cannot run there."""

    engine: str
    seconds: float = 0.0
    transfer_seconds: float = 0.0
    illegal: str = ""


@record
class Placement:
    """The engine that runs a node, and why.

    channels: of an engine that has an instance a channel, those that hold the operand and work on it, where the model
    asks for some (empty: as the target likes). seconds: what the engine takes for the node alone, where it was asked.
    """

    engine: str
    reason: str
    alternatives: tuple[Alternative, ...] = ()
    channels: tuple[int, ...] = ()
    seconds: float = 0.0


@record
class Layer:
    """The node is in repetition `index` of structurally identical group `group`."""

    group: int
    index: int


@record
class Stage:
    """The pipeline-parallel stage that executes a node.

    index: the devices that execute it. turn: which of their stages it belongs to, where several take turns on them.
    """

    index: int
    turn: int = 0


@record
class Tile:
    """How a contraction is cut: the largest extents of one tile (rows, columns, contraction), and how many there are.

    Lowering keeps to it: a pass that sets smaller extents gets smaller tiles.
    """

    m: int
    n: int
    k: int
    tiles: int = 0


@record
class Position:
    """When a node's commands are emitted, counted over the whole graph."""

    index: int
    prefetch: bool = True
    """operands may come from memory while what is emitted before is at work"""


@record
class Epilogue:
    """The node is computed on tiles of a product as these leave the accumulators, and follows it in the order.

    stage: its place behind the product, from 1. It may itself be a second product with the same left operand, whose
    tiles come beside those of the first, for ops that read both. keeps: others read the value that it goes on with,
    too, which is brought to its place on the way.
    """

    stage: int
    keeps: bool = False


@record
class Prologue:
    """The node is computed on tiles of the left operand of a product as these are needed, and precedes it in the order.

    stage: its place before the product, from 1, which makes the operand. keeps: others read the operand, too, which is
    brought to its place on the way.
    """

    stage: int
    keeps: bool = False


@record
class SubBatch:
    """The node works for one half of the requests."""

    index: int


@record
class Queue:
    """The node's copies and vector work have a queue of their own, beside that of their engine.

    name: pim (attention in PIM, beside the other sub-batch), cache (new keys and values), link (what devices exchange),
    held (weights that stay on chip).
    """

    name: str


@record
class ReadAs:
    """The cache that the node grows is read by attention, as keys or as values: it lies in memory accordingly.

    kind: key, value.
    """

    kind: str


@record
class Beat:
    """The node belongs to a beat of a schedule: nothing of it begins before all of the beat before is done."""

    index: int
    name: str


@record
class Ragged:
    """Requests (axis 0) of a node differ in the number of key positions that count, which come first.

    lengths: of each request. groups: how many requests are worked on together, each stretch as long as its longest
    one. channels: where each request's keys and values lie, on machines that keep those of a request in one channel.
    """

    lengths: tuple[int, ...]
    groups: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    def stretches(self) -> Iterator[tuple[int, int, int]]:
        """First request, number of requests and longest length of each group."""
        start = 0
        for size in self.groups or (len(self.lengths),):
            yield start, size, max(self.lengths[start : start + size])
            start += size

    @property
    def share(self) -> Fraction:
        """Which part of the key positions count, were all requests as long as the longest."""
        return Fraction(sum(self.lengths), max(self.lengths) * len(self.lengths))


Fact = (
    Phase | Work | Placement | Layer | Stage | Tile | Position | Epilogue | Prologue | SubBatch | Queue | ReadAs
    | Beat | Ragged
)

AFTER_HOMES = (Tile,)
"""Facts that are found out from where values live, which does not depend on them."""
