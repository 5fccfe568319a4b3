"""A caller's process looks for garbage as often as before once pimc is done."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

import pimc
from pimc.garbage import SELDOM, collecting_seldom, importing


@pytest.fixture(autouse=True)
def often() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(600, 11, 12)
    yield
    gc.set_threshold(*before)


def test_garbage_is_looked_for_seldom_while_something_is_done() -> None:
    with collecting_seldom():
        assert gc.get_threshold() == SELDOM
        with collecting_seldom():
            assert gc.get_threshold() == SELDOM
        assert gc.get_threshold() == SELDOM
    assert gc.get_threshold() == (600, 11, 12)


def test_an_error_changes_nothing() -> None:
    with pytest.raises(pimc.CompileError):
        pimc.compile("missing.onnx", "npu")
    assert gc.get_threshold() == (600, 11, 12)


@pytest.mark.parametrize("own", [(0, 5, 6), (200_000, 5, 6)])
def test_a_caller_who_looks_more_seldom_still_is_left_alone(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    with collecting_seldom():
        assert gc.get_threshold() == own


def test_threads_share_it() -> None:
    """Whoever is the last to be done brings back what was before the first."""
    one, other = collecting_seldom(), collecting_seldom()
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert gc.get_threshold() == SELDOM
    other.__exit__(None, None, None)
    assert gc.get_threshold() == (600, 11, 12)


def test_what_imports_made_counts_as_old() -> None:
    gc.collect()
    with importing():
        made = [[number] for number in range(5000)]
    assert gc.get_count()[0] < len(made)
    assert any(made is each for each in gc.get_objects(generation=2))
    assert gc.get_freeze_count() == 0


def test_what_the_caller_froze_stays_frozen() -> None:
    gc.freeze()
    try:
        frozen = gc.get_freeze_count()
        with importing():
            pass
        assert gc.get_freeze_count() >= frozen - 100 > 0
    finally:
        gc.unfreeze()
