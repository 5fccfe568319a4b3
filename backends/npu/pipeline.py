"""Turns whose stages overlap: while one is multiplied, another is in the vector unit, and a third arrives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pimc.backends.affine import Scalar
from pimc.backends.emitter import Emitter
from pimc.backends.kernels.nest import SLOTS
from pimc.record import record

Work = Callable[[], object]
"""Issues some commands."""


@record
class Turn:
    """Step `step` of group `group`; `slot` alternates from turn to turn, `place` from group to group."""

    group: Scalar
    step: int
    slot: int
    place: int


Body = Callable[[Sequence[Turn | None]], None]
"""Issues one beat: turn n, and those n - 1, n - 2, .. before it that are in later stages; None where there is none."""


def pipelined(emit: Emitter, groups: int, steps: int, stages: int, beat: Body) -> None:
    """All turns of `groups` groups of `steps`, in beats of `stages` stages.

    What all beats of two groups have in common becomes a loop: beats between that in which the last stage begins and
    that in which the first one ends.
    """
    span = SLOTS * steps
    bodies = groups // SLOTS
    first = -(-(stages - 1) // span)  # bodies before all stages are at work
    looped = bodies - first
    total = groups * steps
    at = 0
    if looped > 1:
        _beats(beat, 0, first * span, 0, total, steps, stages)
        with emit.loop(looped) as i:
            _beats(beat, first * span, span, i * SLOTS, None, steps, stages)
        at = bodies * span
    _beats(beat, at, total + stages - 1 - at, 0, total, steps, stages)


def _beats(beat: Body, start: int, count: int, moved: Scalar, total: int | None, steps: int, stages: int) -> None:
    for n in range(start, start + count):
        numbers = [n - lag for lag in range(stages)]
        beat([_turn(t, steps, moved) if total is None or 0 <= t < total else None for t in numbers])


def _turn(number: int, steps: int, moved: Scalar) -> Turn:
    group, step = divmod(number, steps)
    return Turn(moved + group, step, number % SLOTS, group % SLOTS)


def interleave(first: Sequence[Work], second: Sequence[Work]) -> None:
    """Do both lists in their orders, spread evenly among each other."""
    tagged = [((i + 1) / (len(first) + 1), 0, work) for i, work in enumerate(first)]
    tagged += [((i + 1) / (len(second) + 1), 1, work) for i, work in enumerate(second)]
    for _, _, work in sorted(tagged, key=lambda t: t[:2]):
        work()
