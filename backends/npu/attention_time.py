"""How long a cut of attention takes.

Each turn brings the keys and values of one tile; the arrays multiply, and the vector unit keeps the running maximum and
sum. Turns overlap as the stages of a pipeline do (`attention.py`): the slowest of arrays, vector unit and memory sets
the pace, or what must follow each other. Mostly that is within a tenth of the simulator's time; of small cuts with many
vector commands, which hold up the arrays' commands, it is less by up to a third.
"""

from __future__ import annotations

from functools import lru_cache

from pimc.backends.kernels.nest import SLOTS
from pimc.backends.npu.attended import Attended, AttentionTiles, Seen
from pimc.backends.npu.extents import Side
from pimc.backends.npu.machine import Machine
from pimc.backends.npu.packs import Pack, best_pack
from pimc.backends.npu.tiles import move_seconds
from pimc.backends.npu.timing import tree_levels
from pimc.record import record

RUNNING = 5
"""Passes over a number of each row that keep the running maximum and sum from turn to turn."""


@record
class Core:
    """The machine of the search, and its vector unit."""

    machine: Machine
    units: int
    lanes: int
    tree: int
    """clocks of a level of a reduction"""
    step: int
    exp: int
    mul_add: int
    """clocks of a pass of a simple function, of an exponential, and of a multiplication with an addition"""
    swaps: tuple[bool, ...]
    """whether a product may be, or must be, turned round: its right operand streams past the left one then"""

    @property
    def accumulators(self) -> int:
        """Bytes of accumulators for one product of a turn; there are two, of two turns."""
        return self.machine.accumulator_bytes // (2 * SLOTS)

    def product(self, m: int, n: int, k: int, products: int) -> tuple[bool, Pack]:
        """The fastest way of `products` times [m, k] x [k, n], until the vector unit has them."""
        found = []
        for swap in self.swaps:
            t, s = (n, m) if swap else (m, n)
            pack = best_pack(self.machine, t, s, k, products, self.accumulators)
            clocks = pack.clocks(self.machine, products) + pack.drain_clocks(self.machine, products)
            found.append((clocks, swap, pack))
        _, swap, pack = min(found, key=lambda f: f[:2])
        return swap, pack

    def least(self, m: int, n: int, k: int, products: int) -> float:
        """No more clocks than `products` times [m, k] x [k, n] take, however many of them go as one: a row that streams
        takes one for each block, and blocks that stay must be loaded."""
        array = self.machine.array
        deep = products * k / (array.rows * array.arrays)
        if self.machine.sums_stay:
            return deep * m * n / array.columns
        sides = [(n, m) if swap else (m, n) for swap in self.swaps]
        return deep * min(max(t, t * s / array.columns, s * array.load / array.columns) for t, s in sides)

    def passes(self, rows: int, columns: int) -> int:
        return -(-rows * -(-columns // self.lanes) // self.units)

    def reduction(self, rows: int, columns: int) -> int:
        return -(-rows // self.units) * tree_levels(columns, self.lanes) * self.tree


@record
class TurnTime:
    """Clocks of the parts of a turn, as they are on average."""

    scores: float
    softmax: float
    context: float
    output: float
    """the stages: arrays, vector unit, arrays, vector unit"""
    drains: int
    """commands that bring what the arrays have multiplied to the vector unit"""
    drained: float
    """clocks of these, among those of softmax and output"""
    moved: float
    """transfers of keys and values"""
    rows: float
    """transfers of queries and results, for all turns that have the same"""

    @property
    def arrays(self) -> float:
        return self.scores + self.context

    @property
    def vector(self) -> float:
        return self.softmax + self.output

    def pace(self, machine: Machine) -> float:
        """Clocks from turn to turn.

        What arrays have multiplied leaves when they are done, one turn later: within two turns, their work is followed
        by that of the vector unit, and by transfers to places that they have left. Arrays that wait for either load
        their first block anew. Where drains fill the queue of the vector unit, arrays get their commands behind these.
        """
        array = machine.array
        busy = array.first_load - array.load + self.arrays + array.skew
        behind = max(self.vector, self.moved + machine.copies.latency * machine.clock)
        queued = 1 - machine.waiting / max(1, self.drains)
        held_up = busy + queued * self.drained if queued > 0 else 0.0
        return max(self.arrays, self.vector, (busy + behind) / 2, held_up)

    def clocks(self, machine: Machine, turns: int, blocks: int, groups: int) -> float:
        """Clocks of so many turns in all: of blocks of queries, each a pipeline of its own, and groups of turns with
        the same queries.

        All stages of one turn of a block are seen, and arrays are idle before each product of it; of another turn
        nothing but the first softmax, or the arrays, holds it up; the others come at the pipeline's pace. No sooner is
        all over than what is loaded last has gone through the last two stages.
        """
        array = machine.array
        first, skew = array.first_load - array.load, array.skew
        one = 2 * (first + skew) + self.arrays + self.vector
        # falls where the softmax takes longer, by no more than `one` grows: what takes longer in part does in all
        another = max(self.softmax, self.scores) + max(0.0, self.context - self.softmax)
        others = min(turns - blocks, blocks)
        computed = blocks * one + others * another + (turns - blocks - others) * self.pace(machine)
        last = first + self.context + skew + self.output
        return machine.copies.latency * machine.clock + max(
            self.moved / 2 + computed + self.rows, turns * self.moved + last + groups * self.rows
        )


def timed(core: Core, e: Attended, pairs: int, queries: int, keys: int, *, least: bool = False) -> AttentionTiles:
    """least: no more than that, without a look at the arrays' blocks and at where matrices lie."""
    machine, seen = core.machine, _seen(e, queries, keys, core.lanes)
    turns, groups = (n * -(-e.pairs // pairs) for n in (seen.tiles, seen.blocks))
    turn = _turn(core, e, pairs, queries, seen, least=least)
    seconds = turn.clocks(machine, turns, seen.blocks, groups) / machine.clock
    compute, vector, memory = (turns * part / machine.clock for part in (turn.arrays, turn.vector, turn.moved))
    return AttentionTiles(pairs, queries, keys, seconds, compute, vector, memory)


@lru_cache(maxsize=4096)
def _seen(e: Attended, queries: int, keys: int, lanes: int) -> Seen:
    """What all blocks of so many queries see."""
    blocks = [e.seen(start, min(queries, e.queries - start), keys, lanes) for start in range(0, e.queries, queries)]
    return Seen(
        len(blocks), sum(b.tiles for b in blocks), sum(b.masked for b in blocks), sum(b.keys for b in blocks),
        sum(b.passes for b in blocks),
    )  # fmt: skip


def _turn(core: Core, e: Attended, pairs: int, queries: int, seen: Seen, *, least: bool) -> TurnTime:
    machine, of_pair, keys = core.machine, e.group * queries, -(-seen.keys // seen.tiles)
    rows = pairs * of_pair
    clocks, drained, drains = [0.0, 0.0], [0, 0], 0
    for i, (n, k) in enumerate(((keys, e.depth), (e.width, keys))):
        if least:
            clocks[i] = core.least(of_pair, n, k, pairs)
            continue
        swap, pack = core.product(of_pair, n, k, pairs)
        clocks[i], drained[i] = pack.clocks(machine, pairs), pack.drain_clocks(machine, pairs)
        drains += pairs if swap or not pack.dense else 1
    # rows or keys lie in the lanes, whichever takes fewer passes
    passes = -(-min(rows * seen.passes, seen.keys * -(-rows // core.lanes)) // core.units) / seen.tiles
    steps = 1 + e.mask + (3 if e.softcap else 0) + e.limits * seen.masked / seen.tiles
    later = (seen.tiles - seen.blocks) / seen.tiles
    softmax = (steps * core.step + core.exp) * passes + 2 * core.reduction(rows, keys)
    softmax += later * RUNNING * core.step * core.passes(1, rows)
    output = (core.step + later * (core.mul_add - core.step)) * core.passes(rows, e.width)
    moved = _seconds(core, pairs, e.element_bytes, ((e.k, keys, e.depth), (e.v, keys, e.width)), least=least)
    held = _seconds(core, pairs, e.element_bytes, ((e.q, of_pair, e.depth), (e.out, of_pair, e.width)), least=least)
    return TurnTime(
        clocks[0], drained[0] + softmax, clocks[1], drained[1] + output, drains, sum(drained),
        moved * machine.clock, held * machine.clock,
    )  # fmt: skip


def _seconds(
    core: Core, pairs: int, size: int, matrices: tuple[tuple[Side | None, int, int], ...], *, least: bool
) -> float:
    """Of transfers of matrices [rows, columns]."""
    copies = core.machine.copies
    if least:
        return sum(copies.least(pairs * rows * columns * size) for side, rows, columns in matrices if _all_moves(side))
    return sum(move_seconds(copies, side, rows, columns, size, pairs)[0] for side, rows, columns in matrices)


def _all_moves(side: Side | None) -> bool:
    """Whether a matrix is in memory, and nothing of it for several pairs."""
    return side is not None and all(stride or count == 1 for count, stride in (*side.batch, *side.rows, *side.columns))
