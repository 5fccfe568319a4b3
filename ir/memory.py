"""Where values live: a space of the machine, a layout in it, and the type in which elements are stored."""

from __future__ import annotations

from pimc.ir.blocks import Blocks
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.record import record


@record
class Home:
    """The place of one value on every device that holds it.

    space: "dram" (flat addresses of a device's memory) or "buffer" (on chip). The layout counts bytes of the stored
    type `dtype`, which for floats is the machine's own. Of 4-bit elements it sees the bytes that hold two of them each.
    """

    space: str
    layout: Layout
    dtype: DType
    parts: tuple[Layout, ...] = ()
    """where each group of requests lies, if requests have lengths of their own; `layout` is then the first one's"""
    blocks: tuple[Blocks, ...] = ()
    """how a paged cache lies in its blocks, part by part; empty: the layout's addresses are those of the space"""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape

    @property
    def element_bytes(self) -> int:
        return max(1, self.dtype.bits // 8)

    @property
    def bytes(self) -> int:
        """Bytes of the elements, gaps not counted."""
        return sum(layout.elements for layout in self.parts or (self.layout,)) * self.element_bytes

    @property
    def on_chip(self) -> bool:
        return self.space == "buffer"

    def __str__(self) -> str:
        return f"{self.space}{self.layout}:{self.dtype.text}"
