"""How often Python looks for objects that refer to each other in circles."""

from __future__ import annotations

import gc
import threading
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


_lock = threading.Lock()
_inside = 0
_before = gc.get_threshold()


@contextmanager
def importing() -> Iterator[None]:
    """`collecting_seldom` while modules are imported. What they made stays until the process ends: it joins the oldest
    objects, and is not looked at as soon as the caller's own threshold holds again."""
    with collecting_seldom():
        yield
        if gc.get_freeze_count() == 0:  # else thawing would undo what the caller froze
            gc.freeze()
            gc.unfreeze()


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """The same while something is done for callers whose process it is: what they had holds again once no thread is
    inside."""
    global _inside, _before
    with _lock:
        if not _inside:
            _before = gc.get_threshold()
            if 0 < _before[0] < SELDOM[0]:
                gc.set_threshold(*SELDOM)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                gc.set_threshold(*_before)
