"""How often Python looks for objects that refer to each other in circles."""

from __future__ import annotations

import gc

SELDOM = (100_000, 20, 50)
"""Graphs, programs and simulators are many small objects that live long: looking at all of them again and again costs a
compilation a third of its time."""


def collect_seldom() -> None:
    """For processes that are pimc's own: its command, and those that it starts."""
    gc.set_threshold(*SELDOM)
