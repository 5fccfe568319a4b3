"""How large the tiles of a matrix product are: a small search over what fits, scored by time.

One operand is streamed through the arrays (`t` rows), the other is stationary (`s` columns); both share `k`. Where sums
stay, both stream. Two schedules are tried:

    panels  whole k. A tile of the outer operand stays on chip while pieces of the inner one pass by; the outer tile
            comes in pieces too, which the first inner piece is multiplied with as they arrive. Or k in a few layers,
            each of which goes by like that, and all of the result in the accumulators: the arrays begin when the
            first pieces of the first layer are there
    slabs   tiles [t, k] and [s, k] of any depth; the products of all k gather in the accumulators. Of a few rows all of
            k may come at once and stay meanwhile, since their tiles, one by one, would use few channels each

Of a skinny product that loads limit, as in decode, the search ends where tiles take about what a stream takes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from pimc.backends.kernels.nest import chunk_of
from pimc.backends.npu.answers import Answers
from pimc.backends.npu.candidates import Room, Search
from pimc.backends.npu.extents import Extents
from pimc.backends.npu.machine import Machine
from pimc.backends.npu.panel_time import panel
from pimc.backends.npu.slab_time import Slab, on_arrays, slab_of
from pimc.backends.npu.tiles import Limits, Tiles

_LAYERS = (2, 4, 8)
"""Into how many layers k may be cut, one after the other over all of the result."""
_WORTH_LAYERS = 1.04
"""They are tried where something else than arrays and transfers takes more than that part of the time."""


_answers = Answers[tuple[Machine, Extents, Limits], Tiles | None]()


def best_tiles(machine: Machine, product: Extents, room: int, most: Limits | None = None) -> Tiles | None:
    """The fastest tiles that fit `room` bytes of the buffer, or None."""
    whole = product.t, product.s, product.k
    limits = whole if most is None else (min(most[0], whole[0]), min(most[1], whole[1]), min(most[2], whole[2]))

    def find(room: Room) -> Tiles | None:
        search = Search(machine, product, room)
        _run(search, limits)
        return search.best

    return _answers.of((machine, product, limits), room, find)


def _run(search: Search, limits: Limits) -> None:
    for found in _candidates(search, limits):
        if search.offer(found) and search.is_over:
            return


def _candidates(search: Search, limits: Limits) -> Iterator[Tiles | None]:
    """None for what does not fit. What comes later depends on the best so far."""
    machine, product = search.machine, search.product
    if product.led:  # panels alone make each tile once
        if limits[2] >= product.k:
            yield from _panels(search, limits)
        return
    if machine.tiling == "whole" and limits >= (product.t, product.s, product.k):
        for grid in search.grids:
            yield panel(search, grid, True, product.t, product.t, product.s)
        if search.best is not None:
            return
    if machine.tiling == "passes" and limits >= (product.t, product.s, product.k):
        width = min(product.s, machine.array.columns)
        yield panel(search, (1, 1), True, product.t, product.t, width)
        if search.best is not None:
            return
    deep = product.k > max(product.t, product.s) and search.stream > 0
    if deep:  # where they are mostly the best, and the search may end soon
        yield from _slabs(search, limits)
    if limits[2] >= product.k:
        yield from _panels(search, limits)
    if product.cuts_k and machine.tiling == "search" and not machine.sums_stay and not product.repeated:
        yield from _layers(search, limits)
    if not deep and (search.best is None or machine.tiling != "panels"):
        yield from _slabs(search, limits)
    if search.best is None:
        yield from _slabs(search, limits, small=True)


@lru_cache(maxsize=4096)
def _sizes(extent: int, block: int, most: int, *, small: bool = False) -> tuple[int, ...]:
    """Sizes to try: the whole, and halves of it down to a block, if `small` then to one; none above `most`."""
    sizes, size = list[int](), extent
    while True:
        if size <= most:
            sizes.append(size)
        if size == 1 or (size <= block and not small and size <= most):
            return tuple(sizes)
        half = -(-size // 2)
        size = -(-half // block) * block if half > block else chunk_of(extent, half)


def _panels(search: Search, most: Limits) -> Iterator[Tiles | None]:
    machine, product = search.machine, search.product
    for grid in search.promising():
        for t_outside in (True, False):
            outer, most_outer = (product.t, most[0]) if t_outside else (product.s, most[1])
            for piece, turn in _pairs(machine, product, grid, most, t_outside=t_outside):
                for tile in _sizes(outer, piece, most_outer):
                    yield panel(search, grid, t_outside, tile, min(piece, tile), turn)


def _layers(search: Search, most: Limits) -> Iterator[Tiles | None]:
    """Panels of a few layers of k, where fill and drain take a visible part of the time."""
    machine, product, best = search.machine, search.product, search.best
    if best is not None and best.seconds < _WORTH_LAYERS * max(best.compute, best.memory):
        return
    if product.accumulators(product.t, product.s) > machine.accumulator_bytes:
        return
    for grid in search.promising():
        high, _ = machine.block(*grid)
        layers = [n for n in _LAYERS if product.cuts_k % n == 0 and product.k % (n * high) == 0]
        depths = [product.k // n for n in layers if product.k // n <= most[2]]
        for t_outside in (True, False):
            outer, most_outer = (product.t, most[0]) if t_outside else (product.s, most[1])
            if outer > most_outer:
                continue
            for piece, turn in _pairs(machine, product, grid, most, t_outside=t_outside):
                for depth in depths:
                    yield panel(search, grid, t_outside, outer, piece, turn, depth)


def _pairs(
    machine: Machine, product: Extents, grid: tuple[int, int], most: Limits, *, t_outside: bool
) -> Iterator[tuple[int, int]]:
    """Sizes of the pieces of the outer and of the inner operand to try."""
    _, wide = machine.block(*grid)
    piece_t = machine.array.rows * grid[0] if machine.sums_stay else machine.piece(*grid) or product.t
    pieces_t, pieces_s = _pieces(piece_t, min(product.t, most[0])), _pieces(wide, min(product.s, most[1]))
    outer, inner = (pieces_t, pieces_s) if t_outside else (pieces_s, pieces_t)
    for piece in outer:
        for turn in inner:
            yield piece, turn


def _pieces(least: int, whole: int) -> list[int]:
    """Pieces as small as they may be, and larger ones, which memory may like better."""
    return list(dict.fromkeys(min(whole, size) for size in (least, 4 * least, whole)))


def _slabs(search: Search, most: Limits, *, small: bool = False) -> Iterator[Tiles | None]:
    machine, product = search.machine, search.product
    known: dict[tuple[int, int, int, bool], Slab | None] = {}
    for grid in search.promising():
        high, wide = machine.block(*grid)
        for k in _sizes(product.k, machine.array.rows if machine.sums_stay else high, most[2], small=small):
            if not machine.sums_stay and k <= high - machine.array.rows:
                continue  # a row of arrays would be left without work
            for s in _sizes(product.s, wide, most[1], small=small):
                for t in _sizes(product.t, machine.array.columns, most[0], small=small):
                    if machine.sums_stay and k < product.k and (t > high or s > wide):
                        continue  # sums of several blocks cannot stay from slab to slab
                    for t_outside in (True, False) if k >= product.k else (True,):  # else both orders are the same
                        key = t, s, k, t_outside
                        if key not in known:
                            known[key] = slab_of(search, *key)
                        slab = known[key]
                        if slab is not None and not search.beaten(slab.least, slab.memory, slab.memory):
                            yield on_arrays(search, slab, grid)
