"""What the timer of an AiM device's stream counts besides DRAM commands: the names of its tallies.

They stand by themselves, since whoever reads a report's counts need not have the controller that made them.
"""

from __future__ import annotations

OPEN_CLOCKS = "clocks with open rows"
"""Clocks in which channels had a row open, summed up over them."""
LINES = "lines"
"""Lines that the front end has decoded."""
TRACES = "clocks of trace "


def trace_clocks(number: int) -> str:
    """The tally of a trace's clocks."""
    return f"{TRACES}{number}"
