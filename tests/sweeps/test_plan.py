"""Axes, their combinations, and what is drawn from them."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimc.sweeps.numbers import QUANTITIES
from pimc.sweeps.plan import Plan
from pimc.sweeps.spec import SweepSpec
from tests.sweeps.specs import gemv


def plan(**given_: Any) -> Plan:
    return Plan(SweepSpec.model_validate({"models": "m.pimc", "targets": ["a", "b"], **given_}))


def test_a_grid_is_all_combinations_with_the_last_axis_fastest() -> None:
    found = plan(set={"x.y": ["1ns", "2ns"]}, dims={"past": "0:4:2", "batch": 8}, parallel={"tp": [1, 2]})
    names = [axis.name for axis in found.axes]
    assert names == ["model", "target", "set.x.y", "dim.past", "dim.batch", "parallel.tp"]
    expected = list(product(["m.pimc"], ["a", "b"], ["1ns", "2ns"], [0, 2, 4], [8], [1, 2]))
    assert [point.values for point in found.points()] == expected
    assert found.combinations == len(expected)
    assert list(found.points())[5].of("dim") == {"past": 4, "batch": 8}
    assert list(found.points())[5].only("target") == "a"


@given(st.integers(0, 2**32), st.integers(1, 60))
def test_drawn_points_differ_and_follow_from_the_seed(seed: int, number: int) -> None:
    search = {"kind": "random", "points": number, "seed": seed}
    drawn = [p.places for p in plan(dims={"n": "1:20"}, search=search).points()]
    assert len(set(drawn)) == len(drawn) == min(number, 40)
    assert drawn == [p.places for p in plan(dims={"n": "1:20"}, search=search).points()]


def test_other_seeds_draw_others() -> None:
    searches = [{"kind": "random", "points": 5, "seed": seed} for seed in range(20)]
    assert len({tuple(p.places for p in plan(dims={"n": "1:500"}, search=s).points()) for s in searches}) == 20


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_combinations_are_numbered(sizes: list[int]) -> None:
    found = plan(dims={f"d{i}": list(range(n)) for i, n in enumerate(sizes)})
    numbered = [found.point(n).places for n in range(found.combinations)]
    assert numbered == sorted(set(numbered))
    assert len(numbered) == found.combinations


def test_objectives_have_their_better_direction() -> None:
    found = plan(set={"npu.cores": [1, 2]}, objectives=["seconds", "tokens_per_s", "set.npu.cores"])
    assert [(o.name, o.better) for o in found.objectives] == [
        ("seconds", "min"),
        ("tokens_per_s", "max"),
        ("set.npu.cores", "min"),
    ]
    (turned,) = plan(objectives={"seconds": "max"}).objectives
    assert turned.better == "max"
    assert {q.better for q in QUANTITIES.values()} == {"min", "max"}


def test_a_sweep_as_data_is_that_of_its_file(tmp_path: Path) -> None:
    from pimc.sweeps.reading import read_sweep

    plain = gemv()
    (tmp_path / "s.yaml").write_text(json.dumps(plain))
    as_file, as_data = (
        read_sweep(tmp_path / "s.yaml"),
        read_sweep({**plain, "dims": {"K": [64, 128, 256], "N": range(16, 33, 16)}}),
    )
    points = [list(s.plan.points()) for s in (as_file, as_data)]
    assert points[0] == points[1]
    assert [as_file.job(p).key for p in points[0]] == [as_data.job(p).key for p in points[1]]


def test_yaml_does_not_take_ranges_for_base_60(tmp_path: Path) -> None:
    from pimc.sweeps.reading import read_sweep

    text = f"models: {gemv()['models']}\ntargets: aim-pinned\ndims:\n  K: 16:48:16\n  N: [1:3, 8]\n"
    (tmp_path / "r.yaml").write_text(text)
    axes = {a.name: list(a.values) for a in read_sweep(tmp_path / "r.yaml").plan.axes}
    assert (axes["dim.K"], axes["dim.N"]) == ([16, 32, 48], [1, 2, 3, 8])


@pytest.mark.parametrize("bad", [{"search": {"kind": "grid", "points": 3}}, {"models": []}, {"dims": {"n": []}}])
def test_what_makes_no_points_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        plan(**bad)
