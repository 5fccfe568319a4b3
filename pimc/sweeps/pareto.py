"""Which points are not worse than any other in everything that counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Scores = tuple[float, ...]
"""Of one point; smaller is better."""


def front(scores: Mapping[int, Scores]) -> list[int]:
    """The points that no other dominates (is as good in every score and better in one), by their scores.

    Points with equal scores do not dominate each other.
    """
    kept: list[int] = []
    for number in sorted(scores, key=lambda n: (scores[n], n)):
        # whoever dominates this point comes before it
        if not any(_dominates(scores[other], scores[number]) for other in kept):
            kept.append(number)
    return kept


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
