"""Which class of the style sheet an engine, a kind of op or a role is drawn in."""

from __future__ import annotations

from collections.abc import Sequence

ENGINES = ("npu", "pim", "pnm", "load", "store", "link")
ROLES = ("weight", "cache", "constant", "input", "output")
MOST = 9
"""Colours of a row."""


def engine(name: str) -> str:
    """Of an engine; its devices (`pim@0-7`) and further queues (`load-pim`) do not matter."""
    plain = name.partition("@")[0].partition("-")[0]
    return f"e-{plain}" if plain in ENGINES else "e-other"


def kind(place: int) -> str:
    """Of the op that takes most, the next, and so on."""
    return f"k{place}" if place < MOST else "k-other"


def role(name: str) -> str:
    return f"m-{name}" if name in ROLES else "m-other"


def cause(name: str, known: Sequence[str]) -> str:
    """Of what an engine waits for: the colour of an engine it waits for, else one of a row."""
    before, _, after = name.partition(":")
    if before == "wait" and after in ENGINES:
        return f"w-{after}"
    others = [c for c in known if not c.startswith("wait:")]
    return f"c{others.index(name) % 6}" if name in others else "c5"
