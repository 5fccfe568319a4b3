"""Attention whose scores never leave the chip: tiles of keys pass by, with a running maximum and sum of each query.

For a block of queries of some pairs of request and key head, and a tile of their keys:

    scores    arrays       q @ k^T
    softmax   vector unit  largest' = max(largest, rows of scores); weights = exp(scores - largest')
                           shrink = exp(largest - largest'); total = total * shrink + sum of weights
    context   arrays       weights @ v
    output    vector unit  sums = sums * shrink + context; after the last tile, sums / total

The four are stages of a pipeline (`pipeline.py`): arrays and vector unit work on tiles of neighbouring turns. Keys that
no query of a block may see are neither loaded nor multiplied.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.attention import position_limits
from pimc.backends.kernels.lanes import Ref
from pimc.backends.kernels.movement import index_tensor
from pimc.backends.kernels.nest import Axis, Nest, nests, spread, tilings
from pimc.backends.kernels.normalization import with_rank
from pimc.backends.kernels.places import copy_tensor, dense_at, given, on_chip, operand, place
from pimc.backends.lowering import Cut, Lowering, Tensor, lowers
from pimc.backends.npu.attended import Attended, AttentionTiles
from pimc.backends.npu.attention_stream import Operand, Stream
from pimc.backends.npu.attention_tiles import F32_BYTES, Sizes, best_attention
from pimc.backends.npu.attention_time import Core
from pimc.backends.npu.contraction import SWAPS, microseconds
from pimc.backends.npu.isa import Fence
from pimc.backends.npu.machine import machine_of
from pimc.backends.npu.vector_unit import NPU
from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Ragged
from pimc.ir.graph import Node
from pimc.ir.layout import Layout
from pimc.ir.types import DType

MASK_PART = 8
"""One part in so many of the room may be a mask that stays on chip."""


def why_not(node: Node, spec: TargetSpec, room: int) -> str:
    """Why attention cannot run as a whole; empty if it can."""
    if node.fact(Ragged) is not None:
        return "requests with lengths of their own go through its parts"
    if any(0 in given(node, i).type.static_shape for i in range(3)):
        return "there is nothing to attend to"
    if not all(given(node, i).type.dtype.is_float for i in range(3)):
        return "the arrays multiply floats"
    e = _attended(node, spec)
    least = Sizes.of(e, 1, 1, 1).bytes(e.keys) + _limit_bytes(node)
    return f"one query needs {least} of {room} bytes on chip" if least > room else ""


def _limit_bytes(node: Node) -> int:
    """What the positions that queries see take on chip: at most two numbers and an intermediate for each query."""
    batch, _, queries, _ = given(node, 0).type.static_shape
    return 4 * padded(batch * queries * F32_BYTES) + 16 * padded(1)


def _attended(node: Node, spec: TargetSpec) -> Attended:
    """As if all was on chip."""
    batch, heads, queries, depth = given(node, 0).type.static_shape
    _, kv, keys, width = given(node, 2).type.static_shape
    mask, lengths = operand(node, 3), operand(node, 4)
    causal, window = bool(node.attribute("causal")) and queries > 1, node.attribute("window")
    assert isinstance(window, int)
    window = window if window < keys else 0
    mask_bytes = (
        0 if mask is None else max(1, (spec.storage_dtype if mask.type.dtype.is_float else DType.BOOL).bits // 8)
    )
    limits = int(causal or lengths is not None) + int(window > 0)
    told = lengths is None
    return Attended(
        batch * kv, heads // kv, queries, keys, depth, width, spec.element_bytes, mask_bytes, causal and told,
        window if told else 0, limits, mask is not None, not told, bool(node.attribute("softcap")),
    )  # fmt: skip


@lowers("npu", "attention")
def lower_attention(node: Node, at: Lowering) -> None:
    _Attention(node, at).run()


class _Attention:
    def __init__(self, node: Node, at: Lowering) -> None:
        self.node, self.at, self.emit = node, at, at.emit
        npu = at.spec.npu
        assert npu is not None
        scale, softcap = node.attribute("scale"), node.attribute("softcap")
        assert isinstance(scale, float | int)
        assert isinstance(softcap, float | int)
        self.scale, self.softcap = float(scale), float(softcap)
        self.batch, self.heads, self.queries, _ = given(node, 0).type.static_shape
        self.kv, self.keys = given(node, 2).type.static_shape[1:3]
        self.group = self.heads // self.kv
        machine = machine_of(at)
        vector = npu.vector
        self.core = Core(
            machine, vector.units * npu.cores, vector.lanes, vector.tree, vector.cycles("add"), vector.cycles("exp"),
            vector.cycles("mul_add"), SWAPS[npu.array.dataflow],
        )  # fmt: skip
        self.arena = Arena(at)

    def run(self) -> None:
        tensors = self._tensors()
        if any(t.on_chip for t in tensors.values()):
            self.emit.issue("npu", Fence())
        pairs = self._pairs(tensors)
        for nest, operands in pairs:
            e, batch = self._order(nest, operands)
            tiles = best_attention(self.core, e, self.arena.left)
            assert tiles is not None
            mark = self.arena.mark()
            numbers = None
            if "last" in tensors or "first" in tensors:
                held = index_tensor(self.at, NPU, self.arena, self.keys)
                numbers = Ref(held.layout.offset, DType.I32, (F32_BYTES,))
            if not self.at.rehearsed:
                self._stream(nest, batch, e, tiles, operands, numbers)
            self.arena.reset(mark)
            self._report(tiles)
        if self.out is not self.target:
            copy_tensor(self.at, self.out, self.target, self.out.shape)

    def _stream(
        self, nest: Nest, batch: tuple[Axis, ...], e: Attended, tiles: AttentionTiles, operands: dict[str, Operand],
        numbers: Ref | None,
    ) -> None:  # fmt: skip
        stream = Stream(self.emit, self.arena, self.core, e, tiles, operands, numbers, self.scale, self.softcap)
        for start in range(0, e.queries, tiles.queries):
            rows = min(tiles.queries, e.queries - start)
            for tiling in tilings(Nest(nest.starts, batch), tiles.pairs, even=False):
                stream.block(start, rows, tiling)

    def _report(self, tiles: AttentionTiles) -> None:
        if self.at.told is not None:
            parts = f"{microseconds(tiles.memory)} of transfers, {microseconds(tiles.compute)} of arrays"
            parts += f", {microseconds(tiles.vector)} on the vector unit"
            queries = f"{tiles.queries} {'query' if tiles.queries == 1 else 'queries'}"
            limit = f"bound by {tiles.limit} ({parts}; {queries} and {tiles.keys} keys at a time)"
            self.at.told(Cut(None, tiles.seconds, tiles.memory, tiles.compute + tiles.vector, limit))

    # -- operands -------------------------------------------------------------------------------------------------

    def _tensors(self) -> dict[str, Tensor]:
        node, at = self.node, self.at
        q, k, v, self.target = (place(at, x) for x in (given(node, 0), given(node, 1), given(node, 2), node.result))
        q, self.out = self._split_heads(q, moves=True), self._split_heads(self.target, moves=False)
        found = {"q": q, "k": k, "v": v, "out": self.out}
        mask, lengths = operand(node, 3), operand(node, 4)
        if mask is not None:
            found["mask"] = self._mask(place(at, mask))
        window = node.attribute("window")
        assert isinstance(window, int)
        limits = position_limits(
            at, NPU, self.arena, None if lengths is None else place(at, lengths),
            (self.batch, self.queries, self.keys), bool(node.attribute("causal")), window,
        )  # fmt: skip
        for name, limit in (("last", limits.last), ("first", limits.first)):
            if limit is not None:
                layout = spread(limit.layout, (self.batch, 1, self.queries, 1))
                found[name] = replace(limit, layout=layout)
        return found

    def _mask(self, mask: Tensor) -> Tensor:
        """For all scores; where it is repeated over them and takes little room, it comes as a whole, and once."""
        shape = (self.batch, self.heads, self.queries, self.keys)
        whole = replace(mask, layout=spread(mask.layout, shape))
        dims = zip(shape, whole.layout.dims, strict=True)
        own = [1 if all(stride == 0 for _, stride in dim) else extent for extent, dim in dims]
        size = prod(own) * mask.element_bytes
        if mask.on_chip or 2 * prod(own) > prod(shape) or size > self.arena.left // MASK_PART:
            return whole
        held = on_chip(self.at, self.arena, with_rank(mask, len(shape)), own)
        return replace(held, layout=spread(held.layout, shape))

    def _split_heads(self, tensor: Tensor, *, moves: bool) -> Tensor:
        """The tensor, or a dense copy on chip where its heads are no regular groups of neighbours."""
        if self._grouped(tensor.layout) is not None:
            return tensor
        dense = dense_at(self.arena.take(prod(tensor.shape) * tensor.element_bytes), tensor, tensor.shape)
        if moves:
            copy_tensor(self.at, tensor, dense, tensor.shape)
        return dense

    def _grouped(self, layout: Layout) -> Layout | None:
        """[heads] as [kv, group]."""
        return Layout(0, (layout.dims[1],)).reshaped((self.kv, self.group))

    def _pairs(self, tensors: dict[str, Tensor]) -> list[tuple[Nest, dict[str, Operand]]]:
        """The regular walks over (request, key head), with what belongs to one pair of each tensor."""
        outer: list[Layout] = []
        operands: dict[str, Operand] = {}
        for index, (name, tensor) in enumerate(tensors.items()):
            dims, offset = tensor.layout.dims, tensor.layout.offset
            if name in ("k", "v"):
                lead, inner = dims[:2], dims[2:]
            elif name in ("last", "first"):
                lead, inner = (dims[0], ((1, 0),)), (((self.group, 0),), *dims[2:])
            else:
                heads = self._grouped(tensor.layout)
                assert heads is not None
                lead, inner = (dims[0], heads.dims[0]), (heads.dims[1], *dims[2:])
            outer.append(Layout(offset, lead))
            operands[name] = Operand(tensor, index, Layout(0, inner))
        return [(nest.merged(), operands) for nest in nests(outer, (self.batch, self.kv))]

    def _order(self, nest: Nest, operands: dict[str, Operand]) -> tuple[Attended, tuple[Axis, ...]]:
        """The walk whose innermost axis brings keys fastest, many pairs at a time."""
        best: tuple[float, Attended, tuple[Axis, ...]] | None = None
        for innermost in nest.axes or (Axis(1, (0,) * len(operands)),):
            batch = (*(a for a in nest.axes if a is not innermost), innermost)
            e = replace(
                _attended(self.node, self.at.spec), pairs=prod(a.count for a in batch),
                q=operands["q"].side(batch), k=operands["k"].side(batch), v=operands["v"].side(batch),
                out=operands["out"].side(batch),
            )  # fmt: skip
            if "mask" in operands and operands["mask"].is_at_hand:
                e = replace(e, mask_bytes=0)
            tiles = best_attention(self.core, e, self.arena.left)
            if tiles is not None and (best is None or tiles.seconds < best[0]):
                best = tiles.seconds, e, batch
        if best is None:
            raise fail(
                Kind.CAPACITY, f"not even single queries and keys fit {self.arena.left} bytes of on-chip scratch"
            )
        return best[1], best[2]
