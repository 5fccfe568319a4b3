"""The softmax of attention with its masks, and rotary embedding, on vector units."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.movement import index_tensor, whole
from pimc.backends.kernels.normalization import with_rank
from pimc.backends.kernels.places import copy_cut, given, operand, place
from pimc.backends.kernels.pointwise import pointwise, pointwise_many
from pimc.backends.kernels.registry import kernel
from pimc.backends.kernels.rows import Block, Chunk, RowKernel
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout
from pimc.ir.types import DType
from pimc.record import record

LOWEST = -3.4028234663852886e38
"""Stands for the maximum of a row in which everything is masked; masks may hold this number, the lowest, themselves."""
TINY = 1e-30
"""Stands for its sum."""
LIMIT_TYPE = DType.I32


@record
class Limits:
    """Tensors [B|1, 1, S|1, 1] of key positions: the last one that a query sees, and the first."""

    last: Tensor | None = None
    first: Tensor | None = None


@kernel("attention_softmax")
def lower_attention_softmax(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Cap, mask and softmax. Limits on key positions are compared with the numbers of the columns."""
    scores, mask = given(node, 0), operand(node, 1)
    shape = scores.type.static_shape
    if 0 in shape:
        return
    arena = Arena(at)
    limits = _limits(node, at, machine, arena)
    operands = {"scores": place(at, scores)}
    if mask is not None:
        operands["mask"] = with_rank(place(at, mask), 4)
    operands |= {name: t for name, t in (("last", limits.last), ("first", limits.first)) if t is not None}
    names = [*operands, "out"]
    guarded = len(operands) > 1
    softcap = node.attribute("softcap")
    assert isinstance(softcap, float | int)
    where = {name: i for i, name in enumerate(names)}
    numbers = _column_numbers(at, machine, arena, shape[3]) if limits.last or limits.first else None
    masks = _Masks(where, float(softcap), numbers[0] if numbers else None)

    def body(b: Block) -> None:
        largest = b.start("max")
        for c, x in masks.chunks(b):
            b.gather("max", c, x, largest)
        if guarded:
            b.rows("max", largest, LOWEST, out=largest)
        total = b.start("sum")
        for c, x in masks.chunks(b):
            b.gather("sum", c, _power(c, x, largest), total)
        if guarded:
            b.rows("max", total, TINY, out=total)
        b.rows("reciprocal", total, out=total)
        for c, x in masks.chunks(b):
            c.lanes("mul", _power(c, x, largest), total.spread(behind=1), out=c.out(where["out"]))
            c.store(where["out"])

    tensors = [*operands.values(), place(at, node.result)]
    most = numbers[1] if numbers else None
    RowKernel(at, machine, tensors, shape, 3, grids=2, arena=arena, most_columns=most).run(body)


def _power(c: Chunk, x: Ref, largest: Ref) -> Ref:
    def compute() -> Ref:
        t = c.lanes("sub", x, largest.spread(behind=1))
        return c.lanes("exp", t, out=t)

    return c.keep("power", compute)


class _Masks:
    """Capped and masked scores, chunk by chunk. Limits move against the chunks, which all count columns from 0."""

    def __init__(self, where: dict[str, int], softcap: float, numbers: Ref | None) -> None:
        self.where, self.softcap, self.numbers = where, softcap, numbers

    def chunks(self, b: Block) -> Iterator[tuple[Chunk, Ref]]:
        """Pairs of a chunk and its scores."""
        names = [name for name in ("last", "first") if name in self.where]
        limits: dict[str, Ref] = {name: b.operand(self.where[name]) for name in names}
        if not b.single:
            limits = {name: b.rows("copy", ref, dtype=LIMIT_TYPE) for name, ref in limits.items()}
        for c in b.chunks():
            yield c, c.keep("masked", lambda c=c: self._masked(c, limits))  # type: ignore[misc]
            if not b.single:
                for ref in limits.values():
                    b.rows("sub", ref, float(c.columns), out=ref)

    def _masked(self, c: Chunk, limits: dict[str, Ref]) -> Ref:
        x = c.load(self.where["scores"])
        t: Ref | None = None
        rows = len(c.block.blocks.row_counts)

        def step(function: str, *sources: Source) -> None:
            nonlocal t
            t = c.lanes(function, *sources, out=t)

        if self.softcap:
            step("mul", x, 1 / self.softcap)
            step("tanh", t or x)
            step("mul", t or x, self.softcap)
        if "mask" in self.where:
            mask = c.load(self.where["mask"])
            if mask.dtype is DType.BOOL:
                step("select", mask, t or x, -inf)
            else:
                step("add", t or x, mask)
        if self.numbers is not None:
            column = self.numbers.spread(before=rows)
            if "last" in limits:
                step("keep", t or x, column, limits["last"].spread(behind=1), -inf)
            if "first" in limits:
                step("keep", t or x, limits["first"].spread(behind=1), column, -inf)
        return t or x


def _column_numbers(at: Lowering, machine: VectorMachine, arena: Arena, columns: int) -> tuple[Ref, int]:
    """0, 1, ... for as many columns as a chunk may have, and how many those are."""
    size = LIMIT_TYPE.bits // 8
    count = max(1, min(columns, arena.left // (4 * size)))
    numbers = index_tensor(at, machine, arena, count)
    return Ref(numbers.layout.offset, LIMIT_TYPE, (size,)), count


def _limits(node: Node, at: Lowering, machine: VectorMachine, arena: Arena) -> Limits:
    batch, _, queries, keys = given(node, 0).type.static_shape
    lengths, window = operand(node, 2), node.attribute("window")
    assert isinstance(window, int)
    valid = None if lengths is None else place(at, lengths)
    return position_limits(at, machine, arena, valid, (batch, queries, keys), bool(node.attribute("causal")), window)


def position_limits(
    at: Lowering, machine: VectorMachine, arena: Arena, valid: Tensor | None, extents: tuple[int, int, int],
    causal: bool, window: int,
) -> Limits:  # fmt: skip
    """Which key positions a query sees, where causality, a window or lengths (`valid`) say so.

    extents: requests, queries and keys.
    """
    batch, queries, keys = extents
    last = first = None
    if causal and (valid is not None or queries > 1):
        last = _positions(at, machine, arena, valid, batch, queries, keys, 0)
    elif valid is not None:
        last = _positions(at, machine, arena, valid, batch, 1, keys, 0)
    if window and window < keys:
        first = _positions(at, machine, arena, valid, batch, queries, keys, 1 - window)
    return Limits(last, first)


def _positions(
    at: Lowering,
    machine: VectorMachine,
    arena: Arena,
    valid: Tensor | None,
    batch: int,
    queries: int,
    keys: int,
    by: int,
) -> Tensor:
    """`valid - queries + i + by` for each query i, [B|1, 1, S, 1]."""
    if valid is None:
        numbers = index_tensor(at, machine, arena, queries, keys - queries + by)
        return replace(numbers, layout=_between(numbers.layout, ((1, 0),)))
    numbers = index_tensor(at, machine, arena, queries, by - queries)
    size = LIMIT_TYPE.bits // 8
    layout = Layout.dense((batch, queries), size, arena.take(batch * queries * size))
    target = Tensor("buffer", layout, LIMIT_TYPE)
    lengths = replace(valid, layout=Layout(valid.layout.offset, (*valid.layout.dims, ((1, 0),))))

    def write(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
        v("add", *sources, out=out)

    pointwise(at, machine, [lengths, numbers], target, (batch, queries), write, arena)
    (requests, positions) = layout.dims
    return replace(target, layout=_between(Layout(layout.offset, (positions,)), requests))


def _between(positions: Layout, requests: tuple[Digit, ...]) -> Layout:
    one: tuple[Digit, ...] = ((1, 0),)
    return Layout(positions.offset, (requests, one, *positions.dims, one))


@kernel("rotary")
def lower_rotary(node: Node, at: Lowering, machine: VectorMachine) -> None:
    """Both halves of the turning part from both halves; the rest is copied."""
    x, out = place(at, given(node, 0)), place(at, node.result)
    shape = given(node, 0).type.static_shape
    half = given(node, 1).type.static_shape[2]
    interleaved = bool(node.attribute("interleaved"))
    tables = [_per_head(place(at, given(node, i))) for i in (1, 2)]

    def write(v: Lanes, sources: Sequence[Source], results: Sequence[Ref]) -> None:
        first, second, cos, sin = sources
        v("sub", v("mul", first, cos), v("mul", second, sin), out=results[0])
        v("add", v("mul", second, cos), v("mul", first, sin), out=results[1])

    sources, results = _halves(x, half, interleaved), _halves(out, half, interleaved)
    pointwise_many(at, machine, [*sources, *tables], results, (*shape[:3], half), write)
    if 2 * half < shape[3]:
        rest = [*whole(shape[:3]), (2 * half, shape[3] - 2 * half, 1)]
        copy_cut(at, x, out, rest, rest)


def _per_head(table: Tensor) -> Tensor:
    """[B|1, S, R] for all heads."""
    dims = table.layout.dims
    return replace(table, layout=Layout(table.layout.offset, (dims[0], ((1, 0),), *dims[1:])))


def _halves(x: Tensor, half: int, interleaved: bool) -> list[Tensor]:
    """The first and the second elements of all pairs."""
    cut = [(0, 2 * half, 2), (1, 2 * half + 1, 2)] if interleaved else [(0, half, 1), (half, 2 * half, 1)]
    found = []
    for start, stop, step in cut:
        layout = x.layout.sliced(3, start, stop, step)
        if layout is None:
            layout = _pair_layout(x.layout, half, start, interleaved)
        found.append(replace(x, layout=layout))
    return found


def _pair_layout(layout: Layout, half: int, start: int, interleaved: bool) -> Layout:
    """A half of the last dimension where its digits are several: the pair becomes a digit of its own."""
    width = layout.shape[3]
    turning = layout if width == 2 * half else layout.sliced(3, 0, 2 * half)
    assert turning is not None
    lead = turning.shape[:3]
    split = turning.reshaped((*lead, half, 2) if interleaved else (*lead, 2, half))
    assert split is not None
    axis = 4 if interleaved else 3
    one = split.sliced(axis, int(start > 0), int(start > 0) + 1)
    assert one is not None
    return Layout(one.offset, tuple(d for i, d in enumerate(one.dims) if i != axis))
