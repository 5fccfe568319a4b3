"""Groups of small products (`packs.py`): how many come at a time, and the commands of a whole batch of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import SLOTS, Axis, Nest, tilings, walk
from pimc.backends.kernels.product_nest import OUT, A, B, ProductNest
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.npu.blocks import Blocks, Matrix
from pimc.backends.npu.extents import Extents, Side
from pimc.backends.npu.machine import Machine
from pimc.backends.npu.packs import Pack, best_pack
from pimc.backends.npu.tile_copy import bring, scaled, take_home
from pimc.backends.npu.tiles import Moved, bound_of, move_seconds
from pimc.ir.layout import Digit
from pimc.record import record


@record
class Group:
    """So many products at a time; seconds are those of one product."""

    products: int
    pack: Pack
    seconds: float
    compute: float
    memory: float

    @property
    def t(self) -> int:
        return self.pack.t

    @property
    def s(self) -> int:
        return self.pack.s

    @property
    def k(self) -> int:
        return self.pack.k

    @property
    def limit(self) -> str:
        return bound_of(self.seconds, self.compute, self.memory)

    @property
    def usual(self) -> float:
        return self.seconds

    @property
    def accumulators(self) -> int:
        """Bytes of accumulators of a group."""
        return padded(self.pack.accumulators(self.products))


def group_bytes(e: Extents, products: int) -> int:
    """What the operands and results of a group that move take on chip."""
    parts = ((e.streamed, e.t * e.k), (e.stationary, e.s * e.k), (e.out, e.t * e.s))
    return sum(padded(products * cells * e.element_bytes) for _, cells in parts)


@lru_cache(maxsize=4096)
def best_group(machine: Machine, e: Extents, room: int) -> Group | None:
    """The fastest groups that fit `room` bytes of the buffer, or None."""
    found: list[Group] = []
    batch = next((side.batch for side in (e.stationary, e.streamed, e.out) if side is not None), ())
    for products in _sizes(batch, e.turns):
        if SLOTS * group_bytes(e, products) > room:
            continue
        pack = best_pack(machine, e.t, e.s, e.k, products)
        group = _timed(machine, e, products, pack)
        if SLOTS * group.accumulators <= machine.accumulator_bytes:
            found.append(group)
    return min(found, key=lambda g: (g.seconds, g.products), default=None)


def _sizes(batch: Sequence[Digit], turns: int) -> Iterator[int]:
    """Sizes of groups that keep the inner digits whole and take halves of one."""
    inside = 1
    for count, _ in reversed(batch or ((turns, 0),)):
        size = count
        while size > 1:
            yield inside * size
            size = -(-size // 2)
        inside *= count
    yield 1


def _timed(machine: Machine, e: Extents, products: int, pack: Pack) -> Group:
    clock, array = machine.clock, machine.array

    def moving(side: Side | None, rows: int, columns: int) -> Moved:
        return move_seconds(machine.copies, side, rows, columns, e.element_bytes, products)

    sides = moving(e.streamed, e.t, e.k), moving(e.stationary, e.s, e.k)
    out = moving(e.out, e.t, e.s)
    load, held = sides[0][0] + sides[1][0], sides[0][1] + sides[1][1] + out[1]
    compute, drain = pack.clocks(machine, products) / clock, pack.drain_clocks(machine, products) / clock
    # one DRAIN may wait for its products while those of the next group begin; others hold the core up
    busy = compute if pack.dense or not machine.drained else compute + drain + array.skew / clock
    around = (load + busy + machine.turnaround) / SLOTS
    steady = max(load, out[0], held, busy, drain, around)
    groups = -(-e.turns // products)
    ends = load + busy + machine.turnaround + drain + out[0] if load else busy
    return Group(
        products, pack, ((groups - 1) * steady + ends) / e.turns, compute / products,
        max(load, out[0], held) / products,
    )  # fmt: skip


class Groups:
    """The commands of a batch of products."""

    def __init__(
        self, at: Lowering, machine: Machine, tensors: tuple[Tensor, Tensor, Tensor], nest: ProductNest, scale: float,
        group: Group, *, swap: bool,
    ) -> None:  # fmt: skip
        """nest: its innermost batch axes make the groups. swap: b is streamed past a."""
        self.at, self.emit, self.scale, self.group = at, at.emit, scale, group
        self.tensors, self.nest = tensors, nest
        self.streamed, self.stationary = (B, A) if swap else (A, B)
        self.rows = (nest.columns, nest.rows) if swap else (nest.rows, nest.columns)
        pack = group.pack
        self.blocks = Blocks.on(at.emit, machine, tensors[A].dtype, pack.down, pack.across)
        size, products = tensors[A].element_bytes, group.products
        self.bytes = {
            self.streamed: products * pack.t * pack.k * size,
            self.stationary: products * pack.s * pack.k * size,
            OUT: products * pack.t * pack.s * tensors[OUT].element_bytes,
        }

    def run(self) -> None:
        need = SLOTS * sum(padded(size) for size in self.bytes.values())
        arena = Arena(self.at, need)
        held = {name: [arena.take(size) for _ in range(SLOTS)] for name, size in self.bytes.items()}
        for tiling in tilings(Nest(self.nest.starts, self.nest.batch), self.group.products, even=False):
            for starts, slot in walk(self.emit, tiling.outer, SLOTS):
                self._group(tiling.tile, starts, {name: slots[slot] for name, slots in held.items()}, slot)

    def _group(self, batch: Sequence[Axis], starts: Sequence[Scalar], held: dict[int, int], slot: int) -> None:
        products, pack = prod(a.count for a in batch), self.group.pack
        t, s = (
            self._operand(name, (*batch, *rows), starts[name], held[name])
            for name, rows in zip((self.streamed, self.stationary), self.rows, strict=True)
        )
        acc = slot * self.group.accumulators
        pack.multiply(self.blocks, t, s, range(products), acc)
        out = self.tensors[OUT]
        lead, columns = walk_of((*batch, *self.rows[0]), OUT), walk_of(self.rows[1], OUT)
        if out.on_chip and len(lead) <= 1 and len(columns) <= 1:
            to = Matrix(starts[OUT], stride_of(lead), stride_of(columns))
            pack.drain(self.emit, products, acc, to, out.dtype, self.scale)
            return
        size = out.element_bytes
        to = Matrix(held[OUT], pack.s * size, size)
        pack.drain(self.emit, products, acc, to, out.dtype, self.scale)
        near = [*scaled(lead, to.row), *scaled(columns, to.column)]
        take_home(self.emit, out, held[OUT], starts[OUT], (*lead, *columns), 0, near)

    def _operand(self, name: int, axes: Sequence[Axis], start: Scalar, held: int) -> Matrix:
        """Rows of all products of a group, on chip: where they are, if commands can address them there, else copied."""
        contracted = [(moves[name], walk_of(along, name)) for moves, along in self.nest.contracted]
        return rows_on_chip(self.emit, self.tensors[name], start, walk_of(axes, name), contracted, held)


def rows_on_chip(
    emit: Emitter, tensor: Tensor, start: Scalar, rows: Sequence[Axis],
    columns: Sequence[tuple[Scalar, Sequence[Axis]]], held: int, *,
    stays: bool = True,
) -> Matrix:  # fmt: skip
    """A matrix on chip: where it is (`stays`), if commands can address it there, else copied to `held`.

    rows: the loops over its rows, those of a group of products outside. columns: the ranges of its columns.
    """
    if stays and tensor.on_chip and len(rows) <= 1 and len(columns) == 1 and len(columns[0][1]) <= 1:
        moved, along = columns[0]
        return Matrix(start + moved, stride_of(rows), stride_of(along))
    size = tensor.element_bytes
    count, depth = prod(a.count for a in rows), sum(prod(a.count for a in along) for _, along in columns)
    by_row = not rows or rows[-1].strides[0] != size
    matrix = Matrix(held, depth * size, size) if by_row else Matrix(held, size, count * size)
    done = 0
    for moved, along in columns:
        near = [*scaled(rows, matrix.row), *scaled(along, matrix.column)]
        bring(emit, tensor, start + moved, matrix.at(done), (*rows, *along), 0, near)
        done += prod(a.count for a in along)
    return matrix


def walk_of(axes: Sequence[Axis], operand: int) -> tuple[Axis, ...]:
    """The loops of one operand alone."""
    return Nest((0,), tuple(Axis(a.count, (a.strides[operand],)) for a in axes)).merged().axes


def stride_of(axes: Sequence[Axis]) -> int:
    return axes[0].strides[0] if axes else 0
