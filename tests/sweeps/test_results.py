"""What is not dominated, tables, and the picture."""

from __future__ import annotations

import csv
import io
import json
import xml.etree.ElementTree as ET
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import pimc
from pimc.sweeps.job import Answer, Failure
from pimc.sweeps.numbers import QUANTITIES
from pimc.sweeps.pareto import front
from pimc.sweeps.plan import Plan
from pimc.sweeps.plot import HEIGHT, WIDTH, svg
from pimc.sweeps.results import Row, SweepResult
from pimc.sweeps.run import sweep
from pimc.sweeps.spec import SweepSpec
from tests.cli.harness import ROOT
from tests.sweeps.specs import deadly, gemv

SVG = "{http://www.w3.org/2000/svg}"
needs_optuna = pytest.mark.skipif(find_spec("optuna") is None, reason="Optuna is not installed")


@given(st.integers(1, 4).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 6)] * n), max_size=40)))
def test_the_front_is_what_nothing_dominates(scores: list[tuple[int, ...]]) -> None:
    def dominated(one: tuple[int, ...]) -> bool:
        return any(all(a <= b for a, b in zip(other, one, strict=True)) and other != one for other in scores)

    found = front(dict(enumerate(scores)))
    assert sorted(found) == [n for n, score in enumerate(scores) if not dominated(score)]
    assert [scores[n] for n in found] == sorted(scores[n] for n in found)


def made(numbers: list[dict[str, Any] | None], objectives: Any) -> SweepResult:
    """A sweep with these numbers; None: the point failed."""
    spec = {"name": "made", "models": "m", "targets": ["a<b", "c"], "objectives": objectives}
    plan = Plan(SweepSpec.model_validate({**spec, "dims": {"n": list(range(1, -(-len(numbers) // 2) + 1))}}))
    failed = (Failure("P0605", "too few, alas"), Failure("", "and more"))
    answers = [Answer(str(i), n) if n is not None else Answer(str(i), failures=failed) for i, n in enumerate(numbers)]
    return SweepResult(plan, tuple(Row(*each) for each in zip(plan.points(), answers, strict=False)))


def test_objectives_have_their_direction_and_axes_may_be_some() -> None:
    numbers = [{"seconds": s, "tokens_per_s": t} for s, t in ((1.0, 5.0), (2.0, 9.0), (3.0, 7.0), (1.0, 5.0))]
    assert made([*numbers], ["seconds", "tokens_per_s"]).front == (0, 3, 1)
    assert made([*numbers], {"tokens_per_s": "min"}).front == (0, 3)
    assert made([*numbers], {"dim.n": "max", "seconds": None}).front == (3,)


def test_failed_points_and_points_that_lack_an_objective_take_no_part() -> None:
    found = made(
        [{"seconds": 3.0}, None, {"seconds": 2.0, "energy": 1.0}, {"seconds": 4.0, "energy": 0.5}],
        ["energy", "seconds"],
    )
    assert found.front == (3, 2)
    assert found.lacking == ()
    assert [row.answer.key for row in found.failed] == ["1"]
    none = made([{"seconds": 3.0}, None], ["energy", "seconds"])
    assert (none.front, none.lacking) == ((), ("energy",))


def test_tables_say_the_same() -> None:
    found = made(
        [{"seconds": 0.1 + 0.2, "cycles": 3}, None, {"seconds": 1e-9, "cycles": 2}, {"seconds": 1.0}], ["seconds"]
    )
    rows = list(csv.DictReader(io.StringIO(found.csv_text())))
    plain = json.loads(found.json_text())
    assert [row["status"] for row in rows] == ["done", "failed", "done", "done"]
    assert rows[1]["failure"] == "too few, alas; and more"
    assert plain["failed"] == 1
    for number, (row, point) in enumerate(zip(rows, plain["points"], strict=True)):
        assert (int(row["point"]), row["hash"]) == (point["number"], point["hash"]) == (number, str(number))
        assert row["target"] == point["settings"]["target"]
        for name in ("seconds", "cycles"):
            assert (float(row[name]) if row[name] else None) == point.get(name)
        assert row["pareto"] == (str(point["pareto"]).lower() if point["status"] == "done" else "")
    assert plain["points"][1]["failures"] == [{"code": "P0605", "message": "too few, alas"}, {"message": "and more"}]


@given(
    st.lists(
        st.none() | st.fixed_dictionaries({"seconds": st.floats(1e-9, 1e3), "memory": st.integers(0, 2**60)}),
        min_size=1,
    ),
    st.sampled_from([["seconds"], ["memory"], ["seconds", "memory"], ["memory", "seconds", "dim.n"]]),
)
def test_every_point_is_drawn_in_the_frame(numbers: list[dict[str, Any] | None], objectives: list[str]) -> None:
    found = made(numbers, objectives)
    page = ET.fromstring(svg(found))
    dots = [c for c in page.iter(f"{SVG}circle") if c.find(f"{SVG}title") is not None]
    assert len(dots) == len([n for n in numbers[: len(found.rows)] if n is not None])
    full = [dot for dot in dots if dot.get("fill") != "none"]
    assert len(full) == len(found.front)
    for dot in dots:
        assert 0 < float(dot.get("cx", "nan")) < WIDTH
        assert 0 < float(dot.get("cy", "nan")) < HEIGHT


def test_better_points_are_drawn_lower_and_to_the_left() -> None:
    found = made(
        [{"seconds": 1.0, "memory": 4}, {"seconds": 2.0, "memory": 2}, {"seconds": 9.0, "memory": 9}],
        ["seconds", "memory"],
    )
    page = ET.fromstring(svg(found))
    places = [(float(c.get("cx", 0)), float(c.get("cy", 0))) for c in page.iter(f"{SVG}circle") if len(c)]
    assert places == sorted(places)
    assert places[1][1] > places[0][1] > places[2][1]
    (joined,) = page.iter(f"{SVG}polyline")
    assert len(joined.get("points", "").split()) == 2
    text = [t.text for t in page.iter(f"{SVG}text")]
    assert {"made", "seconds [s]", "memory [B]", "a<b", "c"} <= set(text)


# -- points that depend on earlier ones -------------------------------------------------------------------------------


def searched(sampler: str, **more: Any) -> dict[str, Any]:
    search = {"kind": "optuna", "points": 18, "batch": 6, "seed": 5, "sampler": sampler, **more}
    given = gemv(objectives=["cycles", "memory"], targets=["aim-pinned", "cent"], search=search)
    given["dims"] = {"K": "64:1024:64", "N": "16:64:16"}
    return given


@needs_optuna
@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random"])
def test_a_search_finds_the_same_points_wherever_it_goes_on(sampler: str, tmp_path: Path) -> None:
    first = sweep(searched(sampler), tmp_path / "a", jobs=0)
    keys = [row.answer.key for row in first.rows]
    assert len(set(keys)) == len(keys) <= 18
    for path in sorted((tmp_path / "a/points").iterdir())[::2]:
        path.unlink()
    again = sweep(searched(sampler), tmp_path / "a", jobs=0)
    assert (again.csv_text(), again.json_text()) == (first.csv_text(), first.json_text())
    other = sweep(searched(sampler, seed=6), tmp_path / "a", jobs=0)
    assert [row.answer.key for row in other.rows] != keys


@needs_optuna
def test_a_search_does_not_depend_on_the_workers(tmp_path: Path) -> None:
    tables = [sweep(searched("tpe"), tmp_path / str(jobs), jobs=jobs).json_text() for jobs in (0, 2)]
    assert tables[0] == tables[1]


@needs_optuna
def test_a_search_learns(tmp_path: Path) -> None:
    """With more trials than drawing alike, more of the points are near the best one."""
    given = searched("tpe", points=60, batch=4)
    given["objectives"] = ["cycles"]
    found = sweep(given, tmp_path, jobs=0)
    cycles = [row.answer.numbers["cycles"] for row in found.rows]
    early, late = cycles[:12], cycles[-12:]
    assert sum(late) < sum(early)


@needs_optuna
def test_failed_trials_do_not_end_a_search(tmp_path: Path) -> None:
    given = searched("tpe", points=12)
    given["parallel"] = {"tp": [1, 3]}
    found = sweep(given, tmp_path, jobs=0)
    assert 0 < len(found.failed) < len(found.rows)


def test_without_optuna_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(pimc.CompileError, match="needs Optuna") as found:
        sweep(searched("tpe"), tmp_path, jobs=0)
    assert found.value.diagnostics[0].help == "pip install 'pimc[search]'"


def test_without_dask_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    with pytest.raises(pimc.CompileError, match=r"needs Dask\.distributed") as found:
        sweep(gemv(), tmp_path, cluster="local")
    assert found.value.diagnostics[0].help == "pip install 'pimc[cluster]'"


def test_the_deadly_pass_is_harmless_once_it_has_struck(tmp_path: Path) -> None:
    """What the tests of dying workers rest on: its marker decides, and it changes nothing."""
    given = deadly(tmp_path, times=0)
    with_it, without = sweep(given, tmp_path / "a", jobs=0), sweep(gemv(), tmp_path / "b", jobs=0)
    assert [r.answer.numbers for r in with_it.rows] == [r.answer.numbers for r in without.rows]
    assert {r.answer.key for r in with_it.rows}.isdisjoint(r.answer.key for r in without.rows)


def test_the_page_describes_every_number(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs/sweeps.md"
    rows = [f"| `{name}` | {q.unit or 'count'} | {q.better} | {q.doc} |" for name, q in QUANTITIES.items()]
    table = "\n| number | unit | better | what |\n|---|---|---|---|\n" + "\n".join(rows) + "\n\n"
    said = page.read_text()
    head, _, rest = said.partition("<!-- quantities -->\n")
    seen = f"{head}<!-- quantities -->\n{table}<!-- end -->{rest.partition('<!-- end -->')[2]}"
    if request.config.getoption("--update-golden"):
        page.write_text(seen)
        return
    assert seen == said
