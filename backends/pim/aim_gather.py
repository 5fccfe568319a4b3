"""Getting a vector into AiM's global buffers whose elements do not lie at one distance."""

from __future__ import annotations

from pimc.backends.affine import Scalar
from pimc.backends.lowering import Lowering, Tensor
from pimc.backends.pim.aim_isa import WriteGlobalBuffer
from pimc.backends.pim.aim_transfer import SLOTS, Channels, Room, clear
from pimc.backends.pim.cells import COLUMN_BYTES, LANES
from pimc.backends.pim.products import gather_vector


class Gather:
    """Brings parts of vectors together in the on-chip buffer, and then to the global buffers."""

    def __init__(self, at: Lowering, arena: Room, x: Tensor, channels: Channels, columns: int, *, ragged: bool) -> None:
        """columns: of a part, at most. ragged: a part may end inside a column; zeros are behind it, which lie ready,
        since to clear something takes an accumulator."""
        self.at, self.x, self.channels = at, x, channels
        self.slots = [arena.take(columns * COLUMN_BYTES) for _ in range(SLOTS)]
        if ragged:
            self.rest = arena.take(COLUMN_BYTES)
            clear(at, self.rest, 1, x.dtype)

    def fill(self, number: int, source: Scalar, start: int, stop: int, column: int = 0) -> None:
        """Elements start..stop of the vector whose element 0 lies at `source` into columns from `column` on.
        number: of the part, counted on."""
        whole, rest = divmod(stop - start, LANES)
        middle = start + whole * LANES
        if whole:
            self._bring(source, self.slots[number % SLOTS], start, middle, column)
        if rest:
            self._bring(source, self.rest, middle, stop, column + whole)

    def _bring(self, source: Scalar, near: int, start: int, stop: int, column: int) -> None:
        gather_vector(self.at, self.x, source, near, start, stop)
        columns = -(-(stop - start) // LANES)
        command = WriteGlobalBuffer(columns, near, self.channels.mask, column, 0, self.channels.share, self.x.dtype)
        self.at.emit.issue("pim", command)
