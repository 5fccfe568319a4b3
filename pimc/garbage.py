"""How often Python looks for objects that refer to each other in circles."""

from __future__ import annotations

import gc
import sys
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


def collect_no_more() -> None:
    """For a process that is pimc's own and has done its work: on its way out Python looks at all objects again and
    again, for a tenth of the time of a command, and all memory is given back anyway."""
    gc.freeze()


_lock = threading.Lock()
_inside = 0
_before = gc.get_threshold()
_modules = 0


@contextmanager
def collecting_seldom() -> Iterator[None]:
    """The same while something is done for callers whose process it is: what they had holds again once no thread is
    inside.

    Where modules were imported meanwhile, most of what is new stays until the process ends. It joins the oldest objects
    then, or all of it would be looked at as soon as the caller's threshold holds again.
    """
    global _inside, _before, _modules
    with _lock:
        if not _inside:
            _before, _modules = gc.get_threshold(), len(sys.modules)
            if 0 < _before[0] < SELDOM[0]:
                gc.set_threshold(*SELDOM)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if not _inside:
                if len(sys.modules) > _modules:
                    _join_the_oldest()
                gc.set_threshold(*_before)


def _join_the_oldest() -> None:
    if gc.get_freeze_count() == 0:  # else thawing would undo what the caller froze
        gc.freeze()
        gc.unfreeze()
