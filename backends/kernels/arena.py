"""The part of the on-chip buffer that one kernel works in."""

from __future__ import annotations

from pimc.backends.lowering import Lowering
from pimc.ir.diagnostics import Kind, fail

ALIGNMENT = 64


def padded(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


class Arena:
    """A block of scratch bytes, handed out in order. `mark` and `reset` give back what was taken since."""

    def __init__(self, at: Lowering, want: int | None = None) -> None:
        self.size = self.room(at, want)
        self.base = at.scratch.take(self.size)
        self._next = 0

    @staticmethod
    def within(base: int, size: int) -> Arena:
        """A part of one that somebody has taken."""
        arena = Arena.__new__(Arena)
        arena.base, arena.size, arena._next = base, size, 0
        return arena

    @staticmethod
    def room(at: Lowering, want: int | None = None) -> int:
        """How large an arena can be that wants so many bytes."""
        budget = at.scratch.budget // ALIGNMENT * ALIGNMENT
        return budget if want is None else min(budget, max(ALIGNMENT, padded(want)))

    @property
    def left(self) -> int:
        return self.size - self._next

    def take(self, size: int) -> int:
        """The address of `size` bytes."""
        rounded = padded(size)
        if rounded > self.left:
            raise fail(
                Kind.CAPACITY,
                f"a kernel needs {rounded} bytes on chip, but {self.left} of its {self.size} are left",
                help="the on-chip buffer of this target is too small for the operands that stay on it",
            )
        address = self.base + self._next
        self._next += rounded
        return address

    def mark(self) -> int:
        return self._next

    def reset(self, mark: int) -> None:
        self._next = mark
