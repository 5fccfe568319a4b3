"""How often Python looks for objects that refer to each other in circles."""

from __future__ import annotations

import gc

SELDOM = (100_000, 20, 50)
"""Graphs, programs and simulators are many small objects that live long: looking at all of them again and again costs a
compilation a third of its time."""


def collect_seldom(objects: int = SELDOM[0]) -> None:
    """For processes that are pimc's own: its command, and those that it starts.

    objects: new ones after which Python looks; more of them take memory and save time.
    """
    gc.set_threshold(objects, *SELDOM[1:])
