"""`pimc sweep`: what it prints and writes, and how it ends."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
import yaml

import pimc
from tests.cli.harness import ROOT, TINY, CommandLine
from tests.sweeps.specs import gemv

EXAMPLES = sorted((ROOT / "models/sweeps").glob("*.yaml"))


@pytest.fixture
def spec(run: CommandLine) -> str:
    return write(run, gemv(name="six", objectives=["seconds", "memory"]))


def write(run: CommandLine, plain: object) -> str:
    (run.folder / "s.yaml").write_text(json.dumps(plain))
    return "s.yaml"


def test_a_sweep_prints_its_front_and_keeps_its_tables(run: CommandLine, spec: str) -> None:
    out = run.done("sweep", spec, "-j", "0")
    assert out.startswith("six · 6 points of 6\n  points   6 done\n  optimum  seconds (min), memory (min)\n")
    assert "s.sweep/results.csv, s.sweep/results.json, s.sweep/pareto.svg" in out
    plain = json.loads((run.folder / "s.sweep/results.json").read_text())
    best = [p["number"] for p in plain["points"] if p["pareto"]]
    rows = [line.split() for line in out.splitlines()[5:]]
    assert [int(row[0]) for row in rows if row and row[0].isdigit()] == best
    again = run.done("sweep", spec, "-j", "0")
    assert "6 done (6 before)" in again


def test_json_and_csv_are_the_kept_tables(run: CommandLine, spec: str) -> None:
    printed = run.done("sweep", spec, "-j", "0", "-o", "out", "--json")
    assert printed == (run.folder / "out/results.json").read_text()
    assert run.done("sweep", spec, "-j", "0", "-o", "out", "--csv", "-") == (run.folder / "out/results.csv").read_text()
    assert run.done("sweep", spec, "-j", "0", "-o", "out", "-q", "--csv", "x.csv", "--plot", "x.svg") == ""
    assert (run.folder / "x.csv").read_bytes() == (run.folder / "out/results.csv").read_bytes()
    assert (run.folder / "x.svg").read_bytes() == (run.folder / "out/pareto.svg").read_bytes()


def test_failed_points_are_listed_and_the_others_go_on(run: CommandLine) -> None:
    plain = gemv(
        targets=["aim-pinned", "npu"], set={"pim.switches.stall": ["device", "channel"]}, parallel={"tp": [1, 3]}
    )
    plain["dims"] = {"K": 64, "N": 16}
    outcome = run("sweep", write(run, plain), "-j", "0", "--json")
    assert outcome.status == 1
    points = json.loads(outcome.out)["points"]
    assert [p["status"] for p in points] == ["done", "failed"] * 2 + ["failed"] * 4
    assert outcome.err == ""
    outcome = run("sweep", "s.yaml", "-j", "0", "-q")
    assert (outcome.status, outcome.out) == (1, "")
    assert "error[P0605]: pp=1,tp=3 needs 3 devices" in outcome.err
    assert "points: 1, 3 (target=aim-pinned parallel.tp=3)" in outcome.err
    assert "error[P0602]: the target has no 'pim'" in outcome.err
    assert "points: 4, 5, 6, 7 (target=npu)" in outcome.err
    assert outcome.err.endswith("6 of 8 points failed\n")


def test_a_failure_of_many_errors_is_told_by_the_first(run: CommandLine) -> None:
    spec = write(run, {"models": TINY, "targets": "aim-pinned", "dims": {"past": 7}, "objectives": "seconds"})
    for known in ("", " (1 before)"):
        outcome = run("sweep", spec, "-j", "0")
        assert f"  points   0 done, 1 failed{known}\n" in outcome.out
        errors = json.loads((run.folder / "s.sweep/results.json").read_text())["points"][0]["failures"]
        assert outcome.err.count("error[") == 4 < len(errors)
        assert f"and {len(errors) - 4} more errors (results.json has all)" in outcome.err


def test_a_dry_run_lists_points_and_runs_none(run: CommandLine, spec: str) -> None:
    out = run.done("sweep", spec, "--dry-run")
    assert out.splitlines()[0].split() == ["point", "dim.K", "dim.N"]
    assert [line.split() for line in out.splitlines()[1:3]] == [["0", "64", "16"], ["1", "64", "32"]]
    assert not (run.folder / "s.sweep").exists()
    run.done("sweep", spec, "-j", "0", "-q")
    assert run.done("sweep", spec, "--dry-run").count("done") == 6


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["none.yaml"], 1, "cannot read sweep file none.yaml"),
        (["s.yaml", "--json", "--csv", "-"], 2, "--csv - and --json both write to stdout"),
        (["-"], 2, "it is not read from stdin"),
        (["s.yaml", "-j", "-1"], 2, "-1 is not in the range"),
        (["s.yaml", "--csv", "nowhere/x.csv"], 1, "there is no folder nowhere"),
        (["s.yaml", "-o", "s.yaml"], 1, "cannot make the folder"),
        (["s.yaml", "--job", "3"], 2, "did you mean '--jobs'?"),
    ],
)
def test_wrong_usage(run: CommandLine, spec: str, arguments: list[str], status: int, said: str) -> None:
    outcome = run("sweep", *arguments)
    assert (outcome.status, outcome.out) == (status, "")
    assert said in outcome.err


def test_no_scheduler_is_no_traceback(run: CommandLine, spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="Dask.distributed is not installed")
    monkeypatch.setattr("pimc.sweeps.cluster.CONNECT_SECONDS", 1)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        outcome = run("sweep", spec, "--cluster", address, "-q")
        assert (outcome.status, outcome.out) == (1, "")
        assert f"no Dask scheduler answers at '{address}'" in outcome.err


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_have_no_mistakes(run: CommandLine, path: Path) -> None:
    from pimc.sweeps.reading import read_sweep

    read = read_sweep(path)
    assert 0 < read.plan.combinations < 1000
    assert yaml.safe_load(path.read_text())["name"]


def test_a_sweep_in_python(run: CommandLine) -> None:
    found = pimc.sweep(gemv(), "out", jobs=0)
    assert isinstance(found, pimc.SweepResult)
    assert found.csv_text() == run.done("sweep", write(run, gemv()), "-j", "0", "--csv", "-")


# -- tables of compile and sim ----------------------------------------------------------------------------------------


def table(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_of_ops_is_the_json(run: CommandLine) -> None:
    model = [TINY, "-t", "neupims", "--dim", "past=15"]
    plain = json.loads(run.done("compile", *model, "--json", "-o", "t.pimprog"))
    for command in (["compile", *model], ["sim", "t.pimprog"]):
        rows = table(run.done(*command, "--csv", "-"))
        assert [row["name"] for row in rows] == [op["name"] for op in plain["ops"]]
        for row, op in zip(rows, plain["ops"], strict=True):
            for name, value in op.items():
                if not isinstance(value, dict):
                    assert row[name] == (
                        "" if value is None else repr(value) if isinstance(value, float) else str(value)
                    )
            busy = {k.removeprefix("busy."): float(v) for k, v in row.items() if k.startswith("busy.") and v}
            assert busy == op["busy"]


def test_every_table_is_written(run: CommandLine) -> None:
    plain = json.loads(run.done("compile", TINY, "-t", "cent", "--dim", "past=7", "--json", "-o", "t.pimprog"))
    run.done("sim", "t.pimprog", "-q", "--tables", "a/b")
    run.done("compile", TINY, "-t", "cent", "--dim", "past=7", "-q", "--tables", "c")
    names = {path.name for path in (run.folder / "a/b").iterdir()}
    tables = ["ops", "run", "engines", "resources", "phases", "moved", "requests", "memory", "streams"]
    tables += ["moves", "energy", "roofs", "beats", "passes", "sources"]
    assert names == {f"{name}.csv" for name in tables}
    for name in names - {"run.csv", "ops.csv"}:  # these name the model
        assert (run.folder / "a/b" / name).read_bytes() == (run.folder / "c" / name).read_bytes()
    engines = table((run.folder / "c/engines.csv").read_text())
    assert [(e["name"], int(e["commands"]), float(e["busy"])) for e in engines] == [
        (e["name"], e["commands"], e["busy"]) for e in plain["engines"]
    ]
    for row, engine in zip(engines, plain["engines"], strict=True):
        stalled = {k.partition(".")[2]: float(v) for k, v in row.items() if k.startswith("stalled.") and v}
        assert stalled == engine["stalled"]
    (headline,) = table((run.folder / "c/run.csv").read_text())
    assert (int(headline["cycles"]), float(headline["seconds"])) == (plain["cycles"], plain["seconds"])
    assert headline["dims.past"] == "7"
    moved = {row["what"]: int(row["bytes"]) for row in table((run.folder / "c/moved.csv").read_text())}
    assert moved == plain["bytes_moved"]
    assert float(headline["energy"]) == plain["energy"]["total_j"]
    energy = table((run.folder / "c/energy.csv").read_text())
    for of in ("group", "engine"):
        spent = sum(float(row["joules"]) for row in energy if row["of"] == of)
        assert spent == pytest.approx(plain["energy"]["total_j"])
    for name in ("moves", "roofs", "passes"):
        assert len(table((run.folder / f"c/{name}.csv").read_text())) == len(plain[name]) > 0
    sources = {row["numbers"]: row["source"] for row in table((run.folder / "c/sources.csv").read_text())}
    assert sources == plain["sources"]
    program = pimc.load_program("t.pimprog")
    memory = table((run.folder / "c/memory.csv").read_text())
    assert [row["name"] for row in memory] == [entry.name for entry in program.memory]


def test_ranges_phases_and_steps_have_tables_as_well(run: CommandLine) -> None:
    points = table(run.done("compile", TINY, "-t", "npu", "--dim", "past=0:4:2", "--csv", "-"))
    assert [row["past"] for row in points] == ["0", "2", "4"]
    assert all(int(row["cycles"]) > 0 and float(row["seconds"]) > 0 for row in points)
    steps = table(run.done("compile", TINY, "-t", "npu", "--generate", "2", "--csv", "-"))
    assert [(row["past"], row["new"]) for row in steps] == [("0", "8"), ("8", "1"), ("9", "1")]
    both = table(run.done("compile", TINY, "-t", "npu", "--phase", "both", "--csv", "-"))
    assert {row["phase"] for row in both} == {"prefill", "decode"}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--csv", "-", "--json"], "--csv - and --json both write to stdout"),
        (["--csv", "x.csv", "--no-sim"], "--csv and --tables write what a simulation says"),
        (["--tables", "d", "--emit", "asm"], "--csv and --tables write what a simulation says"),
        (["--tables", "d", "--generate", "1"], "--tables writes the tables of one program"),
        (["--tables", "d", "-t", "npu,cent"], "--tables writes the tables of one program"),
        (["--tables", "d", "--dim", "past=0:3"], "--tables writes the tables of one program"),
    ],
)
def test_tables_need_something_to_say(run: CommandLine, more: list[str], said: str) -> None:
    target = [] if "-t" in more else ["-t", "npu"]
    outcome = run("compile", TINY, *target, *more)
    assert (outcome.status, outcome.out) == (2, "")
    assert said in outcome.err
