"""How PIM work and normal traffic share a memory.

Where banks have one row buffer they take turns. Normal traffic holds the data bus. PIM work waits for traffic that came
before it, and traffic that comes later waits for PIM. `pim` tells what of the holding was PIM's: channels do not wait
for each other.

Where banks have two, `pim` tells until when some channel is at work: traffic that begins before that gets a share of
the data bus (`sharing.bus_percent`), since PIM commands come first. Work is taken to go on from one command to the next
unless a window between refreshes passes without any: in its shorter gaps rows open, or a refresh is waited for.
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

    def begin(self, at: int) -> int:
        """PIM work that is ready at a time, after traffic (`is_disturbed`): when it may start."""
        self._ours.free_at = self._memory.free_at
        return max(at, self._ours.free_at)

    def end(self, at: int) -> None:
        """PIM work that lasts until a time holds off traffic."""
        if at > self._ours.free_at:
            self._ours.free_at = at
        if at > self._memory.free_at:
            self._memory.free_at = at


class MemoryBeside:
    """What one PIM timer with two row buffers lets others know. window: picoseconds between refreshes."""

    def __init__(self, resources: Resources, window: int) -> None:
        self._ours = resources[OURS]
        self._window = window

    def end(self, at: int) -> None:
        """A command is at work until a time."""
        if at + self._window > self._ours.free_at:
            self._ours.free_at = at + self._window
