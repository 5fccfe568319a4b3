"""Answers that are kept for the very object asked about, where to compare what it holds would take longer."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")

MOST = 8
"""Objects of which answers are kept: machines, of which a process has few at a time."""


def by_identity(find: Callable[[K], V]) -> Callable[[K], V]:
    """A function of an object that does not change: what it gave is given again for the same object, not for an equal
    one."""
    known: dict[int, tuple[K, V]] = {}

    @wraps(find)
    def found(asked: K) -> V:
        entry = known.get(id(asked))
        if entry is None:
            if len(known) >= MOST:
                known.clear()
            entry = known[id(asked)] = asked, find(asked)  # with the object, so that its id stays its own
        return entry[1]

    return found
