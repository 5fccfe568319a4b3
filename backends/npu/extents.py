"""What the search for tiles knows of a product."""

from __future__ import annotations

from pimc.backends.kernels.arena import padded
from pimc.backends.kernels.nest import tile_of
from pimc.backends.npu.isa import ACCUMULATOR_BYTES
from pimc.ir.layout import Digit
from pimc.record import record


@record
class Side:
    """A matrix in memory: the digits of its rows and of its columns, outermost first."""

    rows: tuple[Digit, ...]
    columns: tuple[Digit, ...]
    batch: tuple[Digit, ...] = ()
    """of products that follow each other"""


@record
class Extents:
    """A product [t, k] x [k, s]; operands and result that must move say how they lie in memory (None: on chip)."""

    t: int
    s: int
    k: int
    element_bytes: int
    streamed: Side | None
    """[t, k]"""
    stationary: Side | None
    """[s, k]"""
    out: Side | None
    """[t, s]"""
    turns: int = 1
    """such products, one after the other"""
    out_bytes: int = 0
    """on chip for each element of a tile of the result; 0: as for operands"""
    working_bytes: int = 0
    """for each of its elements, but for one tile alone (an epilogue)"""
    vector: float = 0.0
    """seconds of the vector unit for each element of the result (an epilogue)"""
    t_group: int = 1
    s_group: int = 1
    """of how much of t and s a tile of the result has all, or nothing (an epilogue that goes by rows, or by groups)"""
    stays: str = ""
    """t, s or ts: operands that lie on chip where commands can address them, and need no other place there"""
    cuts_k: int = 0
    """turns of the outermost loop over k, where both operands have one nest of them: it may be cut there"""
    led: str = ""
    """t or s: the operand that is computed tile by tile (a prologue)"""
    led_bytes: int = 0
    """on chip for each element of such a tile, beside its own place"""
    before: float = 0.0
    """seconds of the vector unit for each of its elements"""
    doubled: str = ""
    """t or s: the operand of which there are two, whose products with the other one go on together"""
    commands: int = 0
    """vector commands of a tile of the result, beside the one that drains it (an epilogue)"""
    t_loops: tuple[int, ...] = ()
    s_loops: tuple[int, ...] = ()
    """counts of the loops over t and over s, outermost first, where there are several: tiles end where these do"""

    def cut(self, name: str, tile: int, piece: int) -> tuple[int, int]:
        """How many tiles there are of t or s, and of how many pieces the first of them consists."""
        whole, loops = (self.t, self.t_loops) if name == "t" else (self.s, self.s_loops)
        if not loops:
            return -(-whole // tile), -(-tile // piece)
        first, count = tile_of(loops, tile)
        return count, tile_of(first, piece)[1]

    @property
    def of_out(self) -> int:
        return self.out_bytes or self.element_bytes

    @property
    def repeated(self) -> bool:
        return self.turns > 1

    def held(self, name: str, rows: int, k: int) -> int:
        """Bytes of one place for a tile of an operand (t or s), or of both."""
        return 0 if name in self.stays else self.times(name) * padded(rows * k * self.element_bytes)

    def times(self, name: str) -> int:
        """How many operands there are in the place of one."""
        return 2 if name == self.doubled else 1

    @property
    def products(self) -> int:
        return 2 if self.doubled else 1

    @property
    def on_vector_unit(self) -> float:
        """Seconds of prologue and epilogue."""
        led = self.t if self.led == "t" else self.s
        return self.t * self.s * self.vector + led * self.k * self.before

    def accumulators(self, t: int, s: int) -> int:
        """Bytes of those of a tile."""
        return self.products * t * s * ACCUMULATOR_BYTES
