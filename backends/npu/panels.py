"""Panels: a tile of one operand stays on chip while pieces of the other pass by, with all of k or in layers of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from pimc.backends.affine import Scalar
from pimc.backends.kernels.arena import Arena
from pimc.backends.kernels.nest import SLOTS, Nest, Tiling, every_turn, rotating, tilings, walk
from pimc.backends.kernels.product_nest import OUT
from pimc.backends.npu.blocks import Matrix
from pimc.backends.npu.extents import Extents
from pimc.backends.npu.isa import Fence
from pimc.backends.npu.tiled import Layer, Tiled, count_of, counted, plus
from pimc.backends.npu.tiles import move_seconds, rather_whole


class Panels(Tiled):
    """The outer tile comes in pieces too, which the first inner piece is multiplied with as they arrive."""

    def _cut_in_layers(self, parts: list[Nest], e: Extents) -> Iterator[Layer]:
        """All k as one, or as many as tiles are deep."""
        regular = len(parts) == 1 and len(parts[0].axes) == 1
        cuts = self.machine.parts(min(self.tiles.k, e.k), self.tiles.down) if regular else 1
        layers = e.k // self.tiles.k
        if layers == 1:
            yield Layer(parts, e.k, cuts)
            return
        (axis, *inner), start = parts[0].axes, parts[0]
        turns = axis.count // layers
        for number in range(layers):
            part = Nest(start.starts, (axis.cut_to(turns), *inner))
            yield Layer([part.merged()], self.tiles.k, 1 if number else cuts, number, number == layers - 1)
            start = start.moved([turns * stride for stride in axis.strides])

    def _tile(self) -> tuple[int, int, int]:
        tiles, depth = self.tiles, self.machine.depth(self.layer.k, self.tiles.down)
        return (tiles.piece, tiles.s, depth) if tiles.t_outside else (tiles.t, tiles.piece, depth)

    def _take(self, arena: Arena, e: Extents) -> dict[str, list[int]]:
        first, tiles = self.order[0], self.tiles
        self.piece_bytes = self.sizes[first]
        _, pieces = e.cut(first, tiles.t if tiles.t_outside else tiles.s, tiles.piece)
        self.sizes[first] = pieces * e.held(first, tiles.piece, self.depth)
        return {first: [arena.take(self.sizes[first]) for _ in range(tiles.slots_outer)]}

    def run(self, starts: Sequence[Scalar], turn: int) -> None:
        base = {"t": starts[self.streamed], "s": starts[self.stationary]}
        results = (*starts[OUT:], 0)
        for outer, outer_at, slot in self._tiles(self.order[0], len(self.slots[self.order[0]])):
            for layer in self.layers:
                self.layer = layer
                number = (slot + turn + layer.number) % len(self.slots[self.order[0]])
                self._panel(outer, outer_at, base, results, number)

    def _panel(
        self, outer: Tiling, at: tuple[Scalar, ...], base: dict[str, Scalar], results: tuple[Scalar, ...], number: int
    ) -> None:
        """A tile of the outer operand stays; pieces of the inner one pass by, the first while the tile arrives."""
        held = self.slots[self.order[0]][number]
        pieces = tilings(Nest((0,) * len(at), outer.tile), self.tiles.piece, even=False)
        limit = self.tiles.s if self.tiles.t_outside else self.tiles.t
        whole, *rest = tilings(self.groups[self.order[1]], limit, even=False)
        loops = whole.outer.axes
        moved = {**base, self.order[0]: base[self.order[0]] + at[0]}
        results = plus(results, at[1:])
        if len(loops) <= 1:
            self._pass(pieces, whole, whole.outer.starts, moved, results, held, (number, SLOTS), arrives=True)
            after = [x.cut_to(x.count - 1) for x in loops]
            turns = Nest(whole.outer.moved(loops[0].strides).starts, tuple(after)) if loops else None
            alone = len(pieces) == 1 and not pieces[0].outer.axes
            if turns is not None and loops and alone and self.tiles.early > 1:
                own, place = (self.order[1],), (number, SLOTS + 1)
                self._pass(pieces, whole, turns.starts, moved, results, held, place, arrives=False, parts=own)
                after = [x.cut_to(x.count - 1) for x in after]
                turns = Nest(turns.moved(loops[0].strides).starts, tuple(after))
        else:  # the first turn is not a turn of one loop: all pieces are brought before
            for piece, starts, _, chip in self._each(pieces, held):
                out = plus(results, starts[1:])
                self._resident(self.order[0], piece, moved[self.order[0]] + starts[0], chip, results=out)
            if self.led:
                self.emit.issue("npu", Fence("vector"))
            turns = whole.outer
        ends = len(pieces) == 1 and not pieces[0].outer.axes  # the very last piece of all may come in parts
        if ends and not rest and turns is not None and len(turns.axes) == 1 and turns.axes[0].count > 0:
            (axis,) = turns.axes
            final = turns.moved([stride * (axis.count - 1) for stride in axis.strides])
            rest = [Tiling(final.around(()), whole.tile)]
            turns = turns.around((axis.cut_to(axis.count - 1),))
        last = SLOTS
        if turns is not None and not all(axis.count for axis in turns.axes):
            turns = None
        for starts, slot in rotating(self.emit, turns, SLOTS) if turns is not None else ():
            last = min(slot, SLOTS)
            self._pass(pieces, whole, starts, moved, results, held, (number, last), arrives=False)
        for tiling in rest:
            for starts, _ in walk(self.emit, tiling.outer):
                slot = (last + 1) % (SLOTS + 1)
                parts = (self.order[1],) if ends and not tiling.outer.axes else ()
                self._pass(pieces, tiling, starts, moved, results, held, (number, slot), arrives=False, parts=parts)

    def _each(
        self, pieces: Sequence[Tiling], held: int, *, after: int = 0
    ) -> Iterator[tuple[Tiling, tuple[Scalar, ...], object, Scalar]]:
        """Every piece: its addresses in memory and in the result, its slot, and where it is on chip.

        after: leave out so many of the first pieces, which are turns of at most one loop then.
        """
        before = after
        for position, piece in enumerate(pieces):
            nest, loops = piece.outer, piece.outer.axes
            if position == 0 and after:
                if not loops:
                    continue
                beyond = nest.moved([after * stride for stride in loops[0].strides]).starts
                nest = Nest(beyond, (replace(loops[0], count=loops[0].count - after),))
            for turn, starts, slot in counted(self.emit, nest, self.tiles.slots):
                yield piece, starts, (position, slot), held + (turn + before) * self.piece_bytes
            before += count_of(nest.axes)

    def _pass(
        self, pieces: Sequence[Tiling], inner: Tiling, at: tuple[Scalar, ...], base: dict[str, Scalar],
        results: tuple[Scalar, ...], held: int, slot: object, *, arrives: bool, parts: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        """One piece of the inner operand with every piece of the outer tile.

        arrives: the outer tile comes now, and with it the very first pieces in parts. parts: what else comes in parts.
        """
        first, second = self.order
        chip = self._place(second, slot)
        if arrives and self.led:
            self._pass_made(pieces, inner, at, base, results, held, slot)
            return
        begun = 0
        if (arrives or parts) and self._comes_in_parts(pieces[0]):
            begun = self._early(pieces[0]) if arrives else 1
            tiles = {first: pieces[0], second: inner}
            loops = pieces[0].outer.axes
            alone = len(pieces) == 1 and not loops
            for number in range(begun):
                start = pieces[0].outer.moved([number * stride for stride in loops[0].strides]) if number else None
                starts = (start or pieces[0].outer).starts
                addresses = {first: base[first] + starts[0], second: base[second] + at[0]}
                places = {first: held + number * self.piece_bytes, second: chip}
                out = plus(results, at[1:], starts[1:])
                acc = self._accumulators(number, out)
                moving = parts or ((first,) if number else ("t", "s"))
                self._multiply_parts(tiles, addresses, places, acc, moving)
                if self.layer.last:
                    held_out = self._place("out", (slot, (0, 0) if alone else ("early", number)))
                    self._finish(tiles["t"], tiles["s"], out, self._sums(acc, tiles["s"]), held_out, number)
        other = self._resident(second, inner, base[second] + at[0], chip, moves=not begun)
        for number, (piece, starts, turn, place) in enumerate(self._each(pieces, held, after=begun), begun):
            own = self._resident(first, piece, base[first] + starts[0], place, moves=arrives)
            pair = (own, other) if first == "t" else (other, own)
            rows, columns = (piece, inner) if first == "t" else (inner, piece)
            out = plus(results, at[1:], starts[1:])
            acc, layer = self._accumulators(number, out), self.layer
            sums = self._sums(acc, columns)
            self.blocks.multiply(*pair, rows.elements, columns.elements, layer.k, sums, layer.number)
            if layer.last:
                self._finish(rows, columns, out, sums, self._place("out", (slot, turn)), number)

    def _pass_made(
        self, pieces: Sequence[Tiling], inner: Tiling, at: tuple[Scalar, ...], base: dict[str, Scalar],
        results: tuple[Scalar, ...], held: int, slot: object,
    ) -> None:  # fmt: skip
        """The first inner piece with every piece of the outer tile, each of which is made while the one before is
        multiplied. Results leave one piece later, so that what makes the next one does not wait for the arrays."""
        first, second = self.order
        turns = [(piece, starts) for piece in pieces for starts in every_turn(piece.outer)]
        matrices: list[Matrix] = []

        def make(number: int) -> None:
            piece, starts = turns[number]
            out, place = plus(results, starts[1:]), held + number * self.piece_bytes
            matrices.append(self._resident(first, piece, base[first] + starts[0], place, results=out))

        def finish(number: int) -> None:
            rows, columns = (turns[number][0], inner) if first == "t" else (inner, turns[number][0])
            place = self._place("out", (slot, number % self.tiles.slots))
            out, acc = gathered[number]
            self._finish(rows, columns, out, self._sums(acc, columns), place, number)

        gathered: list[tuple[tuple[Scalar, ...], Scalar]] = []
        make(0)
        chip, start = self._place(second, slot), base[second] + at[0]
        in_parts = self._comes_in_parts(pieces[0])
        other = self._resident(second, inner, start, chip, moves=not in_parts)
        for number, (piece, starts) in enumerate(turns):
            self.emit.issue("npu", Fence("vector"))
            if number + 1 < len(turns):
                make(number + 1)
            if number:
                finish(number - 1)
            own = matrices[number]
            pair = (own, other) if first == "t" else (other, own)
            rows, columns = (piece, inner) if first == "t" else (inner, piece)
            out = plus(results, at[1:], starts[1:])
            acc = self._accumulators(number, out)
            if in_parts and not number:
                places = {first: held, second: chip}
                self._multiply_parts({first: piece, second: inner}, {first: base[first] + starts[0], second: start},
                                     places, acc, (second,))  # fmt: skip
            else:
                self.blocks.multiply(*pair, rows.elements, columns.elements, self.layer.k, self._sums(acc, columns))
            gathered.append((out, acc))
        finish(len(turns) - 1)

    def _early(self, piece: Tiling) -> int:
        """How many of the first outer pieces come in parts of k."""
        return min(self.tiles.early, count_of(piece.outer.axes))

    def _comes_in_parts(self, piece: Tiling) -> bool:
        """Whether the very first or last products begin before all of k is there."""
        moves = not all(tensor.on_chip for tensor in self.operands.values())
        return moves and self.layer.cuts > 1 and len(piece.outer.axes) <= 1

    def _multiply_parts(
        self, tiles: dict[str, Tiling], starts: dict[str, Scalar], held: dict[str, int], acc: Scalar,
        parts: tuple[str, ...],
    ) -> None:  # fmt: skip
        """Bring two pieces, or one of them, part by part of k, and multiply each as it arrives."""
        depth = self.machine.part(self.layer.k, self.tiles.down)
        for name in parts:
            if self._rather_whole(name, tiles[name], depth):
                self._resident(name, tiles[name], starts[name], held[name])
                parts = tuple(part for part in parts if part != name)
        done = 0
        for cut in tilings(self.layer.parts[0], depth, even=False):
            for turn, at, _ in counted(self.emit, cut.outer, 1):
                brought = {}
                for i, name in ((1, "s"), (0, "t")):  # the block is loaded into the arrays while rows still arrive
                    matrix = self._resident(name, tiles[name], starts[name], held[name], moves=False)
                    part = matrix.starting(matrix.at(turn * cut.elements + done))
                    if name in parts and not self._stays(name, tiles[name], [own.axes for own in self.layer.parts]):
                        self._copy(name, tiles[name], [cut.tile], i, [starts[name] + at[i]], part)
                    brought[name] = part
                rows, columns = tiles["t"].elements, tiles["s"].elements
                sums = self._sums(acc, tiles["s"])
                self.blocks.multiply(brought["t"], brought["s"], rows, columns, cut.elements, sums, turn + done)
            done += count_of(cut.outer.axes) * cut.elements

    def _rather_whole(self, name: str, tile: Tiling, depth: int) -> bool:
        side, size = self.sides[name], self.dtype.bits // 8
        part, whole = (
            move_seconds(self.machine.copies, side, tile.elements, k, size)[0] for k in (depth, self.layer.k)
        )
        return rather_whole(self.layer.k // depth, part, whole)
