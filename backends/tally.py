"""Counts of commands, summed up when somebody asks for them: many commands count the same."""

from __future__ import annotations

from collections import Counter, defaultdict

Counted = tuple[tuple[str, int], ...]
"""What one command counts, by name."""


class Tally:
    """What the commands of a stream have counted."""

    __slots__ = ("_sums", "noted")

    def __init__(self) -> None:
        self.noted: defaultdict[Counted, int] = defaultdict(int)
        """what commands have counted since the last time that somebody asked, with how many they are"""
        self._sums: Counter[str] = Counter()

    def sums(self) -> Counter[str]:
        for counted, times in self.noted.items():
            for name, number in counted:
                self._sums[name] += number * times
        self.noted.clear()
        return self._sums
