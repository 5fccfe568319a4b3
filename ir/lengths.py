"""Lengths of requests for which time is estimated: few of them, between which it is taken to grow evenly."""

from __future__ import annotations

from collections.abc import Callable

PER_OCTAVE = 4
"""Lengths from one power of two to the next."""


def between_lengths(seconds: Callable[[int], float], tokens: int, grain: int) -> float:
    """Seconds for so many tokens, of which `grain` take as long as any part of them.

    `seconds` is asked for a multiple of the grain, or for the two around it that lie `PER_OCTAVE` to an octave.
    """
    grains = -(-tokens // grain)
    step = max(1, (1 << max(0, grains.bit_length() - 1)) // PER_OCTAVE)
    low, over = grains // step * step, grains % step
    found = seconds(low * grain)
    return found if not over else found + (seconds((low + step) * grain) - found) * over / step
