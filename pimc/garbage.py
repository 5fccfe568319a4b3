"""How often Python looks for objects that refer to each other in circles."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

SELDOM = (100_000, 20, 50)
"""Graphs, programs and simulators are many small objects that live long: looking at all of them again and again costs a
compilation a third of its time."""


def collect_seldom(objects: int = SELDOM[0]) -> None:
    """For processes that are pimc's own: its command, and those that it starts.

    objects: new ones after which Python looks; more of them take memory and save time.
    """
    gc.set_threshold(objects, *SELDOM[1:])


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """The same while something is done for a caller whose process it is."""
    before = gc.get_threshold()
    if 0 < before[0] < SELDOM[0]:
        gc.set_threshold(*SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*before)
