"""Time between the lengths for which it is estimated."""

from __future__ import annotations

import pytest

from pimc.ir.lengths import between_lengths


def test_few_lengths_stand_for_all() -> None:
    asked: set[int] = set()

    def seconds(tokens: int) -> float:
        asked.add(tokens)
        return 5.0 + tokens

    for tokens in range(1, 2049):
        assert between_lengths(seconds, tokens, 16) == pytest.approx(5 + -(-tokens // 16) * 16)
    assert sorted(asked) == [*range(16, 129, 16), *range(160, 257, 32),
                             *range(320, 513, 64), *range(640, 1025, 128), *range(1280, 2049, 256)]  # fmt: skip


def test_time_that_grows_by_steps_is_met_where_it_is_asked_for() -> None:
    """A page of 512 positions: 300 lies between 256 and 320, within one page."""
    assert between_lengths(lambda tokens: float(-(-tokens // 512)), 300, 16) == 1.0
    assert between_lengths(lambda tokens: float(-(-tokens // 512)), 512, 16) == 1.0
