"""Slabs: tiles of any depth, whose products of all k gather in the accumulators."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pimc.backends.affine import Scalar
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.nest import SLOTS, Nest, Tiling, every_turn, tilings
from pimc.backends.kernels.product_nest import OUT
from pimc.backends.npu.blocks import Matrix, Sums
from pimc.backends.npu.extents import Extents
from pimc.backends.npu.strips import DRAINS
from pimc.backends.npu.tiled import Tiled, count_of, counted, plus
from pimc.record import record


@record
class _LastSlab:
    """The last of the slabs of a product, which comes in strips."""

    nest: Nest
    """of its k: (address of T, address of S)"""
    starts: dict[str, Scalar]
    """of the tiles of T and S, with the first k"""
    places: dict[str, int]
    """where its parts of T and S are to lie"""
    kept: Matrix | None
    """the operand that has come with all k"""
    added: Scalar
    """slabs before it"""


class Slabs(Tiled):
    """Tiles of both operands come one after the other, or one of them stays while the other one's pass by."""

    def _take(self, arena: Arena, e: Extents) -> dict[str, list[int]]:
        tiles, kept = self.tiles, self.tiles.kept
        if kept:
            self.sizes[kept] = e.held(kept, tiles.t if kept == "t" else tiles.s, e.k)
        if tiles.k < e.k:
            return {"out": [arena.take(self.sizes["out"]) for _ in range(tiles.slots)]}
        counts = {self.order[0]: tiles.slots_outer, self.order[1]: SLOTS, "out": tiles.slots}
        if tiles.t >= e.t and tiles.s >= e.s:
            counts |= dict.fromkeys(self.order, tiles.slots if e.repeated else 1)
        return {name: [arena.take(self.sizes[name]) for _ in range(n)] for name, n in counts.items()}

    def run(self, starts: Sequence[Scalar], turn: int) -> None:
        base = {"t": starts[self.streamed], "s": starts[self.stationary]}
        first, second = self.order
        results = (*starts[OUT:], 0)
        resident = self.tiles.k >= self.layer.k
        for outer, outer_at, slot in self._tiles(first, self.tiles.slots_outer):
            held = None
            if resident:
                room = self.slots[first][(slot + turn) % len(self.slots[first])]
                held = self._resident(first, outer, base[first] + outer_at[0], room)
            for inner, inner_at, turn_slot in self._tiles(second, SLOTS):
                inner_slot = (turn_slot + turn) % self.tiles.slots
                tile = {first: (outer, outer_at), second: (inner, inner_at)}
                address = {name: base[name] + tile[name][1][0] for name in ("t", "s")}
                rows, columns = tile["t"][0], tile["s"][0]
                sums = self._sums(self._accumulators(inner_slot, results), columns)
                last = None
                if held is not None:
                    room = self.slots[second][inner_slot % len(self.slots[second])]
                    other = self._resident(second, inner, address[second], room)
                    pair = (held, other) if first == "t" else (other, held)
                    self.blocks.multiply(*pair, rows.elements, columns.elements, self.layer.k, sums)
                else:
                    last = self._over_k(rows, columns, address, sums, (turn_slot + turn + slot) % SLOTS)
                at, out = plus(results, outer_at[1:], inner_at[1:]), self.slots["out"][inner_slot]
                if last is not None:
                    self._in_strips(last, {"t": rows, "s": columns}, at, sums, out)
                    continue
                self._finish(rows, columns, at, sums, out, inner_slot)

    def _over_k(
        self, rows: Tiling, columns: Tiling, address: dict[str, Scalar], sums: Sums, parity: int
    ) -> _LastSlab | None:
        """Tiles of k pass by, and their products are added up in the accumulators; the last one is left over where it
        comes in strips."""
        added: Scalar = 0
        done: Scalar = 0
        tiles, kept = {"t": rows, "s": columns}, self.tiles.kept
        whole = self._resident(kept, tiles[kept], address[kept], self._place(kept, parity)) if kept else None
        slabs = [slab for part in self.layer.parts for slab in tilings(part, self.tiles.k, even=False)]
        last = None
        if self.tiles.strips is not None and len(slabs[-1].outer.axes) <= 1:
            *slabs, final = slabs
            before, last = _but_last(final)
            slabs += before
        for number, slab in enumerate(slabs):
            turns = count_of(slab.outer.axes)
            for turn, starts, slot in counted(self.emit, slab.outer, self.tiles.deep):
                pair = []
                for i, (name, tile) in enumerate(tiles.items()):
                    if whole is not None and name == kept:
                        pair.append(whole.starting(whole.at(turn * slab.elements + done)))
                        continue
                    start = address[name] + starts[i]
                    held = self._place(name, (parity, "last" if number and slab is slabs[-1] else slot))
                    pair.append(self._bring(name, tile, [slab.tile], i, [start], held))
                t, s = pair
                self._multiply(t, s, rows.elements, columns.elements, slab.elements, sums, added + turn)
            added = added + turns
            done = done + turns * slab.elements
        if last is None:
            return None
        places = {name: self._place(name, (parity, "last")) for name in tiles if whole is None or name != kept}
        return _LastSlab(last, address, places, whole and whole.starting(whole.at(done)), added)

    def _multiply(self, t: Matrix, s: Matrix, rows: int, columns: int, k: int, sums: Sums, added: Scalar) -> None:
        """The products of one slab. If its first block is on chip before the slab is, it is outside of the loop over
        blocks, which waits for the slab: so it is loaded before."""
        first = self.blocks.high if self.tiles.kept == "s" and columns <= self.blocks.wide else 0
        if 0 < first < k:
            self.blocks.multiply(t, s, rows, columns, first, sums, added)
            t, s, added = t.starting(t.at(first)), s.starting(s.at(first)), 1
            k -= first
        self.blocks.multiply(t, s, rows, columns, k, sums, added)

    def _in_strips(
        self, last: _LastSlab, tiles: dict[str, Tiling], at: tuple[Scalar, ...], sums: Sums, out: int
    ) -> None:
        """The last slab: block after block of k, the last of them in strips whose results leave by themselves."""
        strips, size, done = self.tiles.strips, self.dtype.bits // 8, 0
        assert strips is not None
        own, other = ("t", "s") if strips.operand == "t" else ("s", "t")
        one, two = (0, 1) if own == "t" else (1, 0)
        blocks = list(_in_turn(last.nest, self.blocks.high))
        for number, (_, block, deep) in enumerate(blocks):
            ends = number == len(blocks) - 1
            if last.kept is not None:
                fixed = last.kept.starting(last.kept.at(done))
            else:
                place = last.places[other] + done * tiles[other].elements * size
                fixed = self._bring(other, tiles[other], [block.tile], two, [last.starts[other] + deep[two]], place)
            whole = Nest((0,) * (1 + len(at)), tiles[own].tile)
            for before, strip, moved in _in_turn(whole, strips.columns if ends else whole.elements):
                place = last.places[own] + (done * whole.elements + before * block.elements) * size
                start = last.starts[own] + deep[one] + moved[0]
                matrix = self._bring(own, strip, [block.tile], one, [start], place)
                t, s, rows, columns = (matrix, fixed, strip, tiles[other])
                if own == "s":
                    t, s, rows, columns = fixed, matrix, tiles[other], strip
                part = sums.starting(sums.at(*((before, 0) if own == "t" else (0, before))))
                alike = own == "t" and columns.elements <= self.blocks.wide  # all past the same block
                pair, added, loaded = (t, s), last.added + done, alike and before > 0
                if ends:
                    held = out + before * tiles[other].elements * self.out.element_bytes
                    drains = DRAINS if alike and before + strip.elements == whole.elements else 1
                    start = plus(at, moved[1:])[0]
                    self._strip(pair, rows, columns, block.elements, part, added, start, held, drains, loaded=loaded)
                else:
                    self.blocks.multiply(
                        *pair, rows.elements, columns.elements, block.elements, part, added, loaded=loaded
                    )  # fmt: skip
            done += block.elements

    def _strip(
        self, pair: tuple[Matrix, Matrix], rows: Tiling, columns: Tiling, k: int, sums: Sums, added: Scalar,
        start: Scalar, held: int, drains: int, *, loaded: bool,
    ) -> None:  # fmt: skip
        """The products of a strip, which leave in so many drains: while the last rows cross the array, those before
        are drained."""
        t, s = pair
        leaving = self._leaving(rows, columns, start, held)
        size = -(-rows.elements // drains)
        for first in range(0, rows.elements, size):
            count, part = min(size, rows.elements - first), sums.starting(sums.at(first, 0))
            self.blocks.multiply(
                t.rows_from(first), s, count, columns.elements, k, part, added, loaded=loaded or first > 0
            )  # fmt: skip
            self._drain(count, columns.elements, part, leaving.rows_from(first))
        self._take_home(rows, columns, start, leaving)


def _in_turn(nest: Nest, most: int) -> Iterator[tuple[int, Tiling, tuple[Scalar, ...]]]:
    """Pieces of at most so many elements one after the other: the elements before each, and where it begins."""
    before = 0
    for tiling in tilings(nest, most, even=False):
        for starts in every_turn(tiling.outer):
            yield before, tiling, starts
            before += tiling.elements


def _but_last(tiling: Tiling) -> tuple[list[Tiling], Nest]:
    """The tiles of one loop before the last one, and that."""
    if not tiling.outer.axes:
        return [], tiling.outer.around(tiling.tile)
    (axis,) = tiling.outer.axes
    before = tiling.outer.around((axis.cut_to(axis.count - 1),))
    final = tiling.outer.moved([stride * (axis.count - 1) for stride in axis.strides])
    return [replace(tiling, outer=before)], final.around(tiling.tile)
