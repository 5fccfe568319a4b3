"""Caches on their way from the machine that prefills to the machine that decodes: the streams of both ends.

The sending end brings a cache on chip piece by piece and EXPORTs it; the receiving end IMPORTs the pieces and stores
them where its own program wants the cache. The two layouts may differ: pieces are cut so that both are regular in them,
and whatever the other order costs is the time of the copies at either end. With several devices each gets the part of
the cache that it is to hold from a device that has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from math import inf, prod

from pimc.backends.affine import DEVICE, variable
from pimc.backends.dma.copy import issue_copy
from pimc.backends.emission import streams_of
from pimc.backends.emitter import Emitter, Scratch
from pimc.backends.engines import spec_of
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import SLOTS, Nest, Tiling, dense_strides, nests, tilings, walk
from pimc.backends.kernels.places import common_parts, cropped, runs_inside
from pimc.backends.link.isa import Export, Import
from pimc.backends.lowering import Lowering
from pimc.backends.planning import BufferSplit
from pimc.backends.program import Item, MapEntry, OpRow, Program, Stream
from pimc.backends.target import LinkSpec, TargetSpec, describe, target_hash
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.memory import Home
from pimc.record import record

PIECE_BYTES = 256 * 1024
"""The most that is sent at a time. Reading, sending and storing of pieces overlap; a hop is paid once."""

Box = tuple[tuple[int, int], ...]
"""From where to where, in every dimension."""


@record
class Passage:
    """A cache, where it lies in the program that has made it, and where in the one that goes on with it."""

    source: MapEntry
    target: MapEntry
    layer: int = -1

    @property
    def bytes(self) -> int:
        """Of its elements as they are stored, the whole cache once."""
        return prod(self.target.whole_shape) * self.target.dtype.bits // 8

    @property
    def same_order(self) -> bool:
        """Whether elements lie in the same order at both ends, so that nothing but the address changes."""
        first, second = (cropped(e.layout.moved(-e.layout.offset), e.shape) for e in (self.source, self.target))
        return (first, self.source.shard) == (second, self.target.shard)


@record
class Crossing:
    """The link between two machines: that of the one whose port passes less, and the longer of the two hops."""

    link: LinkSpec
    """with the bandwidth of one device's port (or of the part of a device that a stage has)"""
    slower: str
    """the name of the machine whose port it is"""

    @property
    def bandwidth(self) -> int:
        """Bytes a second of a port."""
        assert self.link.bandwidth is not None
        return self.link.bandwidth


def crossing(sender: TargetSpec, receiver: TargetSpec) -> Crossing:
    """What joins two machines."""
    slower = min((receiver, sender), key=_rate)
    latency = max(sender.system.link.latency, receiver.system.link.latency)
    changes = {"bandwidth": slower.system.link_bandwidth, "lanes": None, "latency": latency}
    return Crossing(slower.system.link.model_copy(update=changes), slower.name)


def _rate(spec: TargetSpec) -> float:
    """Bytes of values a second through a port."""
    link = spec.system.link
    if link.transfers == "free":
        return inf
    return spec.system.link_bandwidth * (link.packet.payload / link.packet.bytes if link.packet is not None else 1.0)


def handover(sender: Program, receiver: Program, passages: Sequence[Passage]) -> tuple[Program, Program]:
    """The program that sends caches off, for the machine that has run `sender`, and the one that takes them, for the
    machine that is to run `receiver`.

    Raises CompileError (UNAVAILABLE) where the two store numbers differently, or cannot move anything.
    """
    specs = spec_of(sender), spec_of(receiver)
    _check(specs, passages)
    link = crossing(*specs).link
    ends = [_End(p, _joined(spec, link)) for p, spec in zip((sender, receiver), specs, strict=True)]
    for number, passage in enumerate(passages):
        for message in _messages(passage):
            _pass(ends[0].at(message.sender, number), ends[1].at(message.receiver, number), passage, message)
    return (
        ends[0].program("export", [(p.source, "cache", p) for p in passages]),
        ends[1].program("import", [(p.target, "output", p) for p in passages]),
    )


def _joined(spec: TargetSpec, link: LinkSpec) -> TargetSpec:
    """The machine with the link to the other one in the place of its own."""
    own = link.model_copy(update={"bandwidth": (link.bandwidth or 0) * spec.system.sharing})
    return spec.model_copy(update={"system": spec.system.model_copy(update={"link": own})})


def check_moves_caches(spec: TargetSpec) -> None:
    """Raises CompileError (UNAVAILABLE) for a machine without commands that move a cache."""
    if spec.dma is None or not any(e.kind == "link" for e in spec.engines()):
        raise fail(
            Kind.UNAVAILABLE,
            f"{spec.name} has no commands that move a cache to or from another machine",
            help="take a target with DMA queues and a link (`pimc targets NAME` lists engines)",
        )


def _check(specs: tuple[TargetSpec, TargetSpec], passages: Sequence[Passage]) -> None:
    first, second = specs
    for p in passages:
        if p.source.dtype is not p.target.dtype:
            raise fail(
                Kind.UNAVAILABLE,
                f"{first.name} stores the cache '{p.source.name}' as {p.source.dtype.text}, and {second.name} stores "
                f"'{p.target.name}' as {p.target.dtype.text}",
                help=f"--set prefill:storage={second.storage}, or --set decode:storage={first.storage}",
            )
        if p.source.rows is not None or p.target.rows is not None:
            raise fail(Kind.UNAVAILABLE, "caches of requests with lengths of their own are not sent to another machine")
        if p.source.blocks is not None or p.target.blocks is not None:
            raise fail(
                Kind.UNAVAILABLE,
                f"the cache '{p.source.name}' is paged: blocks are not sent to another machine",
                help="leave paging out for a request on two machines",
            )
        if p.source.whole_shape != p.target.whole_shape:
            raise fail(
                Kind.UNAVAILABLE,
                f"the cache '{p.source.name}' is {list(p.source.whole_shape)}, and '{p.target.name}' is "
                f"{list(p.target.whole_shape)}",
            )


# -- who sends what to whom -------------------------------------------------------------------------------------------


@record
class _Message:
    """A part of a cache, in indices of the whole, that one device has and another one wants."""

    sender: int
    receiver: int
    box: Box


def _messages(passage: Passage) -> Iterator[_Message]:
    """Every device that is to hold a part gets it; devices that hold the same take turns to send it."""
    holders: dict[Box, list[int]] = defaultdict(list)
    for rank in passage.source.devices:
        holders[_box(passage.source, rank)].append(rank)
    for turn, receiver in enumerate(passage.target.devices):
        wanted = _box(passage.target, receiver)
        for held, ranks in holders.items():
            common = tuple((max(a, c), min(b, d)) for (a, b), (c, d) in zip(held, wanted, strict=True))
            if all(low < high for low, high in common):
                yield _Message(ranks[turn % len(ranks)], receiver, common)


def _box(entry: MapEntry, rank: int) -> Box:
    """What a device holds of a tensor."""
    box = [(0, extent) for extent in entry.whole_shape]
    if entry.shard is not None:
        axis, count = entry.shard
        length = entry.shape[axis]
        box[axis] = (rank % count * length, (rank % count + 1) * length)
    return tuple(box)


# -- the streams ------------------------------------------------------------------------------------------------------


@dataclass
class _End:
    """One of the two machines, and what each of its devices does."""

    run: Program
    spec: TargetSpec
    work: dict[int, Lowering] = field(default_factory=dict)

    def at(self, rank: int, op: int) -> Lowering:
        """Where a device's commands for an op go."""
        if rank not in self.work:
            resident = [Home(e.space, e.layout, e.dtype) for e in self.run.memory if e.space == "buffer"]
            split = BufferSplit.beside(self.spec, resident)
            scratch = Scratch(split.resident, split.scratch)
            self.work[rank] = Lowering(self.spec, Emitter(self.spec.engines()), scratch, {})
        found = self.work[rank]
        found.emit.op = op
        return found

    def program(self, op: str, entries: Sequence[tuple[MapEntry, str, Passage]]) -> Program:
        alike: dict[tuple[Item, ...], list[int]] = {}
        for rank in sorted(self.work):
            alike.setdefault(self.work[rank].emit.take(), []).append(rank)
        streams: list[Stream] = []
        for items, ranks in alike.items():
            streams += streams_of(items, tuple(ranks), self.spec)
        return Program(
            graph=self.run.graph,
            dims=self.run.dims,
            phase="transfer",
            target=describe(self.spec),
            target_name=self.run.target_name,
            target_hash=target_hash(self.spec),
            devices=self.run.devices,
            streams=tuple(streams),
            memory=tuple(replace(e, role=role, alias=None, contents=None) for e, role, _ in entries),
            ops=tuple(_row(op, e, p) for e, _, p in entries),
            outputs=tuple(e.name for e, role, _ in entries if role == "output"),
            extent=self.run.extent,
        )


def _row(op: str, entry: MapEntry, passage: Passage) -> OpRow:
    return OpRow(
        name=entry.name,
        op=op,
        source="",
        passes=(),
        phase="transfer",
        nature="movement",
        engine="link",
        reason="the machine that decodes is another one than the machine that prefills",
        flops=0,
        bytes=passage.bytes,
        layer=passage.layer,
    )


def _pass(sender: Lowering, receiver: Lowering, passage: Passage, message: _Message) -> None:
    """One device's part of a cache, cut alike at both ends."""
    source, target = (Home(e.space, e.layout, e.dtype) for e in (passage.source, passage.target))
    ranges = [_within(e, message.box) for e in (passage.source, passage.target)]
    size = source.element_bytes
    for read, written, shape in common_parts(source, target, *ranges):
        for nest in nests([read.layout, written.layout], shape):
            whole = runs_inside(nest.merged(), size)
            most = min(PIECE_BYTES, whole.elements * size)
            arenas = [Arena(at, SLOTS * padded(most)) for at in (sender, receiver)]
            limit = max(1, (min(a.left for a in arenas) // SLOTS - padded(1)) // size)
            limit = min(limit, PIECE_BYTES // size)
            held = [[a.take(padded(min(limit, whole.elements) * size)) for _ in range(SLOTS)] for a in arenas]
            for tiling in tilings(whole, limit):
                _send(sender, read, tiling, held[0], message)
                _take(receiver, written, tiling, held[1], message)


def _within(entry: MapEntry, box: Box) -> list[tuple[int, int, int]]:
    """Start, count and step of each dimension in what a device has of a tensor."""
    axis, length = (entry.shard[0], entry.shape[entry.shard[0]]) if entry.shard is not None else (-1, 0)
    return [(low % length if d == axis else low, high - low, 1) for d, (low, high) in enumerate(box)]


def _send(at: Lowering, source: Home, tiling: Tiling, held: Sequence[int], message: _Message) -> None:
    peer = variable(DEVICE) + (message.receiver - message.sender)
    counts, far, dense = _strides(tiling, 0, source.element_bytes)
    for starts, slot in walk(at.emit, _one(tiling.outer, 0), SLOTS):
        issue_copy(at.emit, (source.space, "buffer"), starts[0], held[slot], source.dtype, counts, far, dense)
        at.emit.issue("link", Export(held[slot], tiling.elements, source.dtype, peer))


def _take(at: Lowering, target: Home, tiling: Tiling, held: Sequence[int], message: _Message) -> None:
    peer = variable(DEVICE) + (message.sender - message.receiver)
    counts, far, dense = _strides(tiling, 1, target.element_bytes)
    for starts, slot in walk(at.emit, _one(tiling.outer, 1), SLOTS):
        at.emit.issue("link", Import(held[slot], tiling.elements, target.dtype, peer))
        issue_copy(at.emit, ("buffer", target.space), held[slot], starts[0], target.dtype, counts, dense, far)


def _one(nest: Nest, operand: int) -> Nest:
    return nest.of([operand])


def _strides(tiling: Tiling, operand: int, size: int) -> tuple[list[int], list[int], list[int]]:
    """Turns of a tile's loops, the strides of the cache and of the piece on chip."""
    counts = [axis.count for axis in tiling.tile]
    return counts, [axis.strides[operand] for axis in tiling.tile], list(dense_strides(counts, size))
