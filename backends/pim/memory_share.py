"""How PIM work and normal traffic take turns on a memory whose banks have one row buffer.

Normal traffic holds the data bus. PIM work waits for traffic that came before it, and traffic that comes later
waits for PIM. `pim` tells what of the holding was PIM's: channels do not wait for each other.
"""

from __future__ import annotations

from pimc.backends.timing import Resources

MEMORY = "dram.bus"
"""The resource that transfers from and to DRAM hold."""
OURS = "pim"


class MemoryShare:
    """The view of one PIM timer on the memory that it shares."""

    def __init__(self, resources: Resources) -> None:
        self._memory = resources[MEMORY]
        self._ours = resources[OURS]

    @property
    def is_disturbed(self) -> bool:
        """Whether there was traffic since the last work."""
        return self._memory.free_at > self._ours.free_at

    def begin(self, at: int) -> tuple[int, bool]:
        """PIM work that is ready at a time: when it may start, and whether there was traffic since the last work."""
        busy_until = self._memory.free_at
        if busy_until <= self._ours.free_at:
            return at, False
        self._ours.free_at = busy_until
        return max(at, busy_until), True

    def end(self, at: int) -> None:
        """PIM work that lasts until a time holds off traffic."""
        if at > self._ours.free_at:
            self._ours.free_at = at
        if at > self._memory.free_at:
            self._memory.free_at = at
