"""Many small products of one shape, as the heads of a batch give them: several at a time, several as one.

A group of products comes by one copy of each operand, while the group before is multiplied, and leaves by one copy. On
chip, `count` products may go through the arrays as a single one: the stationary operands side by side, the streamed
rows one after the other, and of the result only the blocks on the diagonal are wanted. A block that is not filled
otherwise costs no more then.
"""

from __future__ import annotations

from functools import lru_cache

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.nest import SLOTS, chunks
from pimc.backends.npu.blocks import Blocks, Matrix, Sums
from pimc.backends.npu.isa import ACCUMULATOR_BYTES, Drain
from pimc.backends.npu.machine import Machine
from pimc.ir.types import DType
from pimc.record import record


@record
class Pack:
    """Products [t, k] x [k, s] on chip: how many go as one, and the grid of arrays that they lie on."""

    t: int
    s: int
    k: int
    count: int
    down: int
    across: int

    @property
    def row(self) -> int:
        """Bytes from row to row of the accumulators."""
        return self.count * self.s * ACCUMULATOR_BYTES

    @property
    def block(self) -> int:
        """Bytes of accumulators from the wanted block of one product to that of the next."""
        beside = self.s * ACCUMULATOR_BYTES if self.count > 1 else 0
        return self.t * self.row + beside

    def accumulators(self, products: int) -> int:
        """Bytes of accumulators of so many products."""
        return -(-products // self.count) * self.count * self.block

    @property
    def dense(self) -> bool:
        """Whether the wanted rows of all products lie at equal distances."""
        return self.count == 1 or self.t == 1

    def clocks(self, machine: Machine, products: int) -> int:
        """Clocks of the arrays for so many products."""
        whole, rest = divmod(products, self.count)
        clocks = whole * self._together(machine, self.count)
        return clocks + (self._together(machine, rest) if rest else 0)

    def _together(self, machine: Machine, count: int) -> int:
        return machine.compute(count * self.t, count * self.s, self.k, self.down, self.across)

    def drain_clocks(self, machine: Machine, products: int) -> int:
        """Clocks of the vector unit that brings so many products out of the accumulators."""
        if not machine.drained:
            return 0
        rows = -(-self.s // machine.lanes)
        return -(-products * self.t * rows * machine.lanes // machine.drained)

    # -- commands -------------------------------------------------------------------------------------------------

    def multiply(self, blocks: Blocks, t: Matrix, s: Matrix, products: range, acc: Scalar) -> None:
        """Some products of two groups; rows of either are those of one product after the other."""
        for turn, count, _ in chunks(blocks.emit, len(products), self.count):
            first = turn + products.start
            rows, columns = t.rows_from(first * self.t), s.rows_from(first * self.s)
            sums = Sums(acc + first * self.block, self.row)
            blocks.multiply(rows, columns, count * self.t, count * self.s, self.k, sums)

    def drain(
        self, emit: Emitter, products: int, acc: Scalar, to: Matrix, dtype: DType, scale: float = 1.0, apart: int = 0
    ) -> None:
        """What is wanted, to [products, t, s]; apart: bytes from product to product there (0: their rows follow)."""
        apart = apart or self.t * to.row
        together = (self.count == 1 or self.t == 1) and apart == self.t * to.row
        rows = products * self.t if together else self.t
        step = self.block // self.t if together else self.row
        with emit.loop(1 if together else products) as i:
            drain = Drain(
                acc=acc + i * self.block, rows=rows, columns=self.s, acc_row=step, dst=to.address + i * apart,
                dst_type=dtype, dst_row=to.row, dst_column=to.column, scale=scale,
            )  # fmt: skip
            emit.issue("npu", drain)


@lru_cache(maxsize=4096)
def best_pack(machine: Machine, t: int, s: int, k: int, products: int, room: int = 0) -> Pack:
    """The fastest way through the arrays that takes at most `room` bytes of accumulators (0: half of them) for all."""
    room = room or machine.accumulator_bytes // SLOTS
    found: list[tuple[float, int, Pack]] = []
    depth = products * t if machine.sums_stay else k
    grids = list(machine.array.grids())
    enough = min((down for down, _ in grids if machine.array.rows * down >= depth), default=machine.array.arrays)
    for down, across in grids:
        if down > enough and down % enough == 0:  # a lower grid is as good
            continue
        _, wide = machine.block(down, across)
        beside = [1, wide // s, machine.array.load // t, min(wide // s, machine.array.load // t)]
        for count in sorted({max(1, min(products, n)) for n in beside}):
            pack = Pack(t, s, k, count, down, across)
            if count == 1 or pack.accumulators(products) <= room:
                found.append((pack.clocks(machine, products), count, pack))
    return min(found, key=lambda f: f[:2])[2]
