"""CENT's published results, out of the models: `cent-published` agrees with every row that its authors give."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pimc.backends.cent.machine import CentMachine
from pimc.backends.pim.aim_export import trace_texts
from pimc.backends.program import Item, Loop, Program, Stream
from pimc.backends.storage import from_bytes, to_bytes
from pimc.driver import Options, Result, compile_model
from pimc.ir.diagnostics import CompileError
from pimc.points import time_points
from pimc.positions import Positions
from pimc.sim.breakdown import Breakdown
from pimc.sim.time import simulate

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data"
ROWS = list(csv.DictReader((DATA / "cent" / "published_rows.csv").read_text().splitlines()))
TIMES = (
    "cxl_latency_ms", "acc_latency_ms", "block_latency_ms", "embedding_latency_ms", "token_latency_ms", "tokens_per_s",
)  # fmt: skip
SPLIT = ("model", "devices", "pipeline_parallel", "tensor_parallel")
SMALL = DATA / "small-llama.pimc"
ENERGIES = ("token_energy_mJ", "total_power_W")
QUICK = 60
"""One row in so many is compiled by default: a whole model each."""


def compiled(model: str, devices: int, pp: int, tp: int, keys: int, *overrides: str) -> Result:
    options = Options(
        dims={"past": keys - 1}, overrides=(f"system.devices={devices}", *overrides), parallel={"pp": pp, "tp": tp}
    )
    return compile_model(ROOT / "models" / f"{model}.pimc", "cent-published", options)


def of_row(row: dict[str, str], *overrides: str) -> Result:
    devices, pp, tp, keys = (int(row[n]) for n in ("devices", "pipeline_parallel", "tensor_parallel", "seqlen"))
    return compiled(row["model"].lower(), devices, pp, tp, keys, *overrides)


def check(found: Breakdown, row: dict[str, str]) -> None:
    table = found.to_json()
    assert table["pim_cycles"] == int(row["pim_cycles"])
    assert {k: table[k] for k in TIMES} == {k: pytest.approx(float(row[k]), rel=1e-9) for k in TIMES}
    assert {k: table[k] for k in ENERGIES} == {k: pytest.approx(float(row[k]), rel=1e-3) for k in ENERGIES}
    assert table["device_utilization"] == float(row["device_utilization"])


def name_of(row: dict[str, str]) -> str:
    return f"{row['model']}-pp{row['pipeline_parallel']}-tp{row['tensor_parallel']}-{row['seqlen']}"


@pytest.mark.parametrize("row", ROWS[::QUICK], ids=name_of)
def test_a_compilation_reproduces_its_row(row: dict[str, str]) -> None:
    report = of_row(row).report
    assert report is not None
    assert report.breakdown is not None
    check(report.breakdown, row)
    assert report.seconds == pytest.approx(float(row["token_latency_ms"]) * 1e-3, rel=1e-5)


SPLITS = list(dict.fromkeys(tuple(row[name] for name in SPLIT) for row in ROWS))


def _by_default(number: int) -> Sequence[pytest.MarkDecorator]:
    """One split in three is part of the default suite: each takes seconds."""
    return [] if number % 3 == 0 else [pytest.mark.slow]


@pytest.mark.parametrize(
    "split", [pytest.param(s, id="-".join(s), marks=_by_default(i)) for i, s in enumerate(SPLITS)]
)
def test_every_row_is_reproduced(split: tuple[str, ...]) -> None:
    model, devices, pp, tp = split
    options = Options(
        dims={"past": 0}, overrides=(f"system.devices={devices}",), parallel={"pp": int(pp), "tp": int(tp)}
    )
    positions = Positions(ROOT / "models" / f"{model.lower()}.pimc", "cent-published", options)
    for row in ROWS:
        if tuple(row[name] for name in SPLIT) == split:
            check(positions.at(int(row["seqlen"])).breakdown, row)


@pytest.mark.parametrize(("pp", "tp"), [(1, 2), (2, 1), (1, 1)])
def test_positions_are_what_compilations_give(pp: int, tp: int) -> None:
    """At positions on both sides of every border: of a row, of a round of banks, of an access."""
    given = Options(
        dims={"past": 0}, overrides=("system.devices=2", "analytic.host=1us"), parallel={"pp": pp, "tp": tp}
    )
    positions = Positions(SMALL, "cent-published", given)
    for keys in (1, 2, 16, 17, 256, 257, 512, 513, 1024, 1025, 1500, 4096, 4097, 5000):
        report = compile_model(SMALL, "cent-published", replace(given, dims={"past": keys - 1})).report
        found = positions.at(keys)
        assert report is not None
        assert report.breakdown is not None
        assert found.breakdown.to_json() == pytest.approx(report.breakdown.to_json(), rel=1e-11)
        assert found.seconds == pytest.approx(report.seconds, rel=1e-12)


# -- the streams themselves -------------------------------------------------------------------------------------------

TRACES = {
    "pp_Llama2-7B_s128": ("llama2-7b", 8, 32, 1, 128, 0, 0),
    "pp_Llama2-70B_s4096": ("llama2-70b", 32, 80, 1, 4096, 0, 0),
    "tpFC32_Llama2-70B_s4096": ("llama2-70b", 32, 1, 32, 4096, 1, 0),
    "emb_Llama2-13B_s4096": ("llama2-13b", 20, 40, 1, 4096, 0, 1),
    "embtp20_Llama2-13B_s4096": ("llama2-13b", 20, 1, 20, 4096, 0, 1),
    "embtp8_Llama2-7B_s4096": ("llama2-7b", 8, 1, 8, 4096, 0, 1),
}
"""CENT's own traces: model, devices, degrees, keys; whose stream (0: a master's, 1: a helper's) and which trace."""


@pytest.mark.parametrize("name", TRACES)
def test_a_stream_is_the_published_trace(name: str) -> None:
    model, devices, pp, tp, keys, place, number = TRACES[name]
    program = compiled(model, devices, pp, tp, keys).program
    stream = [s for s in program.streams if s.engine == "pim"][place]
    written = (normal(text) for text in trace_texts(_trace(stream, number), 32))
    with gzip.open(DATA / "aim" / "cent" / f"{name}.trace.gz", "rt") as original:
        assert list(written) == [normal(line) for line in original if line.strip()]


def _trace(stream: Stream, number: int) -> tuple[Item, ...]:
    """The items of the first block, or of embedding and head."""
    loop = next(item for item in stream.items if isinstance(item, Loop) and item.count >= 32 and len(item.body) > 8)
    if number == 0:
        return tuple(i for i in loop.body if isinstance(i, Loop) or i.command.unit == "pim")
    return stream.items[: stream.items.index(loop)]


def normal(line: str) -> tuple[object, ...]:
    """A line without registers of the host's interface, which take no time, and with channels as one mask."""
    words = line.split()
    if words[1] == "MEM":
        return {"W": "WR", "R": "RD"}[words[0]], 1 << (31 - int(words[2])), int(words[3]), int(words[4])
    opcode, rest = words[1], [int(word, 0) for word in words[2:]]
    if opcode in ("WR_SBK", "RD_SBK"):
        return opcode[:2], *rest[1:]
    registers = {"WR_GB": (1,), "WR_BIAS": (0,), "RD_MAC": (0,), "RD_AF": (0,), "WR_ABK": (0,), "EWADD": (0, 1, 2)}
    return opcode, *(value for i, value in enumerate(rest) if i not in registers.get(opcode, ()))


def test_both_engines_agree() -> None:
    """A small decoder of the same shape, clock by clock."""
    program = small(past=40, pp=1, tp=2)
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.time == plain.time
    assert [e.tallies for e in fast.engines] == [e.tallies for e in plain.engines]
    assert [e.counters for e in fast.engines] == [e.counters for e in plain.engines]


def small(**given: int) -> Program:
    parallel = {name: given.pop(name) for name in ("pp", "tp") if name in given}
    options = Options(
        dims=given,
        overrides=("system.devices=2", "analytic.host=1us"),
        parallel=parallel,
        simulate=False,
        shapes_only=True,
    )
    return compile_model(SMALL, "cent-published", options).program


def test_a_stored_program_takes_the_same_time() -> None:
    program = small(past=100, pp=2, tp=1)
    again = from_bytes(to_bytes(program))
    assert again.flight == program.flight
    assert simulate(again).time == simulate(program).time


# -- what it is asked for and refuses ---------------------------------------------------------------------------------


def test_stand_by_of_all_channels() -> None:
    """The correction of the published accounting: the figures of CENT's own constants with 32 channels counted."""
    for keys, joules in ((128, 74.9), (4096, 103.4)):
        report = compiled("llama2-7b", 8, 32, 1, keys, "energy.static.standby.counted=all").report
        assert report is not None
        assert report.breakdown is not None
        assert report.breakdown.token_energy_mJ == pytest.approx(joules, rel=1e-3)


def test_no_values() -> None:
    options = Options(dims={"past": 15}, overrides=("system.devices=2",), parallel={"pp": 1, "tp": 2})
    with pytest.raises(CompileError, match="published mapping writes where it should read"):
        compile_model(SMALL, "cent-published", options, values="random")


@pytest.mark.parametrize(
    ("model", "parallel", "why"),
    [
        ("llama2-7b", {"pp": 33}, "32 blocks do not make 33 pipeline stages"),
        ("llama2-7b", {"pp": 4, "tp": 4}, "needs 16 devices"),
        ("llama2-70b", {"pp": 1, "tp": 1}, "rows of every bank"),
        ("gpt3-7b", {"pp": 1, "tp": 8}, "has no place for"),
    ],
)
def test_what_does_not_fit_is_refused(model: str, parallel: dict[str, int], why: str) -> None:
    options = Options(dims={"past": 9}, overrides=("system.devices=8",), parallel=parallel)
    with pytest.raises(CompileError, match=why):
        compile_model(ROOT / "models" / f"{model}.pimc", "cent-published", options)


def test_the_mapping_is_chosen_by_its_name_alone(tmp_path: Path) -> None:
    target = tmp_path / "mine.yaml"
    target.write_text("base: cent-published\nname: mine\nanalytic: {host: 1us}\n")
    options = Options(dims={"past": 9}, overrides=("system.devices=2",), parallel={"tp": 2}, simulate=False)
    lowered = compile_model(SMALL, target, options)
    assert lowered.program.flight is not None
    assert CentMachine.cuts_graphs.fget is not None


# -- many positions, many tokens --------------------------------------------------------------------------------------

TWO = Options(overrides=("system.devices=2", "analytic.host=1us"), parallel={"pp": 1, "tp": 2})


def test_a_range_gives_what_compilations_give() -> None:
    found = time_points(SMALL, "cent-published", TWO, {"past": range(14, 18)}).points
    for point in found:
        report = compile_model(SMALL, "cent-published", replace(TWO, dims=point.dims)).report
        assert report is not None
        assert (point.cycles, point.seconds) == (report.cycles, pytest.approx(report.seconds, rel=1e-12))


def test_a_prompt_goes_token_by_token() -> None:
    """Its time is the sum of the tokens' times, and its table their mean."""
    together = compile_model(SMALL, "cent-published", replace(TWO, dims={"past": 3, "seq": 4})).report
    alone = [
        compile_model(SMALL, "cent-published", replace(TWO, dims={"past": 3 + i, "seq": 1})).report for i in range(4)
    ]
    tables = [report.breakdown for report in alone if report is not None and report.breakdown is not None]
    assert together is not None
    assert together.breakdown is not None
    assert together.breakdown.tokens == len(tables) == 4
    for column in ("pim_cycles", "acc_latency_ms", "token_latency_ms", "token_energy_mJ"):
        mean = sum(getattr(table, column) for table in tables) / 4
        assert getattr(together.breakdown, column) == pytest.approx(mean, rel=1e-9)
    assert together.seconds == pytest.approx(sum(r.seconds for r in alone if r is not None), rel=1e-4)
