"""Attention whose scores never leave the chip.

For each request, group of heads and block of queries, the scores of all keys gather in the buffer; the vector unit
makes them exponentials and sums, the arrays multiply these with the values, and only that result is divided by the
sums. Blocks of a causal matrix see no further than their last query: keys beyond are neither multiplied nor loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.emitter import Scratch
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref
from pimc.backends.kernels.nest import dense_strides
from pimc.backends.kernels.places import copy_tensor, dense_at, given, operand, place
from pimc.backends.lowering import Lowering, Tensor, lowers
from pimc.backends.npu.isa import Fence
from pimc.backends.npu.matmul import contract
from pimc.backends.npu.vector_unit import NPU
from pimc.backends.target import TargetSpec
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout
from pimc.ir.types import DType

LEAST_ROWS = 8
"""Queries of a block below which a head's scores are better kept in memory."""
F32_BYTES = DType.F32.bits // 8


def why_not(node: Node, spec: TargetSpec, room: int) -> str:
    """Why attention cannot run as a whole; empty if it can."""
    if operand(node, 3) is not None or operand(node, 4) is not None:
        return "masks and lengths are for the softmax alone"
    if node.attribute("softcap") or node.attribute("window"):
        return "soft caps and windows are for the softmax alone"
    if 0 in node.result.type.static_shape or 0 in given(node, 1).type.static_shape:
        return "there is nothing to attend to"
    if not all(given(node, i).type.dtype.is_float for i in range(3)):
        return "the arrays multiply floats"
    if node.attribute("causal") and given(node, 0).type.static_shape[2] > given(node, 1).type.static_shape[2]:
        return "the first queries see no key"
    if not _Extents.of(node).rows(room, spec.element_bytes):
        return f"the scores of {LEAST_ROWS} queries do not fit {room} bytes on chip"
    return ""


@dataclass(frozen=True, slots=True)
class _Extents:
    """Requests, key heads, query heads of each, queries, keys, and the widths of keys and values."""

    batch: int
    kv: int
    group: int
    queries: int
    keys: int
    depth: int
    width: int

    @staticmethod
    def of(node: Node) -> _Extents:
        batch, heads, queries, depth = given(node, 0).type.static_shape
        _, kv, keys, width = given(node, 2).type.static_shape
        return _Extents(batch, kv, heads // kv, queries, keys, depth, width)

    def bytes(self, rows: int, element: int) -> int:
        """What blocks of so many queries take on chip, beside the operands of their products."""
        cells = self.group * rows
        own = cells * self.keys * (F32_BYTES + element) + cells * self.width * (F32_BYTES + element)
        return own + 2 * padded(cells * F32_BYTES) + self.keys * F32_BYTES + 16 * padded(1)

    def rows(self, room: int, element: int) -> int:
        """Queries of a block, so that half of the room is left for operands; 0: too few fit."""
        rows = self.queries
        while rows and self.bytes(rows, element) > room // 2:
            rows //= 2
        return rows if rows >= min(LEAST_ROWS, self.queries) else 0


@lowers("npu", "attention")
def lower_attention(node: Node, at: Lowering) -> None:
    _Attention(node, at).run()


class _Attention:
    def __init__(self, node: Node, at: Lowering) -> None:
        self.at, self.emit = at, at.emit
        self.extents = _Extents.of(node)
        self.causal = bool(node.attribute("causal")) and self.extents.queries > 1
        scale = node.attribute("scale")
        assert isinstance(scale, float | int)
        self.scale = float(scale)
        self.q, self.k, self.v, self.out = (
            place(at, value) for value in (given(node, 0), given(node, 1), given(node, 2), node.result)
        )
        self.arena = Arena(at)
        e, element = self.extents, self.v.element_bytes
        self.rows = e.rows(self.arena.size, element)
        cells = e.group * self.rows
        self.scores = self.arena.take(cells * e.keys * F32_BYTES)
        self.powers = self.arena.take(cells * e.keys * element)
        self.sums = self.arena.take(cells * e.width * F32_BYTES)
        self.result = self.arena.take(cells * e.width * element)
        self.largest, self.total = (self.arena.take(cells * F32_BYTES) for _ in range(2))
        self.numbers = self.arena.take(e.keys * F32_BYTES)
        self.last = self.arena.take(self.rows * F32_BYTES)
        self.q, self.k, self.v = (self._regular(t) for t in (self.q, self.k, self.v))
        self.target, self.out = self.out, self._regular(self.out, moves=False)
        inner = self.arena.left // 64 * 64
        self.inner = replace(at, scratch=Scratch(self.arena.take(inner), inner), limited=None, tiled=None)

    def run(self) -> None:
        e = self.extents
        if self.causal:
            numbers = Ref(self.numbers, DType.I32, (F32_BYTES,))
            Lanes(self.emit, NPU, None, (e.keys,))("index", 0.0, out=numbers)
        for start in range(0, e.queries, self.rows):
            rows = min(self.rows, e.queries - start)
            keys = min(e.keys, e.keys - e.queries + start + rows) if self.causal else e.keys
            for moved in self._heads():
                self._block(start, rows, keys, moved)
        if self.out is not self.target:
            copy_tensor(self.at, self.out, self.target, self.out.shape)

    def _regular(self, tensor: Tensor, *, moves: bool = True) -> Tensor:
        """The tensor, or a dense copy on chip of one whose requests, heads or rows no single loop can address."""
        if all(len([d for d in dim if d[0] > 1]) <= 1 for dim in tensor.layout.dims[:3]):
            return tensor
        dense = dense_at(self.arena.take(prod(tensor.shape) * tensor.element_bytes), tensor, tensor.shape)
        if moves:
            copy_tensor(self.at, tensor, dense, tensor.shape)
        return dense

    def _heads(self) -> Iterator[dict[str, Scalar]]:
        """For every request and key head, how far the tensors' addresses move; loops where heads lie regularly."""
        e = self.extents
        tensors = {"q": (self.q, e.group), "k": (self.k, 1), "v": (self.v, 1), "out": (self.out, e.group)}
        requests = {name: _stride(t.layout.dims[0]) for name, (t, _) in tensors.items()}
        heads = {name: _stride(t.layout.dims[1]) for name, (t, _) in tensors.items()}
        with self.emit.loop(e.batch) as b, self.emit.loop(e.kv) as h:
            yield {name: b * requests[name] + h * (heads[name] * group) for name, (_, group) in tensors.items()}

    def _block(self, start: int, rows: int, keys: int, moved: dict[str, Scalar]) -> None:
        e = self.extents
        q = self._part(self.q, e.group, start, rows)
        k, v = (self._part(t, 1, 0, keys, group=e.group) for t in (self.k, self.v))
        transposed = replace(k, layout=Layout(k.layout.offset, (*k.layout.dims[:2], *k.layout.dims[:1:-1])))
        scores = self._held(self.scores, (1, e.group, rows, keys), DType.F32)
        powers = self._held(self.powers, (1, e.group, rows, keys), self.v.dtype)
        sums = self._held(self.sums, (1, e.group, rows, e.width), DType.F32)
        batch = (1, e.group)
        contract(self.inner, q, transposed, scores, batch, rows, keys, e.depth, self.scale, (moved["q"], moved["k"], 0))
        self._powers(start, rows, keys)
        contract(self.inner, powers, v, sums, batch, rows, e.width, keys, 1.0, (0, moved["v"], 0))
        self._divide(start, rows, moved["out"])

    def _powers(self, start: int, rows: int, keys: int) -> None:
        """The exponentials of scores less the largest of their row, and the sum of each row."""
        e, element = self.extents, self.v.element_bytes
        counts = (e.group, rows, keys)
        x = Ref(self.scores, DType.F32, (rows * keys * F32_BYTES, keys * F32_BYTES, F32_BYTES))
        out = Ref(self.powers, self.v.dtype, (rows * keys * element, keys * element, element))
        lanes = Lanes(self.emit, NPU, None, counts)
        largest = Ref(self.largest, DType.F32, (rows * F32_BYTES, F32_BYTES))
        total = replace(largest, address=self.total)
        if self.causal and keys > e.keys - e.queries + start + 1:
            last = Ref(self.last, DType.I32, (F32_BYTES,))
            Lanes(self.emit, NPU, None, (rows,))("index", float(e.keys - e.queries + start), out=last)
            numbers = Ref(self.numbers, DType.I32, (0, 0, F32_BYTES))
            lanes("keep", x, numbers, last.spread(before=1, behind=1), float("-inf"), out=x)
        lanes.reduce("max", x, largest)
        lanes("sub", x, largest.spread(behind=1), out=x)
        lanes("exp", x, out=out)
        lanes.reduce("sum", out, total)
        Lanes(self.emit, NPU, None, counts[:2])("reciprocal", total, out=total)
        self.emit.issue("npu", Fence())

    def _divide(self, start: int, rows: int, moved: Scalar) -> None:
        e, element = self.extents, self.out.element_bytes
        lanes = Lanes(self.emit, NPU, None, (e.group, rows, e.width))
        x = Ref(self.sums, DType.F32, (rows * e.width * F32_BYTES, e.width * F32_BYTES, F32_BYTES))
        total = Ref(self.total, DType.F32, (rows * F32_BYTES, F32_BYTES, 0))
        held = self._held(self.result, (1, e.group, rows, e.width), self.out.dtype)
        lanes(
            "mul",
            x,
            total,
            out=Ref(self.result, self.out.dtype, (rows * e.width * element, e.width * element, element)),
        )
        target = self._part(self.out, e.group, start, rows).layout
        digits = [digit for dim in target.dims for digit in dim]
        counts, far = [c for c, _ in digits], [s for _, s in digits]
        near = dense_strides(counts, element)
        issue_copy(
            self.emit, ("buffer", self.out.space), held.layout.offset, target.offset + moved, self.out.dtype, counts,
            near, far,
        )  # fmt: skip

    def _held(self, address: int, shape: tuple[int, ...], dtype: DType) -> Tensor:
        return Tensor("buffer", Layout.dense(shape, dtype.bits // 8, address), dtype)

    @staticmethod
    def _part(tensor: Tensor, heads: int, start: int, rows: int, *, group: int = 0) -> Tensor:
        """The first heads of the first request, and some of their rows; group: a single head stands for so many."""
        layout = tensor.layout
        for dim, first, count in ((0, 0, 1), (1, 0, heads), (2, start, rows)):
            cut = layout.sliced(dim, first, first + count)
            assert cut is not None
            layout = cut
        if group:
            layout = Layout(layout.offset, (layout.dims[0], ((group, 0),), *layout.dims[2:]))
        return replace(tensor, layout=layout)


def _stride(digits: tuple[Digit, ...]) -> int:
    return next((stride for count, stride in digits if count > 1), 0)
