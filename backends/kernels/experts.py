"""Products with weights that an activation chooses, out of a stack [E, N, K] that stays where it lies in memory.

Few pairs of token and expert: each pair's matrix is gathered in blocks of columns, straight into the product. More
pairs than experts, on a machine with an array: every expert's matrix is read once for all pairs, and each result goes
to those that chose it. In both ways the time does not depend on which experts are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from typing import Protocol

from pimc.backends.affine import Scalar
from pimc.backends.dma.copy import issue_copy
from pimc.backends.dma.isa import Gather
from pimc.backends.emitter import Scratch
from pimc.backends.kernels.arena import ALIGNMENT, Arena, padded
from pimc.backends.kernels.lanes import Lanes, Ref, VectorMachine
from pimc.backends.kernels.nest import SLOTS, chunk_of, chunks, dense_strides
from pimc.backends.kernels.places import copy_tensor, dense_at, given, on_chip, place
from pimc.backends.lowering import Lowering, Tensor
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout, pieces
from pimc.ir.types import DType

WEIGHT_SHARE = 2
"""One part in so many of a kernel's bytes holds blocks of weights; the product works in the rest."""
IDS = DType.I32
Moves = tuple[Scalar, Scalar, Scalar]


class Contract(Protocol):
    """`out[batch, m, n] = scale * a[batch, m, k] @ b[batch, k, n]`, first addresses moved by `moved`."""

    def __call__(
        self, at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
        scale: float = 1.0, moved: Moves = (0, 0, 0),
    ) -> None: ...  # fmt: skip


def reads_all(node: Node, kind: str) -> bool:
    """Whether an engine of a kind reads every expert once, rather than one for each pair of token and choice.

    Arrays have products to spare, vector units have not.
    """
    tokens, choices = given(node, 2).type.static_shape
    return kind == "npu" and tokens * choices > given(node, 1).type.static_shape[0]


def why_not(node: Node, kind: str, budget: int, value_bytes: int) -> str:
    """Why an engine of a kind whose kernels may hold `budget` bytes cannot compute the node; empty if it can."""
    tokens, choices, _ = node.result.type.static_shape
    experts, _, depth = given(node, 1).type.static_shape
    vectors, pairs = given(node, 0).type.static_shape[1] * tokens, tokens * choices
    taken = padded(pairs * IDS.bits // 8) + padded(pairs * given(node, 2).type.dtype.bits // 8)
    extra = 0
    if reads_all(node, kind):
        taken += padded(experts * IDS.bits // 8)
        extra = padded(1) + (vectors + pairs) * value_bytes
    if block_room(budget - taken) < depth * value_bytes + extra:
        return "its buffer cannot hold a column of an expert"
    return ""


def block_room(left: int) -> int:
    """Bytes for a block of columns in each slot, out of what an arena has left."""
    return (left // WEIGHT_SHARE - SLOTS * 2 * padded(1)) // SLOTS


def lower_experts(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    """`expert_matmul`, in one of the two ways."""
    if 0 in node.result.type.static_shape:
        return
    work = _Experts(node, at, machine, contract)
    if reads_all(node, machine.kind):
        work.all_experts()
    else:
        work.chosen_experts()


class _Experts:
    def __init__(self, node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
        self.node, self.at, self.machine, self.contract = node, at, machine, contract
        self.x, self.w, self.out = place(at, given(node, 0)), place(at, given(node, 1)), place(at, node.result)
        self.tokens, self.choices, self.width = node.result.type.static_shape
        self.experts, _, self.depth = given(node, 1).type.static_shape
        self.line = self.w.layout.shape[2]
        """elements of a column on chip: those of a bank pattern are padded to whole rows"""
        self.pairs = self.tokens * self.choices
        self.arena = Arena(at)
        self.ids = self._ids()
        if any(single(dim) is None for dim in self.x.layout.dims[:2]):
            self.x = on_chip(at, self.arena, self.x, given(node, 0).type.static_shape)

    def _ids(self) -> Tensor:
        """The chosen experts on chip, dense [tokens, choices], counted from the front."""
        indices = place(self.at, given(self.node, 2))
        shape = (self.tokens, self.choices)
        found = dense_at(self.arena.take(self.pairs * IDS.bits // 8), Tensor("buffer", Layout(0, ()), IDS), shape)
        mark = self.arena.mark()
        near = on_chip(self.at, self.arena, indices, shape)
        if any(single(dim) is None for dim in near.layout.dims):
            near = dense_at(self.arena.take(self.pairs * indices.element_bytes), indices, shape)
            copy_tensor(self.at, indices, near, shape)
        lanes = Lanes(self.at.emit, self.machine, None, shape)
        source = Ref(near.layout.offset, near.dtype, tuple(single(dim) or 0 for dim in near.layout.dims))
        lanes("mod", source, float(self.experts), out=Ref(found.layout.offset, IDS, dense_strides(shape, 4)))
        self.arena.reset(mark)
        return found

    def _inner(self) -> Lowering:
        """Where the products work: what the arena has left."""
        left = self.arena.left // ALIGNMENT * ALIGNMENT
        return replace(self.at, scratch=Scratch(self.arena.take(left), left))

    def _block(self, extra: int = 0) -> int:
        """Columns of a weight that are on chip at a time, with `extra` bytes for each, in each slot."""
        column = self.line * self.w.element_bytes + extra
        room = block_room(self.arena.left)
        if room < column:
            raise fail(Kind.CAPACITY, f"%{self.node.name}: not even one column of an expert fits the on-chip buffer")
        return chunk_of(self.width, room // column)

    def _blocks(self, block: int) -> Iterator[tuple[Scalar, int, int, Layout]]:
        """Blocks of columns: the first one, how many, a slot, and where expert 0 has their [columns, K].

        One loop, where columns lie at one distance; in the banks' pattern they do not, and blocks come one by one.
        """
        one = Layout(self.w.layout.offset, self.w.layout.dims[1:])
        if single(one.dims[0]) is not None:
            for start, columns, slot in chunks(self.at.emit, self.width, block, SLOTS):
                part = one.sliced(0, 0, columns)
                assert part is not None
                yield start, columns, slot, part
            return
        count = 0
        for low in range(0, self.width, block):
            for first, part in pieces(one, 0, low, min(self.width, low + block)):
                yield first, part.shape[0], count % SLOTS, part
                count += 1

    def _first(self, part: Layout, start: Scalar) -> Scalar:
        """The address of a block's first element in expert 0."""
        step = single(self.w.layout.dims[1])
        return part.offset if step is None else part.offset + start * step

    def _matrix(self, address: int, columns: int) -> Tensor:
        """A block on chip, [K, columns], stored column by column."""
        size = self.w.element_bytes
        return Tensor("buffer", Layout(address, (((self.depth, size),), ((columns, self.line * size),))), self.w.dtype)

    # -- one matrix for each pair -----------------------------------------------------------------------------------

    def chosen_experts(self) -> None:
        """A gather and a product for each pair and block of columns; the next gather runs beside the product."""
        block = self._block()
        held = [self.arena.take(block * self.line * self.w.element_bytes) for _ in range(SLOTS)]
        inner = self._inner()
        (token, by_token), (choice, by_choice) = self._pair_axes()
        with self.at.emit.loop(token) as t:
            for j, slot in self.at.emit.tiles(choice):
                for start, columns, turn, part in self._blocks(block):
                    where = (slot + turn) % SLOTS if block >= self.width else turn
                    index = self.ids.layout.offset + (t * self.choices + j) * (IDS.bits // 8)
                    self._gather(index, self._first(part, start), part, held[where])
                    moved = tuple(t * a + j * b for a, b in zip(by_token, by_choice, strict=True))
                    self._product(inner, held[where], columns, (moved[0], 0, moved[1] + start * self._step()))

    def _pair_axes(self) -> tuple[tuple[int, tuple[int, int]], tuple[int, tuple[int, int]]]:
        """Tokens and choices: how many, and by how much x and the result move with each."""
        axes = []
        for dim, count in ((0, self.tokens), (1, self.choices)):
            moves = (_stride(self.x, dim), _stride(self.out, dim))
            axes.append((count, moves))
        return axes[0], axes[1]

    def _step(self) -> int:
        return _stride(self.out, 2)

    def _gather(self, index: Scalar, table: Scalar, part: Layout, address: int) -> None:
        """A block [columns, K] of the expert that the index names; `part` is that of expert 0."""
        experts, row = self.w.layout.dims[0], [d for dim in part.dims for d in dim]
        command = Gather(
            space=self.w.space, table=table, dtype=self.w.dtype, axis_counts=tuple(c for c, _ in experts),
            axis_strides=tuple(s for _, s in experts), row_counts=tuple(c for c, _ in row),
            row_strides=tuple(s for _, s in row), indices=index, index_type=IDS, index_stride=0, count=1, rows=address,
            row_stride=0, extent=self.experts,
        )  # fmt: skip
        self.at.emit.issue("load", command)

    def _product(self, inner: Lowering, address: int, columns: int, moved: Moves) -> None:
        """One vector times a block on chip."""
        x = Layout(self.x.layout.offset, (((1, 0),), self.x.layout.dims[2]))
        out = Layout(self.out.layout.offset, (((1, 0),), ((columns, self._step()),)))
        self.contract(
            inner, replace(self.x, layout=x), self._matrix(address, columns), replace(self.out, layout=out), (), 1,
            columns, self.depth, moved=moved,
        )  # fmt: skip

    # -- every matrix once ------------------------------------------------------------------------------------------

    def all_experts(self) -> None:
        """Every expert's products with all vectors; each pair keeps those of its own expert."""
        rows, size = self._vectors(), self.out.element_bytes
        numbers = self._numbers()
        block = self._block(padded(1) + (prod(rows) + self.pairs) * size)
        held = [self.arena.take(block * self.line * self.w.element_bytes) for _ in range(SLOTS)]
        made = [self.arena.take(prod(rows) * block * size) for _ in range(SLOTS)]
        kept = [self.arena.take(self.pairs * block * size) for _ in range(SLOTS)]
        mask = self.arena.take(self.pairs)
        inner = self._inner()
        for start, columns, slot, part in self._blocks(block):
            shape = (self.tokens, self.choices, columns)
            strides = dense_strides(shape, size)
            result = Ref(kept[slot], self.out.dtype, strides)
            Lanes(self.at.emit, self.machine, None, shape)("copy", 0.0, out=result)
            for e, turn in self.at.emit.tiles(self.experts):
                self._load(e, self._first(part, start), part, held[turn])
                self._products(inner, rows, held[turn], columns, made[turn])
                self._keep(numbers + e * 4, Ref(mask, DType.BOOL, (self.choices, 1)), made[turn], rows, result, shape)
            self._store(kept[slot], start, shape, strides)

    def _vectors(self) -> tuple[int, int]:
        """Tokens, and vectors of each: one for all its experts, or one for each."""
        return self.tokens, given(self.node, 0).type.static_shape[1]

    def _numbers(self) -> int:
        """The numbers of all experts, on chip."""
        address = self.arena.take(self.experts * 4)
        Lanes(self.at.emit, self.machine, None, (1, self.experts))("index", 0.0, out=Ref(address, IDS, (0, 4)))
        return address

    def _load(self, expert: Scalar, first: Scalar, part: Layout, address: int) -> None:
        row = [d for dim in part.dims for d in dim]
        counts, far = [c for c, _ in row], [s for _, s in row]
        near = dense_strides(counts, self.w.element_bytes)
        start = first + expert * _stride(self.w, 0)
        issue_copy(self.at.emit, (self.w.space, "buffer"), start, address, self.w.dtype, counts, far, near)

    def _products(self, inner: Lowering, rows: tuple[int, int], matrix: int, columns: int, made: int) -> None:
        """All vectors times a block."""
        strides = dense_strides((*rows, columns), self.out.element_bytes)
        dims = tuple(((n, s),) for n, s in zip((*rows, columns), strides, strict=True))
        out = Tensor("buffer", Layout(made, dims), self.out.dtype)
        b = self._matrix(matrix, columns)
        self.contract(inner, self.x, b, out, rows[:1], rows[1], columns, self.depth)

    def _keep(
        self, number: Scalar, mask: Ref, made: int, rows: tuple[int, int], result: Ref, shape: tuple[int, int, int]
    ) -> None:
        """Those of the products that belong to pairs which chose the expert."""
        ids = Ref(self.ids.layout.offset, IDS, dense_strides(shape[:2], IDS.bits // 8))
        Lanes(self.at.emit, self.machine, None, shape[:2])("equal", ids, Ref(number, IDS, (0, 0)), out=mask)
        token, vector, column = dense_strides((*rows, shape[2]), self.out.element_bytes)
        source = Ref(made, self.out.dtype, (token, vector if rows[1] > 1 else 0, column))
        chosen = mask.spread(behind=1)
        Lanes(self.at.emit, self.machine, None, shape)("select", chosen, source, result, out=result)

    def _store(self, kept: int, start: Scalar, shape: tuple[int, int, int], near: Sequence[int]) -> None:
        far = tuple(_stride(self.out, dim) for dim in range(3))
        spaces = ("buffer", self.out.space)
        first = self.out.layout.offset + start * far[2]
        issue_copy(self.at.emit, spaces, kept, first, self.out.dtype, shape, near, far)


def single(digits: Sequence[Digit]) -> int | None:
    """The stride of a dimension that is one digit (0 if it has one index); None where it has more."""
    (_, step), *more = [d for d in digits if d[0] > 1] or [(1, 0)]
    return None if more else step


def _stride(tensor: Tensor, dim: int) -> int:
    """Bytes from index to index of a dimension that is one digit."""
    step = single(tensor.layout.dims[dim])
    if step is None:
        raise fail(Kind.CAPACITY, f"dimension {dim} of {tensor} does not lie at one distance")
    return step
