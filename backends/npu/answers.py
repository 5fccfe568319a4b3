"""Remembers what searches found that look for what fits a room."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pimc.backends.npu.candidates import Room

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

MOST = 4096
"""Questions of which answers are kept."""


@dataclass(slots=True)
class Answers(Generic[K, V]):
    """By what was asked: an answer depends on the room only where something else fits."""

    known: dict[K, list[tuple[Room, V]]] = field(default_factory=dict)

    def of(self, asked: K, room: int, find: Callable[[Room], V]) -> V:
        """What was found before in a room that is as good, or is found now."""
        if len(self.known) >= MOST:
            self.known.clear()
        answers = self.known.setdefault(asked, [])
        for before, answer in answers:
            if before.least <= room < before.below:
                return answer
        here = Room(room)
        answer = find(here)
        answers.append((here, answer))
        return answer
