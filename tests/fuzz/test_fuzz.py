"""Random and damaged models, texts and programs: the right result or a diagnostic, whatever the input.

A few seeds run each time; `pytest -m slow tests/fuzz` runs thousands. `python -m tests.fuzz.worker KIND SEED 1` runs a
single one. Every kind has a share of seeds that must come to a result, or a broken generator would make all tests pass.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fuzz.campaign import campaign

BATCH = 125
QUICK = {"rules": 200, "graphs": 20, "mutated": 16, "exported": 4, "bytes": 8, "texts": 24, "programs": 40}
"""Seeds of the default run."""
SLOW = {
    "rules": 16 * BATCH, "graphs": 8 * BATCH, "mutated": 6 * BATCH, "exported": 3 * BATCH, "bytes": 3 * BATCH,
    "texts": 5 * BATCH, "programs": 4 * BATCH,
}  # fmt: skip
"""Seeds of the slow run."""
LEAST = {"rules": 0.3, "graphs": 0.9, "mutated": 0.05, "exported": 0.05, "bytes": 0.0, "texts": 0.02, "programs": 0.02}
"""The share of seeds that give a result which is compared, or a command that succeeds."""


def check(kind: str, first: int, count: int) -> None:
    found = campaign(kind, first, count)
    failed = [f"seed {e.seed}: {e.why}" for e in found if e.verdict == "failed"]
    assert not failed, f"{len(failed)} of {count} seeds of '{kind}' failed:\n" + "\n".join(failed)
    share = Counter(e.verdict in ("equal", "done") for e in found)[True] / count
    assert share >= LEAST[kind], f"only {share:.0%} of '{kind}' came to a result"


@pytest.mark.parametrize("kind", QUICK)
def test_a_few_seeds(kind: str) -> None:
    check(kind, 0, QUICK[kind])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "first"), [(k, first) for k, count in SLOW.items() for first in range(1000, 1000 + count, BATCH)]
)
def test_many_seeds(kind: str, first: int) -> None:
    check(kind, first, BATCH)
