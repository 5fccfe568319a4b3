"""Writing vector commands: grids of elements in the buffer, and functions applied to them.

`Lanes` stands for one grid. Its operands are `Ref`s, strided views of the buffer, or numbers; results go to short-lived
float32 grids unless said otherwise. A grid of more than two axes becomes a loop of commands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import replace
from functools import lru_cache
from math import prod
from typing import Any

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.arena import Arena, padded
from pimc.backends.kernels.nest import Axis, Nest, dense_strides, walk
from pimc.backends.vector import FORMS, Elementwise, Reduce, Scan
from pimc.ir.types import DType
from pimc.record import record


@record
class VectorMachine:
    """Whose vector commands a kernel is written in."""

    kind: str
    """kind of engine, which rules are registered for"""
    engine: str
    """name of the engine that takes the commands"""
    elementwise: Callable[[str], type[Elementwise]]
    """the command that computes a function"""
    reduce: Callable[[str], type[Reduce]]
    scan: type[Scan]
    lanes: int = 128
    """elements of a row that are worked on at once; shorter rows leave them to another axis of a grid"""
    wide_enough: int = 128
    """columns that pieces of long rows should have"""


@record
class Ref:
    """Elements in the buffer: one byte stride per axis of the grid (0: repeated)."""

    address: Scalar
    dtype: DType
    strides: tuple[int, ...]

    def spread(self, before: int = 0, behind: int = 0) -> Ref:
        """The same elements for a grid with more axes, repeated along those."""
        return replace(self, strides=(0,) * before + self.strides + (0,) * behind)


Source = Ref | float


class Lanes:
    """A grid of `counts` elements on which vector commands work."""

    def __init__(self, emit: Emitter, machine: VectorMachine, arena: Arena | None, counts: Sequence[int]) -> None:
        self.emit = emit
        self.machine = machine
        self.arena = arena
        self.counts = tuple(counts)

    def take(self, size: int) -> int:
        assert self.arena is not None
        return self.arena.take(size)

    def temp(self, dtype: DType = DType.F32) -> Ref:
        """A dense grid of its own."""
        size = dtype.bits // 8
        return Ref(self.take(prod(self.counts) * size), dtype, dense_strides(self.counts, size))

    def of_rows(self) -> Lanes:
        """Lanes with one element for each row: all axes but the last."""
        return Lanes(self.emit, self.machine, self.arena, self.counts[:-1])

    def over(self, counts: Sequence[int]) -> Lanes:
        """Lanes with other axes."""
        other = copy(self)
        other.counts = tuple(counts)
        return other

    def number(self, value: float) -> Ref:
        """One float32 in the buffer, repeated over the grid."""
        dtype = DType.F32
        ref = Ref(self.take(dtype.bits // 8), dtype, (0,) * len(self.counts))
        command = self.machine.elementwise("copy")(
            function="copy", form="i", rows=1, columns=1, dst=ref.address, dst_type=dtype,
            dst_row=0, dst_column=0, immediate=value,
        )  # fmt: skip
        self.issue(command)
        return ref

    def issue(self, command: Elementwise | Reduce | Scan) -> None:
        self.emit.issue(self.machine.engine, command)

    def __call__(self, function: str, *sources: Source, out: Ref | None = None, dtype: DType = DType.F32) -> Ref:
        """Apply a function; the result goes to `out`, or to a new grid of `dtype`."""
        form, refs, immediate = self._form(sources)
        if out is None:
            out = self.temp(dtype)
        self._grid(function, form, refs, immediate, out)
        return out

    def _form(self, sources: Sequence[Source]) -> tuple[str, list[Ref], float]:
        """Name the operands; numbers beyond the one immediate go to the buffer."""
        given = list(sources)
        form, refs, immediate = _named(given)
        while form not in FORMS:
            spare = next(i for i, s in enumerate(given) if not isinstance(s, Ref))
            given[spare] = self.number(immediates(given)[0])
            form, refs, immediate = _named(given)
        return form, refs, immediate

    def _grid(self, function: str, form: str, refs: list[Ref], immediate: float, out: Ref) -> None:
        views = [*refs, out]
        lanes = self.emit.lanes.get(self.machine.kind, self.machine.lanes)
        around, rows, columns = _cut(self.counts, tuple([v.strides for v in views]), lanes)
        kind = self.machine.elementwise(function)
        names = [_OPERANDS[letter] for letter in form if letter != "i"]
        for starts, _ in walk(self.emit, Nest(tuple([v.address for v in views]), around)):
            operands: dict[str, Any] = {}
            for i, own in enumerate(names):
                operands.update(zip(own, (starts[i], refs[i].dtype, rows.strides[i], columns.strides[i]), strict=True))
            self.issue(
                kind(
                    function=function, form=form, rows=rows.count, columns=columns.count, dst=starts[-1],
                    dst_type=out.dtype, dst_row=rows.strides[-1], dst_column=columns.strides[-1],
                    immediate=immediate, **operands,
                )
            )  # fmt: skip

    def reduce(self, function: str, x: Ref, out: Ref) -> Ref:
        """Bring the last axis down to one value; `out` has the other axes."""
        *outer, columns = self.counts
        axes = tuple(Axis(c, (x.strides[i], out.strides[i])) for i, c in enumerate(outer))
        nest = Nest((x.address, out.address), axes).merged()
        rows = nest.axes[-1] if nest.axes else _once(2)
        kind = self.machine.reduce(function)
        for starts, _ in walk(self.emit, Nest(nest.starts, nest.axes[:-1])):
            self.issue(
                kind(
                    function=function, rows=rows.count, columns=columns, dst=starts[1], dst_type=out.dtype,
                    dst_row=rows.strides[1], a=starts[0], a_type=x.dtype, a_row=rows.strides[0], a_column=x.strides[-1],
                )
            )  # fmt: skip
        return out

    def scan(self, x: Ref, out: Ref) -> Ref:
        """Running sums along the last axis."""
        *outer, columns = self.counts
        axes = tuple(Axis(c, (x.strides[i], out.strides[i])) for i, c in enumerate(outer))
        nest = Nest((x.address, out.address), axes).merged()
        rows = nest.axes[-1] if nest.axes else _once(2)
        for starts, _ in walk(self.emit, Nest(nest.starts, nest.axes[:-1])):
            self.issue(
                self.machine.scan(
                    rows=rows.count, columns=columns, dst=starts[1], dst_type=out.dtype, dst_row=rows.strides[1],
                    dst_column=out.strides[-1], a=starts[0], a_type=x.dtype, a_row=rows.strides[0],
                    a_column=x.strides[-1],
                )
            )  # fmt: skip
        return out


_OPERANDS = {x: (x, f"{x}_type", f"{x}_row", f"{x}_column") for x in "abc"}
"""By letter of an operand: where it begins, its type and its strides."""


class Rehearsal(Lanes):
    """A grid that writes no commands: it counts what a recipe takes, in bytes per element and single numbers."""

    def __init__(self, machine: VectorMachine, counts: Sequence[int]) -> None:
        super().__init__(Emitter(), machine, None, counts)
        self.grids: list[int] = []

    def take(self, size: int) -> int:
        self.grids.append(size)
        return 0

    def of_rows(self) -> Lanes:
        """What rows take is nothing beside their elements."""
        return Rehearsal(self.machine, self.counts[:-1])

    @property
    def per_element(self) -> int:
        return -(-sum(self.grids) // prod(self.counts))

    @property
    def extra(self) -> int:
        """Bytes lost to alignment, at most."""
        return padded(1) * len(self.grids)


def immediates(sources: Sequence[Source]) -> list[float]:
    return [float(s) for s in sources if not isinstance(s, Ref)]


def _named(sources: Sequence[Source]) -> tuple[str, list[Ref], float]:
    letters = iter("abc")
    form, refs, immediate = "", [], 0.0
    for source in sources:
        if isinstance(source, Ref):
            form += next(letters, "d")
            refs.append(source)
        else:
            form += "i"
            immediate = float(source)
    return form, refs, immediate


_FULLER = 0.75
"""Another axis than the last one becomes the columns where that takes less than this part of the passes."""


def _once(operands: int) -> Axis:
    return Axis(1, (0,) * operands)


@lru_cache(maxsize=1024)  # the steps of a recipe have few shapes
def _cut(
    counts: tuple[int, ...], strides: tuple[tuple[int, ...], ...], lanes: int
) -> tuple[tuple[Axis, ...], Axis, Axis]:
    """The loops around the commands for a grid, and the rows and columns of each; strides: of every operand."""
    merged = Nest((), tuple(map(Axis, counts, zip(*strides, strict=True)))).merged()
    order = _lanes_last(merged.axes, lanes)
    rows, columns = order[-2:] if len(order) > 1 else (_once(len(strides)), *(order or [_once(len(strides))]))
    return tuple(order[:-2]), rows, columns


def _lanes_last(axes: Sequence[Axis], lanes: int) -> list[Axis]:
    """The axes, with another one last if it fills the lanes clearly better, and before it the longest other one."""
    order = list(axes)
    if len(order) > 1:
        passes = [-(-axis.count // lanes) / axis.count for axis in order]
        fullest = min(reversed(range(len(order))), key=passes.__getitem__)
        columns = order.pop(fullest if passes[fullest] < _FULLER * passes[-1] else -1)
        longest = max(range(len(order)), key=lambda i: (order[i].count, i))
        order += [order.pop(longest), columns]
    return order
