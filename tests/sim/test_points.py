"""Times over ranges of dimensions: each point is what compiling it alone gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from pimc.driver import Options, compile_model
from pimc.points import Decided, agreements, time_points

MODEL = Path(__file__).parents[2] / "models" / "tiny-llama.pimc"


def test_points_are_what_single_compilations_give() -> None:
    found = time_points(MODEL, "cent", Options(dims={"batch": 2}), {"past": range(0, 41, 8)}, processes=1)
    assert [p.dims["past"] for p in found.points] == [0, 8, 16, 24, 32, 40]
    cycles = []
    for point in found.points:
        alone = compile_model(MODEL, "cent", Options(dims={**point.dims}))
        assert alone.timing is not None
        cycles.append(alone.timing.cycles)
    told = [point.cycles for point in found.points]
    assert told == pytest.approx(cycles, rel=1e-3)  # at 24 the order may be another one than at both ends
    assert {one for one, other in zip(told, cycles, strict=True) if one != other} <= {told[3]}


def test_processes_change_nothing() -> None:
    ranges = {"past": range(30), "batch": range(1, 3)}
    shared, alone = (time_points(MODEL, "npu", Options(), ranges, processes=n) for n in (2, 1))
    assert shared == alone
    assert [tuple(p.dims[d] for d in ("past", "batch")) for p in shared.points] == [
        (p, b) for p in range(30) for b in (1, 2)
    ]


@pytest.mark.parametrize("target", ["cent", "neupims", "npu"])
def test_neighbours_are_what_single_compilations_give(target: str) -> None:
    """Every point of a stretch in which pieces of rows fill up, and one more bank comes into use."""
    found = time_points(MODEL, target, Options(), {"past": range(120, 136)}, processes=1)
    for point in found.points:
        alone = compile_model(MODEL, target, Options(dims={**point.dims}))
        assert alone.timing is not None
        assert point.cycles == alone.timing.cycles, point.dims
    times = [p.cycles for p in found.points]
    assert len(set(times)) > 1


def test_attention_is_whole_where_it_is_faster() -> None:
    """Between the ends of this range attention comes together: the range is halved until both ends of a part agree."""
    found = time_points(MODEL, "cent", Options(), {"past": range(40, 121, 4)}, processes=1)
    for point in found.points[::5]:
        alone = compile_model(MODEL, "cent", Options(dims={**point.dims}))
        assert alone.timing is not None
        assert point.cycles == alone.timing.cycles, point.dims


@pytest.mark.parametrize("changes", [(), (1,), (999,), (500, 501), (100, 400, 700)])
def test_points_between_two_that_agree_are_not_decided_again(changes: tuple[int, ...]) -> None:
    asked: list[int] = []

    def at(number: int) -> Decided:
        asked.append(number)
        return Decided({"op": str(sum(number >= change for change in changes))})

    found = dict(agreements(at, 1000))
    assert sorted([*asked, *found]) == list(range(1000))
    assert all(decided == at(number) for number, decided in found.items())
    assert len(asked) - len(found) <= 2 + 12 * len(changes)
