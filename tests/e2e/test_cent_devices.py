"""CENT with several devices: what ONNX Runtime computes, over pipelines, tensor groups, and shared devices."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from pimc.backends.numbering import canonical
from pimc.backends.program import Program
from pimc.backends.races import check_races
from pimc.backends.storage import from_bytes, to_bytes
from pimc.driver import Options, checked_program, lower_model
from pimc.execution import time_program
from pimc.ir.diagnostics import CompileError
from pimc.sim.report import build_report
from tests.e2e.harness import (
    MODELS,
    SAMPLES,
    Built,
    Sample,
    all_steps,
    assert_equal_bits,
    build,
    build_sample,
)


@dataclass(frozen=True)
class Split:
    """How a model is spread."""

    devices: int
    pp: int = 1
    tp: int = 1
    overrides: tuple[str, ...] = ()

    def options(self, **more: object) -> Options:
        overrides = (f"system.devices={self.devices}", *self.overrides)
        return Options(parallel={"pp": self.pp, "tp": self.tp}, overrides=overrides, **more)  # type: ignore[arg-type]


CENTS = ("mapping=cent-mapping",)
SPLITS = {
    "tp": Split(2, tp=2),
    "tp-beyond-heads": Split(4, tp=4),
    "pp": Split(2, pp=2),
    "both": Split(4, pp=2, tp=2),
    "turns": Split(1, pp=2),
    "side-by-side": Split(1, pp=2, overrides=CENTS),
    "both-side-by-side": Split(2, pp=2, tp=2, overrides=CENTS),
    "cents-tp": Split(2, tp=2, overrides=CENTS),
}
MODELS_OF_RUNTIME = (
    "tiny-llama.decode",  # grouped queries
    "tiny-llama.prefill",
    "llama-decode-optimum",  # as many heads of keys as of queries
    "llama-prefill-dynamo-fixed",
)


def _sample(name: str) -> Sample:
    return next(s for s in SAMPLES if s.arrays.stem == name)


@pytest.mark.parametrize("how", SPLITS)
@pytest.mark.parametrize("name", MODELS_OF_RUNTIME)
def test_devices_compute_what_onnx_runtime_does(name: str, how: str) -> None:
    built = build_sample(_sample(name), "cent", SPLITS[how].options())
    outputs = built.run()
    comparison = built.compare(outputs)
    assert comparison.ok, comparison.outputs
    assert_equal_bits(outputs, built.run(1))
    device = built.compare(built.run(wide=False), wide=False)
    assert device.ok, device.outputs


@pytest.mark.parametrize("mapping", ["default", "cent-mapping"])
@pytest.mark.parametrize("past", [1, 30, 517])
def test_attention_of_both_mappings(mapping: str, past: int) -> None:
    """Caches that end within slots, rows and chunks; few channels, so that all loops have turns."""
    overrides = (f"mapping={mapping}", "dram.channels=3", "dram.row_bytes=512B", "pim.global_buffer_bytes=512B")
    options = Options(
        dims={"batch": 2, "seq": 1, "past": past},
        overrides=overrides,
        pass_options=("split-attention.whole=always",) if mapping == "default" else (),
    )
    built = build(MODELS / "tiny-llama.onnx", "cent", options)
    ops = {row.op for row in built.program.ops}
    assert ("attention" in ops) == (mapping == "default")
    comparison = built.compare(built.run())
    assert comparison.ok, comparison.outputs
    check_races(built.program)


def test_whole_attention_whose_scores_take_less_room_than_its_queries(tmp_path: Path) -> None:
    model = tmp_path / "attention.pimc"
    model.write_text(
        "model attention(keys = 32)\ninput q: f16[1, 1, 3, 31]\ninput k: f16[1, 1, keys, 31]\n"
        "input v: f16[1, 1, keys, 31]\noutput y = attention(q, k, v, scale = 1.0)\n"
    )
    options = Options(overrides=("dram.channels=1",), pass_options=("split-attention.whole=always",))
    built = build(model, "cent", options)
    assert [row.op for row in built.program.ops] == ["attention"]
    assert built.compare(built.run()).ok


@pytest.mark.parametrize("kv", [4, 2, 1])
@pytest.mark.parametrize("past", [0, 131])
def test_whole_attention_of_several_positions(kv: int, past: int, tmp_path: Path) -> None:
    """Each sees the keys up to its own, however many heads share them."""
    model = tmp_path / "decoder.pimc"
    model.write_text(DECODER.format(kv=kv, blocks=MODELS / "blocks"))
    options = Options(
        dims={"batch": 2, "seq": 5, "past": past},
        overrides=("dram.channels=3", "dram.row_bytes=512B", "pim.global_buffer_bytes=512B"),
        pass_options=("split-attention.whole=always",),
    )
    built = build(model, "cent", options)
    assert "attention" in {row.op for row in built.program.ops}
    comparison = built.compare(built.run())
    assert comparison.ok, comparison.outputs
    check_races(built.program)


DECODER = """model decoder(batch = 1, seq = 1, past = 0)
let layers = 2
let hidden = 64
let heads = 4
let kv_heads = {kv}
let ffn = 96
let vocab = 32
include "{blocks}/llama.pimc"
"""


def test_several_positions_stay_whole_where_that_is_faster() -> None:
    found = {}
    for whole in ("auto", "never"):
        options = Options(
            dims={"seq": 4, "past": 1020}, pass_options=(f"split-attention.whole={whole}",), shapes_only=True
        )
        lowered = lower_model(MODELS / "bench" / "llama2-70b-block.pimc", "cent", options)
        found[whole] = time_program(checked_program(lowered)).time
    assert found["auto"] < 0.95 * found["never"]


def _placed(split: Split, **dims: int) -> Built:
    options = split.options(dims={"batch": 1, "seq": 1, "past": 15, **dims})
    return build(MODELS / "tiny-llama.onnx", "cent", options)


def test_stages_share_a_device_by_turns() -> None:
    """A query waits for the other stages: its latency is that of the device alone, as many times as there are turns."""
    alone = _placed(Split(1)).program
    shared = _placed(Split(1, pp=2)).program
    assert (shared.stages, shared.turns, shared.devices) == (2, 2, 1)
    once, twice = time_program(alone), time_program(shared)
    assert twice.time == 2 * once.time
    assert all(e.busy + sum(e.stalled.values()) + e.idle == twice.time for e in twice.engines)
    report = build_report(shared, twice).pipeline
    assert report is not None
    assert report.tokens_per_s == pytest.approx(2 / (twice.time * 1e-12))


def test_stages_share_a_device_side_by_side() -> None:
    """Half of the channels and of the buffer each; what the device has once takes twice as long."""
    built = _placed(Split(1, pp=2, overrides=CENTS))
    assert (built.program.stages, built.program.turns, built.program.devices) == (2, 1, 2)
    assert built.spec.system.sharing == 2
    assert built.spec.dram.channels == 16
    assert built.spec.buffer_bytes == 32 * 1024
    report = build_report(built.program, time_program(built.program)).pipeline
    assert report is not None
    assert report.parts == 2
    masks = {s.command.mask for s in all_steps(built.program) if hasattr(s.command, "mask")}  # type: ignore[attr-defined]
    assert max(masks) < 1 << 16


def test_more_parts_than_channels() -> None:
    with pytest.raises(CompileError, match="8 parts of a device"):
        _placed(Split(1, pp=8, overrides=(*CENTS, "dram.channels=4")))


def test_queries_in_flight_need_room() -> None:
    """A stage keeps the caches of all queries: what fits for two may not for one alone with as much room."""
    small = ("dram.channels=2", "dram.row_bytes=512B", "pim.global_buffer_bytes=512B")
    built = _placed(Split(2, pp=2, overrides=small), past=1000)
    rows = built.program.extent["dram"] // built.spec.dram.geometry.stride_row + 1
    with pytest.raises(CompileError, match="on each device") as caught:
        _placed(Split(2, pp=2, overrides=(*small, f"dram.rows={rows}")), past=1000)
    assert "caches of 1 other queries in flight" in caught.value.diagnostics[0].notes[0]


def _llama(folder: Path, layers: int, stages: int) -> Program:
    """A small Llama without weights, a stage for each device."""
    text = f"""
model small(batch = 1, seq = 1, past = 100)
let layers = {layers}
let hidden = 128
let heads = 8
let kv_heads = 2
let ffn = 320
let vocab = 96
include "{MODELS}/blocks/llama.pimc"
"""
    path = folder / f"small-{layers}.pimc"
    path.write_text(text)
    lowered = lower_model(path, "cent", Split(stages, pp=stages).options())
    return checked_program(lowered)


def test_equal_stages_are_stored_once(tmp_path: Path) -> None:
    """Stages that do the same have the same streams, in memory and in files, and each op its own row."""
    program = _llama(tmp_path, 6, 6)
    by_rank = {s.devices: s.items for s in program.streams if s.engine == "pim"}
    assert len(by_rank) == 6
    assert len({id(items) for items in by_rank.values()}) == 3, "first, last, and all between"
    assert sum(row.shares >= 0 for row in program.ops) > len(program.ops) / 3
    stored = to_bytes(program)
    again = from_bytes(stored)
    assert again.streams == canonical(program).streams
    assert (again.stages, again.turns) == (6, 1)
    assert len(stored) < 1.3 * len(to_bytes(_llama(tmp_path, 3, 3)))
    assert time_program(again) == time_program(program)
    assert time_program(program).time == time_program(program, "plain").time


def test_stages_take_equally_long(tmp_path: Path) -> None:
    """What a stage in the middle adds is always the same but for refreshes: a pass of 8 is about 2 more than of 6."""
    times = {n: time_program(_llama(tmp_path, n, n)).time for n in (4, 6, 8)}
    step = times[6] - times[4]
    assert times[8] - times[6] == pytest.approx(step, rel=0.06)


def test_ops_of_equal_stages_have_bounds_like_those_of_one_device(tmp_path: Path) -> None:
    """Streams of equal stages are one; each of their ops is bound by its own work, as where one device does it all."""
    model = tmp_path / "four.pimc"
    text = "model four(batch = 1, seq = 1, past = 255)\nlet layers = 6\nlet hidden = 1024\nlet heads = 8\n"
    text += f'let kv_heads = 2\nlet ffn = 2816\nlet vocab = 512\ninclude "{MODELS / "blocks"}/llama.pimc"\n'
    model.write_text(text)
    found = {}
    for stages in (1, 6):
        split = Split(6, pp=stages).options(shapes_only=True)
        program = checked_program(lower_model(model, "cent", split))
        report = build_report(program, time_program(program))
        found[stages] = {(o.name, o.op): o for o in report.ops if o.op in ("matmul", "rms_norm", "attention")}
    assert len(found[1]) > 30 and found[1].keys() == found[6].keys()
    for name, alone in found[1].items():
        assert found[6][name].bound_seconds == pytest.approx(alone.bound_seconds, rel=0.1), name
        assert 0 < found[6][name].bound_seconds <= found[6][name].seconds
