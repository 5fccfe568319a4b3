"""Sub-batches: halves of a batch of requests that take turns on the NPU and in PIM."""

from __future__ import annotations

import csv
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.races import check_races
from pimc.backends.storage import from_bytes, to_bytes
from pimc.driver import Options, Result, compile_model
from pimc.frontends.requests_csv import read_requests
from pimc.ir import interp
from pimc.ir.diagnostics import CompileError
from pimc.ir.facts import SubBatch
from pimc.ir.requests import Request
from pimc.sim.check import check, part_of
from pimc.sim.issue_trace import IssueLog
from pimc.sim.time import simulate
from tests.e2e.harness import DATA, MODELS

GPT, LLAMA, ONNX = MODELS / "tiny-gpt2.pimc", MODELS / "tiny-llama.pimc", MODELS / "tiny-llama.onnx"
LAYERS = MODELS / "bench/gpt3-7b-layers.pimc"
NEUPIMS = DATA.parent / "neupims"
RAGGED = (3, 17, 0, 40, 17, 9, 31)
ON, OFF = "sub-batches.use=on", "sub-batches.use=off"


def requests(past: Sequence[int], channels: Sequence[int] | None = None, new: Sequence[int] = ()) -> list[Request]:
    places: Sequence[int | None] = channels or [None] * len(past)
    added = new or [1] * len(past)
    return [Request(f"r{i}", p, n, c, i) for i, (p, n, c) in enumerate(zip(past, added, places, strict=True))]


def compiled(
    model: Path, target: str, batch: Sequence[Request], *passes: str, values: bool = True, **options: object
) -> Result:
    made = Options(requests=batch, pass_options=passes, **options)  # type: ignore[arg-type]
    return compile_model(model, target, made, values="random" if values else None)


@pytest.mark.parametrize("target", ["neupims", "newton", "npu", "cent"])
@pytest.mark.parametrize("model", [GPT, LLAMA, ONNX], ids=lambda m: m.name)
def test_each_request_computes_what_it_computes_alone(model: Path, target: str) -> None:
    result = compiled(model, target, requests(RAGGED), ON)
    own = [n for n in result.graph.order() if n.op.name != "hold"]
    assert {n.fact(SubBatch).index for n in own} == {0, 1}  # type: ignore[union-attr]
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison
    assert {f"logits[r{i}]" for i in range(len(RAGGED))} <= {o.name for o in result.comparison.outputs}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("target", ["neupims", "newton"])
def test_random_batches(target: str, seed: int) -> None:
    """Other lengths, channels, numbers of new tokens, splits and orders; also in the machine's own format."""
    random_ = random.Random(seed)
    count = random_.randint(2, 9)
    past = [random_.choice([0, 1, 15, 16, 31, 32, 33, 60, random_.randint(0, 90)]) for _ in range(count)]
    channels = [random_.randrange(4) for _ in past] if seed % 2 else None
    new = [random_.randint(1, 3) for _ in past] if seed % 3 == 0 else ()
    passes = [ON, f"sub-batches.split={random_.choice(['load', 'halves'])}"]
    passes += [f"schedule.order={random_.choice(['list', 'source', 'beats'])}"]
    if random_.random() < 0.5 and passes[-1].endswith("beats"):
        passes.append("schedule.prefetch=false")
    options = Options(
        requests=requests(past, channels, new), pass_options=passes, overrides=("dram.channels=4",), seed=seed
    )
    try:
        result = compile_model(LLAMA if seed % 2 else GPT, target, options, values="random", wide=seed % 3 != 1)
    except CompileError as error:
        assert "cannot be split" in str(error)  # all in one half
        return
    assert result.comparison is not None
    assert result.comparison.ok, (past, passes, result.comparison)
    check_races(result.program)
    log = IssueLog()
    simulate(result.program, issues=log)
    assert not check(log.issued(), part_of(result.spec)).violations


def test_both_engines_of_the_simulator_agree() -> None:
    for target in ("neupims", "newton", "neupims-faithful"):
        program = compiled(LLAMA, target, requests(RAGGED), ON, values=False).program
        fast, plain = simulate(program), simulate(program, engine="plain")
        assert fast.time == plain.time
        assert fast == plain


def test_programs_are_stored_with_their_beats() -> None:
    program = compiled(LLAMA, "neupims-faithful", requests(RAGGED), ON, values=False).program
    assert [*dict.fromkeys(row.beat for row in program.ops)] == ["A", "B", "C", "D", "E", "F"]
    stored = to_bytes(program)
    assert to_bytes(assemble(disassemble(program))) == stored
    assert [row.beat for row in from_bytes(stored).ops] == [row.beat for row in program.ops]


def test_stored_programs_take_arrays_of_the_whole_batch() -> None:
    """Padded inputs go to both halves, padded outputs come from both."""
    result = compiled(LLAMA, "neupims", requests(RAGGED), ON)
    alone = compiled(LLAMA, "neupims", requests(RAGGED), OFF)
    assert result.outputs is not None
    assert alone.outputs is not None
    assert result.outputs.keys() == alone.outputs.keys()
    for name, array in result.outputs.items():
        assert array.shape == alone.outputs[name].shape
        np.testing.assert_allclose(array, alone.outputs[name], rtol=1e-3, atol=1e-5)
    assert result.program.inputs == alone.program.inputs
    assert result.program.outputs == alone.program.outputs


def test_halves_are_alike() -> None:
    """By load: in every channel the keys of both halves differ by no more than its longest request."""
    random_ = random.Random(7)
    batch = requests([random_.randint(0, 90) for _ in range(40)], [random_.randrange(4) for _ in range(40)])
    graph = compiled(LLAMA, "neupims", batch, ON, values=False, overrides=("dram.channels=4",)).graph
    assert graph.batch is not None
    halves = graph.batch.halves
    assert sorted(r.row for half in halves for r in half.requests) == list(range(40))
    for channel in range(4):
        members = [[r.past + 1 for r in half.requests if r.channel == channel] for half in halves]
        assert abs(sum(members[0]) - sum(members[1])) <= max(n for half in members for n in half)


def test_published_halves() -> None:
    """The first and the second half of each channel's list, as the file has it; odd ones in turns."""
    past = [50, 40, 30, 20, 10, 60, 5]
    batch = requests(past, [0, 0, 0, 1, 1, 1, 2])
    made = compiled(LLAMA, "neupims", batch, ON, "sub-batches.split=halves", values=False)
    assert made.graph.batch is not None
    rows = [sorted(r.row for r in half.requests) for half in made.graph.batch.halves]
    assert rows == [[0, 1, 3, 6], [2, 4, 5]]


def test_one_request_cannot_be_split() -> None:
    with pytest.raises(CompileError, match="cannot be split, since there is one request"):
        compiled(LLAMA, "neupims", requests([5]), ON)
    assert compiled(LLAMA, "neupims", requests([5])).comparison.ok  # type: ignore[union-attr]


# -- on or off by cost ------------------------------------------------------------------------------------------------


def halved(past: int, count: int, target: str) -> bool:
    """Whether the batch is split where nothing is forced."""
    batch = requests([past] * count, [i % 32 for i in range(count)])
    options = Options(requests=batch, overrides=("system.devices=4",), parallel={"tp": 4}, simulate=False)
    graph = compile_model(LAYERS, target, options).graph
    return any(n.fact(SubBatch) is not None for n in graph.order())


def test_split_by_cost() -> None:
    """Small batches of short requests read the weights twice for nothing; large ones hide much attention."""
    assert not halved(100, 32, "neupims")
    assert halved(1000, 128, "neupims")
    assert not halved(1000, 128, "newton")  # single row buffers: traffic waits for PIM anyway


# -- whole layers as published ----------------------------------------------------------------------------------------

LISTS = {"uni32s256": "uni-bs32-s256", "uni64s512": "uni-bs64-s512", "sg128": "sg-bs128-clb", "sg256": "sg-bs256-clb"}


def published() -> dict[str, dict[str, int]]:
    """Cycles by run and stage."""
    with (NEUPIMS / "end_to_end.csv").open() as file:
        return {
            row["run"]: {name: int(n) for name, n in (s.split("=") for s in row["stage_cycles"].split(";"))}
            for row in csv.DictReader(file)
        }


def stages(run: str) -> dict[str, int]:
    """Cycles of two decoder layers of GPT-3 7B, one device of four."""
    parts = run.removeprefix("7B-").split("-")
    target = "newton-faithful" if parts[0] == "newton" else "neupims-faithful"
    batch = read_requests(str(NEUPIMS / f"requests/{LISTS[parts[-1]]}.csv"))
    options = Options(
        requests=batch, pass_options=(f"sub-batches.use={parts[-2]}",), overrides=("system.devices=4",),
        parallel={"tp": 4},
    )  # fmt: skip
    report = compile_model(LAYERS, target, options).report
    assert report is not None
    return {beat.name: beat.cycles for beat in report.beats}


def layer(found: Mapping[str, int]) -> int:
    """One layer in the middle of a model."""
    return sum(found[s] for s in (("C", "D") if "C" in found else ("A", "B", "E")))


@pytest.mark.parametrize("requests", LISTS)
def test_whole_layers_take_what_was_published(requests: str) -> None:
    """Single stages within 15%, one layer within 10%; sub-batches pay for 256 requests, and cost much for 32."""
    runs = {run: wanted for run, wanted in published().items() if run.endswith(requests)}
    assert runs
    found = {run: stages(run) for run in runs}
    for run, wanted in runs.items():
        for stage, cycles in wanted.items():
            assert found[run][stage] == pytest.approx(cycles, rel=0.15), (run, stage, found[run][stage], cycles)
        assert layer(found[run]) == pytest.approx(layer(wanted), rel=0.10), run
    on, off = f"7B-on-{requests}", f"7B-off-{requests}"
    if on in runs:
        assert (layer(found[on]) < layer(found[off])) is (layer(runs[on]) < layer(runs[off]))


def test_what_the_published_simulator_leaves_out_can_be_charged() -> None:
    """Exchanges between devices take no time in its profile, unless they are asked for."""
    batch = read_requests(str(NEUPIMS / "requests/uni-bs32-s256.csv"))

    def seconds(*overrides: str) -> Counter[str]:
        options = Options(requests=batch, overrides=("system.devices=4", *overrides), parallel={"tp": 4})
        report = compile_model(LAYERS, "neupims-faithful", options).report
        assert report is not None
        return Counter({e.name: round(e.busy * 1e9) for e in report.engines} | {"all": round(report.seconds * 1e9)})

    free, charged = seconds(), seconds("link.transfers=timed")
    assert free["link"] == 0
    step = 180 + 2**16 / 128 / 2**30 * 1e9  # nanoseconds of the link for a quarter
    assert charged["link"] == pytest.approx(4 * 6 * step, rel=0.01)  # four all-reduces of 256 KiB
    assert charged["all"] - free["all"] == pytest.approx(charged["link"], rel=0.05)


def test_interpreter_agrees_with_the_graph_of_both_halves() -> None:
    """The graph that the passes leave is the model of both halves."""
    result = compiled(GPT, "neupims", requests((5, 20, 9)), ON)
    assert result.comparison is not None
    batch = result.graph.batch
    assert batch is not None
    rng = np.random.default_rng(0)
    arrays = {
        v.name: rng.integers(0, 16, v.type.static_shape)
        if not v.type.dtype.is_float
        else rng.standard_normal(v.type.static_shape).astype(np.float32)
        for v in result.graph.inputs
    }
    outputs = interp.run(result.graph, arrays, wide=True)
    assert {batch.called(name)[0] for name in outputs} == set(result.program.outputs)
