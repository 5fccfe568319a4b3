"""Python looks for garbage seldom while a compilation runs, and as it did before once it is over."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest

import pimc
from pimc.garbage import SELDOM, collect_seldom, seldom_collected

MODEL = Path(__file__).parent.parent / "models/bench/gemm.pimc"


@pytest.fixture
def _thresholds() -> Iterator[None]:
    """Those of the process are left as they were."""
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("_thresholds")
@pytest.mark.parametrize("own", [(700, 10, 10), (0, 10, 10), (1_000_000, 3, 3)], ids=["usual", "never", "rarely"])
def test_a_compilation_leaves_the_thresholds_of_its_process(own: tuple[int, int, int]) -> None:
    gc.set_threshold(*own)
    seen: list[tuple[int, int, int]] = []
    with seldom_collected():
        with seldom_collected():
            seen.append(gc.get_threshold())
        seen.append(gc.get_threshold())
    assert seen == [SELDOM if own[0] == 700 else own] * 2
    assert gc.get_threshold() == own
    pimc.compile(MODEL, "npu")
    with pytest.raises(pimc.CompileError):
        pimc.compile(MODEL, "no such target")
    assert gc.get_threshold() == own


@pytest.mark.usefixtures("_thresholds")
def test_a_compilation_looks_seldom() -> None:
    gc.set_threshold(700, 10, 10)
    seen: set[tuple[int, int, int]] = set()

    class Watch(pimc.Observer):
        def before_pass(self, name: str, graph: pimc.Graph) -> None:
            seen.add(gc.get_threshold())

    pimc.compile(MODEL, "npu", observers=[Watch()])
    assert seen == {SELDOM}


@pytest.mark.usefixtures("_thresholds")
def test_a_process_of_its_own_stays_as_it_is() -> None:
    collect_seldom(200_000)
    with seldom_collected():
        assert gc.get_threshold()[0] == 200_000
    assert gc.get_threshold()[0] == 200_000
