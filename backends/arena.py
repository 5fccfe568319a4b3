"""Giving out addresses: first fit in a space of limited size."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class FreeList:
    """Free stretches of an address space, lowest first. Sizes are rounded up to `alignment`."""

    base: int
    capacity: int
    alignment: int = 64
    high: int = 0
    """The end of the highest stretch ever taken, relative to `base`."""
    _free: list[tuple[int, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._free = [(0, self.capacity)]

    def take(self, size: int) -> int | None:
        """The address of the lowest stretch that is large enough; None if there is none."""
        need = max(self.alignment, -(-size // self.alignment) * self.alignment)
        for i, (start, end) in enumerate(self._free):
            if end - start >= need:
                self._free[i : i + 1] = [(start + need, end)] if end - start > need else []
                self.high = max(self.high, start + need)
                return self.base + start
        return None

    def give_back(self, address: int, size: int) -> None:
        """Free what `take(size)` returned."""
        need = max(self.alignment, -(-size // self.alignment) * self.alignment)
        start = address - self.base
        merged = sorted([*self._free, (start, start + need)])
        joined: list[tuple[int, int]] = []
        for low, high in merged:
            if joined and joined[-1][1] == low:
                joined[-1] = (joined[-1][0], high)
            else:
                joined.append((low, high))
        self._free = joined


@dataclass
class Bump:
    """Addresses in rising order, never given back. `limit` is only for the message of who runs out."""

    next: int = 0

    def take(self, size: int, alignment: int) -> int:
        self.next = -(-self.next // alignment) * alignment
        address = self.next
        self.next += size
        return address
