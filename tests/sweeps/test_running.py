"""Points are answered once, with the same results, whoever answers them and whoever dies on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import pimc
from pimc.cli.sweep_run import PointBar
from pimc.sweeps.job import Job
from pimc.sweeps.pool import Pool
from pimc.sweeps.reading import read_sweep
from pimc.sweeps.results import SweepResult
from pimc.sweeps.run import sweep
from pimc.sweeps.store import Store
from tests.cli.harness import ROOT
from tests.sweeps.specs import deadly, gemv

needs_dask = pytest.mark.skipif(find_spec("distributed") is None, reason="Dask.distributed is not installed")
ENGINES = ["pool", pytest.param("dask", marks=needs_dask)]
SLOW_ON_DASK = ["pool", pytest.param("dask", marks=[needs_dask, pytest.mark.slow])]


def on(engine: str, given: Mapping[str, Any] | Path, folder: Path, jobs: int = 2) -> SweepResult:
    return sweep(given, folder, jobs=jobs, cluster="local" if engine == "dask" else None)


def tables(found: SweepResult) -> tuple[str, str]:
    return found.csv_text(), found.json_text()


def kept(folder: Path) -> dict[str, int]:
    """The point files of a folder, each with the time when it was written."""
    return {path.name: path.stat().st_mtime_ns for path in (folder / "points").glob("*.json")}


def test_a_point_is_what_compile_says(tmp_path: Path) -> None:
    found = sweep(gemv(objectives=["seconds", "bytes"]), tmp_path, jobs=0)
    assert len(found.rows) == 6
    for row in found.rows:
        report = pimc.compile(row.point.only("model"), "aim-pinned", dims=row.point.of("dim")).report
        assert report is not None
        numbers = row.answer.numbers
        assert (numbers["cycles"], numbers["seconds"]) == (report.cycles, report.seconds)
        assert numbers["bound_share"] == report.bound_share
        assert numbers["bytes"] == sum(report.bytes_moved.values())
        assert row.answer.engines == {e.name: e.busy for e in report.engines if e.commands}
        assert dict(row.answer.dims) == dict(report.dims)


def test_tokens_are_those_of_all_requests(tmp_path: Path) -> None:
    model = str(ROOT / "models/tiny-gpt2.pimc")
    found = sweep({"models": model, "targets": "cent", "dims": {"batch": [1, 2], "seq": 3}}, tmp_path, jobs=0)
    for row, batch in zip(found.rows, (1, 2), strict=True):
        numbers = row.answer.numbers
        assert numbers["tokens"] == 3 * batch
        assert numbers["tokens_per_s"] == 3 * batch / numbers["seconds"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_that_dies_costs_no_point(engine: str, tmp_path: Path) -> None:
    """The second point of K=128 kills its worker once more than the first: both are tried again elsewhere."""
    given = deadly(tmp_path, times=2)
    found = on(engine, given, tmp_path / engine)
    assert (tmp_path / "marker").stat().st_size == 2
    assert not found.failed
    assert tables(found) == tables(sweep(given, tmp_path / "here", jobs=0))


@pytest.mark.parametrize("engine", SLOW_ON_DASK)
def test_a_point_that_always_kills_is_given_up(engine: str, tmp_path: Path) -> None:
    given = deadly(tmp_path, times=1000)
    given["dims"] = {"K": [64, 128, 256], "N": 16}
    found = on(engine, given, tmp_path / engine)
    (failed,) = found.failed
    assert failed.point.of("dim")["K"] == 128
    assert [f.message for f in failed.answer.failures] == ["its worker died 3 times"]
    assert (tmp_path / "marker").stat().st_size == 3
    assert len(kept(tmp_path / engine)) == 2
    (tmp_path / "marker").write_text("x" * 1000)  # and the next run tries it again
    assert not on("pool", given, tmp_path / engine).failed


def test_points_that_are_done_are_not_done_again(tmp_path: Path) -> None:
    sweep(gemv(), tmp_path, jobs=0)
    before = kept(tmp_path)
    told: list[tuple[int, int, int]] = []
    more = gemv()
    more["dims"] = {"K": [32, 64, 128, 256], "N": [16, 32]}
    found = sweep(more, tmp_path, jobs=0, progress=lambda *numbers: told.append(numbers))
    assert told == [(6, 8, 6), (7, 8, 6), (8, 8, 6)]
    after = kept(tmp_path)
    assert {name: after[name] for name in before} == before
    assert len(after) == 8
    assert [row.point.values[2:] for row in found.rows[:3]] == [(32, 16), (32, 32), (64, 16)]


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"answer": {}}', b"\xff"])
def test_a_damaged_point_is_done_again(damage: bytes, tmp_path: Path) -> None:
    first = tables(sweep(gemv(), tmp_path, jobs=0))
    path = sorted((tmp_path / "points").glob("*.json"))[0]
    good = path.read_bytes()
    path.write_bytes(damage)
    assert tables(sweep(gemv(), tmp_path, jobs=0)) == first
    assert path.read_bytes() == good


def test_another_point_under_the_name_is_none(tmp_path: Path) -> None:
    first = tables(sweep(gemv(), tmp_path, jobs=0))
    one, other = sorted((tmp_path / "points").glob("*.json"))[:2]
    one.write_bytes(other.read_bytes())
    assert tables(sweep(gemv(), tmp_path, jobs=0)) == first


def test_equal_points_are_computed_once(tmp_path: Path) -> None:
    """A target under a file of its own and by its name: two rows each, one computation."""
    (tmp_path / "same.pimc").write_text(Path(gemv()["models"]).read_text())
    both = gemv(models=[gemv()["models"], str(tmp_path / "same.pimc")], mappings="default")
    told: list[int] = []
    found = sweep(both, tmp_path / "out", jobs=0, progress=lambda done, *_: told.append(done))
    keys = [row.answer.key for row in found.rows]
    assert keys[:6] == keys[6:]
    assert len(set(keys)) == len(kept(tmp_path / "out")) == 6
    assert told == [6, 7, 8, 9, 10, 11, 12]
    rows = found.csv_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(n) for n in range(12)]


def test_a_file_that_changes_on_the_way_is_noticed(tmp_path: Path) -> None:
    model = tmp_path / "m.pimc"
    text = Path(gemv()["models"]).read_text()
    model.write_text(text)
    read = read_sweep(gemv(models=str(model)))
    model.write_text(text + "\n# other\n")
    from pimc.sweeps.run import run_sweep, workers_of

    found = run_sweep(read, Store(tmp_path / "out"), workers_of(0, None))
    assert {f.message for r in found.failed for f in r.answer.failures} == {
        f"{model} is not what it was when the sweep began"
    }
    assert kept(tmp_path / "out") == {}
    assert not sweep(gemv(models=str(model)), tmp_path / "out", jobs=0).failed


def test_workers_of_another_revision_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimc.sweeps.evaluate.revision", lambda: "other")
    found = sweep(gemv(), tmp_path, jobs=0)
    assert len(found.failed) == 6
    assert all("the worker runs pimc other" in f.message for r in found.failed for f in r.answer.failures)
    assert kept(tmp_path) == {}


def test_processes_that_never_begin_end_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimc.sweeps.pool.serve", os.abort)  # takes no pipe: the process ends at once
    with pytest.raises(pimc.CompileError, match="processes for the points end before they begin"):
        sweep(gemv(), tmp_path, jobs=2)


def test_a_pool_leaves_nobody_behind(tmp_path: Path) -> None:
    read = read_sweep(gemv())
    jobs = [job for point in read.plan.points() if isinstance(job := read.job(point), Job)]
    with Pool(2) as pool:
        answers = pool.run(jobs)
        next(answers)
        pids = [w.process.pid for w in pool._workers]
        assert len(pids) == 2
    assert not any(is_alive(pid) for pid in pids if pid)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# -- the driver dies --------------------------------------------------------------------------------------------------


def children(pid: int) -> list[int]:
    """The processes below one, as far as the system says."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *children(int(child))]
    return found


def start(spec: Path, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    """`pimc sweep` as a process of its own."""
    command = [sys.executable, "-m", "pimc", "sweep", str(spec), "-o", str(folder), "-q", "-j", "2", *more]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)


def wait_for_points(folder: Path, number: int, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 300
    while len(kept(folder)) < number and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)


def wait_until_gone(pids: list[int]) -> None:
    end = time.monotonic() + 60
    while any(is_alive(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in pids if is_alive(pid)] == []


def ended_and_resumed(spec: Path, folder: Path, after: int, *more: str) -> tuple[str, str]:
    """Kill the driver after some points, run the command again, and see what it leaves."""
    driver = start(spec, folder, *more)
    wait_for_points(folder, after, driver)
    below = children(driver.pid)
    driver.kill()
    driver.communicate(timeout=120)
    before = kept(folder)
    assert after <= len(before)
    wait_until_gone(below)  # workers end when nobody listens any more
    again = start(spec, folder, *more)
    _, said = again.communicate(timeout=600)
    assert (again.returncode, said) == (0, b"")
    now = kept(folder)
    assert {name: now[name] for name in before} == before
    return (folder / "results.csv").read_text(), (folder / "results.json").read_text()


@pytest.mark.parametrize("engine", SLOW_ON_DASK)
def test_a_sweep_whose_driver_is_killed_goes_on(engine: str, tmp_path: Path) -> None:
    given = gemv()
    given["dims"] = {"K": "64:640:64", "N": [16, 32]}
    spec = tmp_path / "s.yaml"
    spec.write_text(json.dumps(given))
    more = ["--cluster", "local"] if engine == "dask" else []
    assert ended_and_resumed(spec, tmp_path / "out", 3, *more) == tables(sweep(spec, tmp_path / "here", jobs=0))


def test_an_interrupted_sweep_says_how_to_go_on(tmp_path: Path) -> None:
    given = gemv()
    given["dims"] = {"K": "64:64000:64", "N": [16, 32]}
    (tmp_path / "s.yaml").write_text(json.dumps(given))
    driver = start(tmp_path / "s.yaml", tmp_path / "out")
    wait_for_points(tmp_path / "out", 2, driver)
    driver.send_signal(signal.SIGINT)
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert re.fullmatch(r"interrupted: \d+ points are done; the same command goes on\s*", said.decode())


def test_an_interrupt_that_python_drops_ends_the_sweep_at_the_next_point() -> None:
    """As one that comes while a finalizer runs."""
    before = signal.getsignal(signal.SIGINT)
    with PointBar("s", quiet=True) as bar:
        bar.points(1, 4, 0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            bar.points(2, 4, 0)
    assert (bar.done, signal.getsignal(signal.SIGINT)) == (1, before)


# -- acceptance -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@needs_dask
def test_five_hundred_points_on_two_dask_workers_killed_twice(tmp_path: Path) -> None:
    """A worker is killed, then the driver; resumed, every point is there once, byte for byte as the pool has it."""
    given = gemv(set={"timing.tRCDRDMAC": ["14ns", "16ns", "18ns", "20ns", "22ns"]}, objectives=["seconds", "memory"])
    given["dims"] = {"K": "16:320:16", "N": "16:80:16"}
    spec, folder = tmp_path / "s.yaml", tmp_path / "out"
    spec.write_text(json.dumps(given))
    driver = start(spec, folder, "--cluster", "local")
    wait_for_points(folder, 60, driver)
    workers = [pid for pid in children(driver.pid) if "--multiprocessing-fork" in _command_of(pid)]
    assert len(workers) >= 2
    os.kill(workers[0], signal.SIGKILL)
    wait_for_points(folder, 200, driver)
    assert driver.poll() is None
    below = children(driver.pid)
    driver.kill()
    driver.communicate(timeout=120)
    wait_until_gone(below)
    before = kept(folder)
    assert 200 <= len(before) < 500
    again = start(spec, folder, "--cluster", "local")
    _, said = again.communicate(timeout=1800)
    assert (again.returncode, said) == (0, b"")
    now = kept(folder)
    assert {name: now[name] for name in before} == before
    assert len(now) == 500

    by_pool = start(spec, tmp_path / "pool")
    by_pool.communicate(timeout=1800)
    assert by_pool.returncode == 0
    for name in ("results.csv", "results.json", "pareto.svg"):
        assert (folder / name).read_bytes() == (tmp_path / "pool" / name).read_bytes()
    rows = json.loads((folder / "results.json").read_text())["points"]
    assert [row["number"] for row in rows] == list(range(500))
    assert len({row["hash"] for row in rows}) == 500
    assert all(row["status"] == "done" for row in rows)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
