"""NeuPIMs' memory as a whole, benchmarks compiled for it: equal to what was measured, and to an independent model."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import pimc
from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.isa import Command
from pimc.backends.pim.newton_controller import NewtonTimer
from pimc.backends.pim.newton_isa import CompsReadResult, GlobalWrite, Header
from pimc.backends.pim.newton_shared import SharedChannel
from pimc.backends.pim.timing import make_timer
from pimc.backends.program import unrolled
from pimc.backends.races import check_races
from pimc.backends.storage import from_bytes, to_bytes
from pimc.backends.target_registry import load_target
from pimc.backends.timing import Issued, Resource
from pimc.driver import Options, compile_model
from pimc.ir.diagnostics import CompileError, Kind
from pimc.sim.check import check, part_of
from pimc.sim.issue_trace import IssueLog
from pimc.sim.report import Report
from pimc.sim.time import simulate
from tests.sim import newtonsim
from tests.timings import engines_of

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "models/bench"
DIMS = {"gemv": ("K", "N"), **dict.fromkeys(("logit", "attend", "mha"), ("heads", "head_dim", "seq"))}
FAITHFUL = {"dual": "neupims-faithful", "single": "newton-faithful"}
Case = tuple[str, str, tuple[int, ...]]


@cache
def rows(name: str) -> list[tuple[Case, dict[str, str]]]:
    """The measured rows of a file, by mode, operator and sizes."""
    with (ROOT / f"tests/data/neupims/newtonsim_{name}.csv").open() as file:
        found = list(csv.DictReader(file))
    return [((r["mode"], r["op"], tuple(int(r[p]) for p in ("p1", "p2", "p3") if r[p])), r) for r in found]


def report_of(case: Case, background: int | None = None) -> Report:
    mode, op, sizes = case
    dims = dict(zip(DIMS[op], sizes, strict=True))
    found = pimc.compile(BENCH / f"{op}.pimc", FAITHFUL[mode], dims=dims, background=background).report
    assert found is not None
    return found


def cycles_of(report: Report) -> int:
    """Of the one PIM engine that has work."""
    (engine,) = (e for e in report.engines if e.kind == "pim" and e.commands)
    return engine.cycles


@pytest.mark.parametrize("name", ["gemv", "attention"])
def test_every_measured_row_is_met_to_the_cycle(name: str) -> None:
    wrong = [
        (case, found, r["cycles"])
        for case, r in rows(name)
        if (found := cycles_of(report_of(case))) != int(r["cycles"])
    ]
    assert wrong == []


def irregular(seed: int) -> Case:
    """Sizes that divide nothing; small ones, since the model steps through every clock."""
    draw = random.Random(seed)
    op = draw.choice(list(DIMS))
    if op == "gemv":
        sizes: tuple[int, ...] = (draw.randint(1, 1700), draw.randint(1, 900))
    elif draw.random() < 0.2:  # so many heads in a row that their tiles are torn apart by refreshes
        sizes = (draw.randint(20, 70), draw.randint(1, 24), draw.randint(1, 120))
    else:
        sizes = (draw.randint(1, 8), draw.choice([draw.randint(1, 200), 64, 80, 96, 128]), draw.randint(1, 900))
    return draw.choice(["dual", "single"]), op, sizes


@pytest.mark.parametrize("seed", range(24))
def test_irregular_sizes_take_what_the_independent_model_takes(seed: int) -> None:
    case = irregular(seed)
    assert cycles_of(report_of(case)) == newtonsim.cycles(*case), case


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(24, 300))
def test_many_irregular_sizes(seed: int) -> None:
    case = irregular(seed)
    assert cycles_of(report_of(case)) == newtonsim.cycles(*case), case


@pytest.mark.parametrize(("case", "row"), [r for r in rows("gemv") + rows("attention") if int(r[1]["cycles"]) < 5000])
def test_the_independent_model_meets_the_measured_rows(case: Case, row: dict[str, str]) -> None:
    assert newtonsim.cycles(*case) == int(row["cycles"])


# -- addresses and values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", DIMS)
def test_the_driver_takes_vectors_from_one_row_and_tiles_from_1024_up(op: str) -> None:
    dims = dict(zip(DIMS[op], (700, 100) if op == "gemv" else (5, 80, 600), strict=True))
    program = compile_model(BENCH / f"{op}.pimc", "neupims-faithful", Options(dims=dims, simulate=False)).program
    (stream,) = (s for s in program.streams if s.engine == "pim")
    assert stream.instances == (0,)
    commands = [step.command for step in unrolled(stream.items)]
    assert {(c.bank, c.row) for c in commands if isinstance(c, GlobalWrite)} == {(0, 0)}
    tiles = [c.row for c in commands if isinstance(c, Header)]
    assert tiles == list(range(1024, 1024 + len(tiles)))


@pytest.mark.parametrize("target", ["neupims", "newton", "cent"])
@pytest.mark.parametrize(
    ("op", "sizes"),
    [("gemv", (700, 77)), ("logit", (5, 80, 70)), ("attend", (3, 40, 700)), ("mha", (2, 64, 33)), ("mha", (9, 7, 3))],
)
def test_benchmarks_compute_with_every_other_mapping(op: str, sizes: tuple[int, ...], target: str) -> None:
    found = pimc.compile(BENCH / f"{op}.pimc", target, dims=dict(zip(DIMS[op], sizes, strict=True)), values="random")
    assert found.comparison is not None
    assert found.comparison.ok, found.comparison.outputs
    (stream,) = (s for s in found.program.streams if s.engine == "pim")
    assert target == "cent" or stream.instances == (0,)


@pytest.mark.parametrize("mode", FAITHFUL)
@pytest.mark.parametrize(
    ("op", "sizes"), [("gemv", (512, 4096)), ("gemv", (100, 50)), ("logit", (3, 80, 77)), ("attend", (1, 80, 77))]
)
def test_one_vector_that_fits_a_row_is_computed_with(op: str, sizes: tuple[int, ...], mode: str) -> None:
    dims = dict(zip(DIMS[op], sizes, strict=True))
    found = pimc.compile(BENCH / f"{op}.pimc", FAITHFUL[mode], dims=dims, values="random")
    assert found.comparison is not None
    assert found.comparison.ok, found.comparison.outputs


@pytest.mark.parametrize(
    ("op", "sizes", "reason"),
    [
        ("gemv", (513, 64), "2 GWRITEs take row 0 of bank 0"),
        ("attend", (3, 32, 16), "3 GWRITEs take row 0"),
        ("logit", (5, 100, 32), "its heads share a row without beginning at columns"),
    ],
)
def test_vectors_in_each_others_place_have_no_values(op: str, sizes: tuple[int, ...], reason: str) -> None:
    dims = dict(zip(DIMS[op], sizes, strict=True))
    with pytest.raises(CompileError, match=reason) as refused:
        pimc.compile(BENCH / f"{op}.pimc", "newton-faithful", dims=dims, values="random")
    assert [d.kind for d in refused.value.diagnostics] == [Kind.UNAVAILABLE]
    program = pimc.compile(BENCH / f"{op}.pimc", "newton-faithful", dims=dims).program
    assert reason in program.no_values
    with pytest.raises(CompileError, match=reason):
        pimc.simulate(program, values="random")


def test_whole_models_keep_their_order_with_the_drivers_addresses() -> None:
    """Vectors that ops compute are written to the one row, and PIM waits for them; ops take turns."""
    found = pimc.compile(ROOT / "models/tiny-llama.pimc", "neupims-faithful", dims={"past": 127})
    assert found.report is not None
    assert any(o.engine == "pim" for o in found.report.ops)
    plain = pimc.compile(ROOT / "models/tiny-llama.pimc", "neupims", dims={"past": 127})
    assert plain.report is not None
    assert 1 < found.report.seconds / plain.report.seconds < 3
    assert [b.name for b in found.report.beats] == ["A", "B", "EA", "B.2", "E"]
    assert sum(b.cycles for b in found.report.beats) == found.report.cycles


@pytest.mark.parametrize("target", FAITHFUL.values())
def test_programs_without_values_are_stored_checked_and_timed_like_others(target: str) -> None:
    options = Options(dims={"batch": 2, "past": 40}, simulate=False)
    program = compile_model(ROOT / "models/tiny-llama.pimc", target, options).program
    assert program.no_values
    stored = to_bytes(program)
    assert to_bytes(assemble(disassemble(program))) == stored
    assert from_bytes(stored).no_values == program.no_values
    check_races(program)
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.time == plain.time
    assert engines_of(fast) == engines_of(plain)


def test_a_mapping_that_does_not_exist_or_fit_is_refused() -> None:
    with pytest.raises(CompileError, match="no mapping 'newtonsin'") as unknown:
        pimc.compile(BENCH / "gemv.pimc", "neupims", overrides=["mapping=newtonsin"])
    assert "newtonsim" in str(unknown.value.diagnostics[0].help)
    with pytest.raises(CompileError, match="for PIM of the style 'newton'"):
        pimc.compile(BENCH / "gemv.pimc", "cent", overrides=["mapping=newtonsim"])


# -- normal reads beside PIM -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "row"), rows("concurrent"))
def test_reads_beside_pim_are_served_as_measured(case: Case, row: dict[str, str]) -> None:
    found = report_of(case, int(row["reads_per_cycle"]))
    assert found.background is not None
    assert cycles_of(found) == int(row["cycles"])
    assert found.background.reads_served == int(row["bg_reads_done"])


@pytest.mark.parametrize(("reads", "cycles"), [(1024, 2387), (8192, 16596), (65536, 132567)])
def test_reads_alone_get_the_measured_bandwidth(reads: int, cycles: int) -> None:
    timer = timer_of("neupims-faithful")
    channel = SharedChannel(timer.rules, 2)
    while channel.counts["READ"] < reads:
        channel.reads.per_clock = min(2, reads - channel.reads.offered)
        channel.idle_until(channel.now + 1)
    assert channel.now + timer.rules.read == pytest.approx(cycles, rel=0.03)


def timer_of(target: str, *overrides: str) -> NewtonTimer:
    spec = load_target(target, overrides)
    resources = {name: Resource(name) for name in ("dram.bus", "pim")}
    timer = make_timer(spec, next(e for e in spec.engines() if e.name == "pim"), resources)
    assert isinstance(timer, NewtonTimer)
    return timer


def random_work(seed: int, count: int) -> Iterator[Command]:
    draw = random.Random(seed)
    for _ in range(count):
        if draw.random() < 0.25:
            yield GlobalWrite(draw.randrange(6), draw.randrange(3), 32)
            continue
        row, results = 100 + draw.randrange(4), draw.choice([1, 1, 2, 4, 30])
        comps = draw.randint(1, max(1, min(32, 256 // results)))
        yield Header(row, results * comps, results)
        yield from [CompsReadResult(row, comps)] * results


@pytest.mark.parametrize("target", ["neupims", "neupims-faithful"])
@pytest.mark.parametrize("seed", range(8))
def test_stepping_without_reads_equals_jumping(seed: int, target: str) -> None:
    times = []
    timer = timer_of(target)
    for each in (timer, timer.serving(0)):
        ready, issued = 0, list[Issued]()
        for command in random_work(seed, 60):
            issued.append(each.issue(command, ready))
            ready = issued[-1].free
        times.append([(i.start, i.free, i.done) for i in issued])
    assert times[0] == times[1]


@pytest.mark.parametrize("reads", [1, 3])
@pytest.mark.parametrize("op", DIMS)
def test_reads_beside_pim_keep_the_rules_of_the_part(op: str, reads: int) -> None:
    dims = dict(zip(DIMS[op], (700, 900) if op == "gemv" else (5, 80, 600), strict=True))
    result = compile_model(BENCH / f"{op}.pimc", "neupims", Options(dims=dims))
    log = IssueLog()
    timing = simulate(result.program, issues=log, background=reads)
    verdict = check(log.issued(), part_of(result.spec))
    assert verdict.ok, verdict.counts
    assert timing.time >= 0.99 * simulate(result.program).time
    plain, fast = (simulate(result.program, engine=e, background=reads) for e in ("plain", "fast"))
    assert timing.time == plain.time == fast.time
    assert engines_of(plain) == engines_of(fast)


@pytest.mark.parametrize("is_announced", [True, False])
def test_reads_of_rows_that_pim_works_on_wait(*, is_announced: bool) -> None:
    """Rows from 20000 on are read; PIM works there as well, and no row is open in both buffers of a bank."""
    timer = timer_of("neupims").serving(2)
    log = IssueLog()
    timer.issues = log.sink([0])  # type: ignore[attr-defined]
    ready = timer.issue(GlobalWrite(0, 20003, 32), 0).free
    for row in [*range(20000, 20006)] * 3:
        for command in (*[Header(row, 32, 1)] * is_announced, CompsReadResult(row, 32)):
            ready = timer.issue(command, ready).free
    verdict = check(log.issued(), part_of(load_target("neupims")))
    assert verdict.ok, verdict.counts


@pytest.mark.parametrize("target", ["npu", "cent", "neupims"])
def test_reads_beside_pim_need_pim_work(target: str) -> None:
    options = {"pass_options": ["place.only=npu"]} if target == "neupims" else {}
    with pytest.raises(CompileError, match="no PIM work") as refused:
        pimc.compile(ROOT / "models/tiny-llama.pimc", target, background=2, **options)  # type: ignore[arg-type]
    assert [d.kind for d in refused.value.diagnostics] == [Kind.UNAVAILABLE]


@pytest.mark.parametrize("comps", [4, 32])
def test_work_lasts_until_its_macs_end_whenever_results_come(comps: int) -> None:
    """The faithful controller returns results before the MACs end; what follows the run's end is no part of it."""
    busy: dict[bool, list[float]] = {False: [], True: []}
    for number in (64, 128):
        case = ("dual", "gemv", (16 * comps, 32 * number))
        for strict in (False, True):
            found = report_of(case) if not strict else pimc.compile(
                BENCH / "gemv.pimc", "neupims", dims=dict(zip(DIMS["gemv"], case[2], strict=True))
            ).report  # fmt: skip
            assert found is not None
            (engine,) = (e for e in found.engines if e.kind == "pim" and e.commands)
            assert engine.busy + sum(engine.stalled.values()) + engine.idle == pytest.approx(found.seconds)
            busy[strict].append(engine.busy * 1e9)
    tile = 2 * max(comps, 6) + 1  # clocks of 1 ns: MACs, at least as long as six, and the header
    assert busy[False][1] - busy[False][0] == pytest.approx(64 * tile, rel=0.02)
    assert busy[True][1] - busy[True][0] == pytest.approx(64 * tile, rel=0.02)
