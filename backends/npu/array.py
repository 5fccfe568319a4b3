"""How long blocks take in systolic arrays: the one place that the timer and the tile search have it from.

    dataflow     what stays (a block)       what streams          a block takes, one after the other
    ws           weight     [k, n]          m rows of activation  load + stream + skew
    is           activation [k, m]          n rows of the weight  load + stream + skew
    os           sums       [m, n]          k of both             stream + skew + unload

A block is at most rows x columns of the array; the stream takes a clock for each of its rows. Where folds overlap, the
next stream follows the one before, at least `load` (or `unload`) after it began, and only the first load and the last
skew are seen. Where they alternate, each load follows on the stream before, and results leave meanwhile.

Several arrays work on one block together. A block that is larger than an array lies on several, side by side, and
arrays that are left over share the stream: its rows, or the depth of sums that stay, whose parts are added up as they
come to the accumulators.
"""

from __future__ import annotations

from collections.abc import Iterator

from pimc.backends.target import ArraySpec
from pimc.record import record


@record
class ArrayTime:
    """Clocks of the arrays of a device."""

    rows: int
    columns: int
    arrays: int
    minimum: int
    longest: int
    """rows that one stream can have; 0: any number"""
    serial: bool
    load: int
    first_load: int
    unload: int
    skew: int
    ahead: int
    alternating: bool = False

    def side_by_side(self, down: int, across: int) -> int:
        """Arrays that a block of so many rows and columns lies on."""
        return -(-down // self.rows) * -(-across // self.columns)

    def sharing(self, down: int, across: int) -> int:
        """Groups of so many arrays, each of which takes a part of a stream."""
        return max(1, self.arrays // self.side_by_side(down, across))

    def most(self, down: int, across: int) -> int:
        """Rows that one command can stream past a block; 0: any number."""
        return self.longest and self.longest * self.sharing(down, across)

    def stream(self, length: int, down: int, across: int) -> int:
        """Clocks for which a stream past a block enters the arrays."""
        return max(-(-length // self.sharing(down, across)), self.minimum)

    def visit(self, length: int, down: int, across: int) -> int:
        """Clocks from the start of a loaded block to that of the next."""
        stream = self.stream(length, down, across)
        if self.alternating:
            return self.load + stream
        return self.load + stream + self.skew if self.serial else max(self.load, stream)

    def round(self, length: int, down: int, across: int) -> int:
        """Clocks from the start of a block whose sums stay to that of the next."""
        stream = self.stream(length, down, across)
        return stream + self.skew + self.unload if self.serial else max(self.unload, stream)

    def grids(self) -> Iterator[tuple[int, int]]:
        """(arrays one under the other, arrays side by side) of a block; all of them divide the arrays."""
        counts = [n for n in range(1, self.arrays + 1) if self.arrays % n == 0]
        for down in counts:
            for across in counts:
                if self.arrays % (down * across) == 0:
                    yield down, across


def array_time(array: ArraySpec, arrays: int) -> ArrayTime:
    """The times of so many arrays."""
    load, first, unload, skew = (array.clocks(f) for f in (array.load, array.first_load, array.unload, array.skew))
    return ArrayTime(
        array.rows, array.columns, arrays, array.minimum_stream, array.longest_stream or 0,
        array.folds == "serial", max(0, load), max(0, first), max(0, unload), max(0, skew), array.ahead,
        array.folds == "alternating",
    )  # fmt: skip
