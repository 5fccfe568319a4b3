"""How long a product takes as panels."""

from __future__ import annotations

from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import SLOTS
from pimc.backends.npu.candidates import RESULT, S, Search, T, cuts_rows, until_stored
from pimc.backends.npu.tiles import DEEP, Tiles, made_at_once, rather_whole
from pimc.record import record


def panel(
    search: Search, grid: tuple[int, int], t_outside: bool, tile: int, piece: int, inner: int, depth: int = 0
) -> Tiles | None:
    """depth: of a layer of k, of which there are several over one outer tile (0: all of k at once).

    None for what does not fit, or is seen to be beaten before its time is known.
    """
    led = search.product.led
    if led and (led == "t") != t_outside:
        return None
    found = _Panel(search, grid, t_outside, tile, piece, inner, depth)
    return found.tiles() if found.fits() and found.may_win() else None


class _Panel:
    """`turns_outer` tiles of the outer operand, each in pieces, and `turns_inner` pieces of the inner one for each; of
    all of that so many `layers`, k deep."""

    def __init__(
        self, search: Search, grid: tuple[int, int], t_outside: bool, tile: int, piece: int, inner: int, depth: int
    ) -> None:
        e = search.product
        self.search, self.grid, self.t_outside = search, grid, t_outside
        self.tile, self.piece, self.inner = tile, piece, inner
        self.layers, self.k = (e.k // depth, depth) if depth else (1, e.k)
        self.micro = (piece, inner) if t_outside else (inner, piece)
        self.names, self.sides = (("t", "s"), (T, S)) if t_outside else (("s", "t"), (S, T))
        self.made = piece * self.k * e.before
        """seconds in which a prologue makes a piece"""
        outer, whole = (e.t, e.s) if t_outside else (e.s, e.t)
        self.turns_outer, self.turns_inner, self.pieces = -(-outer // tile), -(-whole // inner), -(-tile // piece)
        if e.t_loops or e.s_loops:
            self.turns_outer, self.pieces = e.cut(self.names[0], tile, piece)
            self.turns_inner, _ = e.cut(self.names[1], inner, inner)
        self.turns = self.turns_outer * self.turns_inner

    def fits(self) -> bool:
        e, room, machine = self.search.product, self.search.room, self.search.machine
        if e.accumulators(self.piece, self.inner) > machine.accumulator_bytes or cuts_rows(e, *self.micro):
            return False
        first, second = self.names
        deep, out = machine.depth(self.k, self.grid[0]), self.piece * self.inner
        held_outer, held_inner = self.pieces * e.held(first, self.piece, deep), e.held(second, self.inner, deep)
        held_out = padded(out * e.of_out)
        own = padded(out * e.working_bytes) + padded(made_at_once(self.piece, self.k) * self.k * e.led_bytes)
        inner = min(self.turns_inner, SLOTS + 2)  # those of a loop, and two before or one before and after

        def holds(slots_outer: int, slots: int) -> bool:
            outs = inner * min(self.pieces, 2 * slots + 2)
            outs *= slots_outer if self.layers == 1 else 1  # of the last layer alone
            return room.holds(own + slots_outer * (held_outer + inner * held_inner) + outs * held_out)

        alone = self.turns == self.pieces == 1
        one = e.held(first, self.tile, deep) + held_inner + held_out
        self.slots = DEEP if (alone and e.repeated and room.holds(one * DEEP)) or self.pieces > SLOTS else SLOTS
        tiles = self.turns_outer * self.layers
        self.slots_outer = self.slots if e.repeated else min(tiles, SLOTS)
        if not holds(self.slots_outer, self.slots):
            return False
        more = machine.overlaps and not e.repeated
        if more and tiles > SLOTS and holds(min(tiles, DEEP), self.slots):
            self.slots_outer = min(tiles, DEEP)  # they come ahead, while ops before are at work
        self.may_queue = more and self.pieces > DEEP and holds(self.slots_outer, 2 * DEEP)
        return True

    def may_win(self) -> bool:
        """Whether neither transfers nor products alone take longer than the best tiles."""
        search, e = self.search, self.search.product
        self.of_outer = search.moved(self.sides[0], self.piece, self.k)
        self.of_inner = search.moved(self.sides[1], self.inner, self.k)
        self.of_out = search.moved(RESULT, *self.micro)
        begun, out = self.turns_outer * self.pieces, self.turns * self.pieces
        self.loading = self.layers * (begun * self.of_outer[0] + self.turns * self.of_inner[0])
        self.storing = out * self.of_out[0]
        self.bus = self.layers * (begun * self.of_outer[1] + self.turns * self.of_inner[1]) + out * self.of_out[1]
        self.memory = self.moving = max(self.loading, self.storing, self.bus)
        self.drained = self.micro[0] * self.micro[1] * search.drained
        self.after = self.of_out[0] + self.drained
        self.ends = self.beside = 0.0
        if not e.repeated:  # before the last piece of the result is there
            self.ends = search.turnaround + self.after
            self.moving = max(self.loading, self.storing - self.of_out[0], self.bus - self.of_out[1])
            self.beside = (out - 1) * self.of_out[1] / self.bus if self.bus else 0.0
        stored = until_stored(self.loading, self.moving, self.ends, self.beside, self.of_out[0])
        if search.beaten(stored, self.memory, self.memory):
            return False
        whole, rest = divmod(self.tile, self.piece)
        self.turn = whole * self._clocks(self.piece) + (self._clocks(rest) if rest else 0)
        self.compute = self.layers * self.turns * self.turn
        return not search.beaten(self.compute + self.ends, self.compute, self.memory, self.compute)

    def _clocks(self, outer: int) -> float:
        """Seconds of the arrays for so many rows, or columns, of the outer operand and a piece of the inner one."""
        t, s = (outer, self.inner) if self.t_outside else (self.inner, outer)
        return self.search.compute(t, s, self.k, self.grid)

    def tiles(self) -> Tiles:
        self._begin()
        products, slots = self._products(), self._slots()
        steady = max(products, self._transfers(), slots)
        repeated = self.search.product.repeated
        seconds = steady + (self.turns_outer * self.made if repeated else self.ends)
        among = seconds
        if self.search.machine.overlaps and not repeated:
            among = max(products - self.first - self.filling + self.making, self.memory, slots)
        t, s = (self.tile, self.inner) if self.t_outside else (self.inner, self.tile)
        return Tiles(
            t, s, self.k, self.t_outside, self.slots_outer, self.slots, seconds, *self.grid, self.piece, "",
            self.early, self.compute, self.memory, among=among,
        )  # fmt: skip

    def _begin(self) -> None:
        """When the first products begin, and by how much those after them wait for operands."""
        search, e, machine = self.search, self.search.product, self.search.machine
        self.parts, stationary = machine.parts(self.k, self.grid[0]), 1 if self.t_outside else 0
        outer = _comes(search, self.sides[0], self.piece, self.k, self.parts, self.grid[0])
        inner = _comes(search, self.sides[1], self.inner, self.k, self.parts, self.grid[0])
        if e.led:  # made as a whole, and the other comes in parts
            outer = _Comes(self.of_outer[0], 0.0, 0.0)
        whole = outer.whole + inner.whole
        self.first = whole + outer.part + inner.part
        if not e.led and (self.parts > 1 or self.t_outside):
            # the stationary one comes first, and is loaded while the other arrives
            part = (outer, inner)[stationary].part
            self.first = max(whole + part, self.first - machine.array.first_load / machine.clock)
        self.slower = outer.slower + inner.slower
        self.in_parts = bool(inner.part or (self.turns_inner == 1 and outer.part))
        self.micros = self.turn / self.pieces
        # from the first product in a slot until it is stored
        self.leaving = self.turn / self.pieces + search.drain + self.after
        self.stalled = self._queue()
        late = {n: self._late(n) for n in (1, 2)}
        self.early = 2 if outer.part and late[2] < late[1] else 1
        self.filling = max(0.0, self.of_inner[0] + self.slower - self.first + late[self.early])
        # the first of a tile is made before all products, the others during those of the one before
        self.making = self.turns_outer * (self.made + (self.pieces - 1) * max(0.0, self.made - self.micros))
        self.filling += self.making

    def _queue(self) -> float:
        """Seconds of each turn in which arrays wait for a place of the result: a store waits until the next inner piece
        has come. Where the memory is not the limit there are more places then, if they fit."""
        if self.turns == 1 or self.search.product.repeated:
            return 0.0
        stored = self.leaving + self.of_inner[0]
        if self.may_queue and stored > self.slots * self.micros and self.compute > self.bus:
            self.slots = 2 * DEEP
        return max(0.0, stored - self.slots * self.micros) if self.pieces > self.slots else 0.0

    def _late(self, early: int) -> float:
        """Seconds by which operands come later, after the first inner piece, than the arrays have got to them.

        early: products whose operands come in parts, so that arrays wait for the last part alone.
        """
        outer, inner, pieces, turns, product = (
            self.of_outer[0],
            self.of_inner[0],
            self.pieces,
            self.turns_inner,
            self.micros,
        )
        # results hold up loads, so many pieces later
        out = self.of_out[1] if self.layers == 1 else 0.0
        behind = self.leaving / max(outer, product)
        waiting = product - product / self.parts
        found = [outer - waiting] if self.parts > 1 and (pieces == 1 or early > 1) else []
        for j in {min(1, pieces - 1), min(2, pieces - 1), pieces - 1}:
            if j or not found:
                held_up = max(0.0, j - behind) * out
                found.append((j + 1) * outer + held_up - j * product - (waiting if 0 < j < early else 0.0))
        for i in (1, 2):
            if turns > i:
                held_up = max(0.0, i * pieces - behind) * out
                found.append(pieces * outer + i * inner + held_up - i * pieces * product)
                found[-1] -= waiting if pieces == 1 and (i < early or i == turns - 1) else 0.0
        if self.layers > 1:  # the pieces of the second layer
            for j in {0, pieces - 1}:
                found.append((pieces + 1 + j) * outer + turns * inner - (turns * pieces + j) * product)
        return max(found)

    def _products(self) -> float:
        """Seconds of the arrays, which wait for nothing but the first operands."""
        if self.search.product.repeated:
            return self.compute
        busy = self.first + self.filling + self.compute + (self.turns - 1) * self.stalled
        if self.layers == 1:
            return busy
        # all results leave during the last layer
        last = self.turns * self.turn
        return busy - last + max(last, self.micros + self.storing - self.of_out[0], self._results())

    def _results(self) -> float:
        """Seconds in which all results leave the arrays, and the vector unit works on them."""
        e, out = self.search.product, self.turns * self.pieces
        queued = self.search.machine.queued(out, e.commands, self.micros, self.drained)
        return max(queued, out * max(self.leaving / self.slots, self.drained if e.vector else 0.0))

    def _transfers(self) -> float:
        """Seconds of the memory, and of what follows on the last loads, but for the end of all."""
        last = self.micros if self.turns_inner == 1 else self.turn
        if self.in_parts and self.pieces == self.turns_outer == self.layers == 1:
            # the very last one comes in parts; the one before did not, unless it is one of the first
            before = 2 * self.micros - self.of_inner[0] if self.turns_inner > 1 + self.early else 0.0
            last = max(last / self.parts, before)
        after = 0.0 if self.search.product.repeated else self.slower + last + self.ends
        busy = until_stored(self.loading, self.moving, after, self.beside, self.of_out[0]) - self.ends
        if self.pieces > self.slots and self.bus > max(self.compute, 0.9 * self.loading):
            # a store waits for the load that is under way, and for one that was asked for before it
            waiting = self.turns * self.pieces - self.layers * (self.turns_outer * self.pieces + self.turns) / 2
            busy = max(busy, self.loading + waiting * max(self.micros, self.after))
        return busy

    def _slots(self) -> float:
        """Seconds in which places on chip, and the vector unit, take all of it."""
        turnaround, found = self.search.turnaround, self._results()
        if self.turns > 1:  # from loading a slot until it may be loaded again
            around = self.turn + self.of_inner[0] + turnaround
            found = max(found, self.layers * self.turns * around / (2 * SLOTS if self.turns_outer > 1 else SLOTS))
        if self.layers > 1:
            layer = self.turns_inner * (self.turn + self.of_inner[0]) + self.pieces * self.of_outer[0] + turnaround
            found = max(found, self.layers * layer / SLOTS)
        return found


@record
class _Comes:
    """Seconds in which the first piece of an operand comes: as a whole, or each part of it, and by how much all parts
    are later than the whole."""

    whole: float
    part: float
    slower: float


def _comes(search: Search, operand: int, rows: int, k: int, parts: int, down: int) -> _Comes:
    whole, depth = search.moved(operand, rows, k)[0], search.machine.part(k, down)
    if parts == 1:
        return _Comes(0.0, whole, 0.0)
    part = search.moved(operand, rows, depth)[0]
    if rather_whole(k // depth, part, whole):
        return _Comes(whole, 0.0, 0.0)
    return _Comes(0.0, part, max(0.0, k / depth * part - whole))
