"""Batches of requests with lengths of their own: each computes what the model computes for it alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from pimc.backends.affine import DEVICE, INSTANCE
from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.program import unrolled
from pimc.backends.storage import from_bytes, to_bytes
from pimc.driver import Options, Result, compile_model
from pimc.ir import interp
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.op import Array
from pimc.ir.requests import Request
from pimc.sim.values import execute
from tests.e2e.harness import DATA, MODELS

GPT, LLAMA = MODELS / "tiny-gpt2.pimc", MODELS / "tiny-llama.pimc"
TARGETS = ("npu", "neupims", "newton", "cent")
RAGGED = (3, 17, 0, 40, 17, 9, 31)


def requests(
    past: Sequence[int], new: Sequence[int] | None = None, channels: Sequence[int] | None = None
) -> tuple[Request, ...]:
    added = new or [1] * len(past)
    places: Sequence[int | None] = channels or [None] * len(past)
    return tuple(Request(f"r{i}", p, n, c, i) for i, (p, n, c) in enumerate(zip(past, added, places, strict=True)))


def compiled(
    model: Path, target: str, batch: Sequence[Request], *passes: str, values: bool = True, **options: object
) -> Result:
    made = Options(requests=batch, pass_options=passes, **options)  # type: ignore[arg-type]
    return compile_model(model, target, made, values="random" if values else None)


def cycles(target: str, past: Sequence[int], *passes: str, channels: Sequence[int] | None = None) -> int:
    made = compiled(
        LLAMA, target, requests(past, channels=channels), *passes, values=False, overrides=("dram.channels=4",)
    )
    assert made.timing is not None
    return made.timing.cycles


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", [GPT, LLAMA, MODELS / "tiny-llama.onnx"], ids=lambda m: m.name)
def test_each_request_computes_what_it_computes_alone(model: Path, target: str) -> None:
    result = compiled(model, target, requests(RAGGED))
    assert result.comparison is not None
    assert result.comparison.ok
    assert {f"logits[r{i}]" for i in range(len(RAGGED))} <= {o.name for o in result.comparison.outputs}


@pytest.mark.parametrize("seed", range(10))
def test_random_batches(seed: int) -> None:
    r = random.Random(seed)
    target = TARGETS[seed % 4]
    channels = r.choice([1, 2, 4, 8])
    private = target in ("neupims", "newton")
    past = [r.randrange(r.choice([5, 90, 700])) for _ in range(r.choice([1, 2, 5, 12]))]
    new = [r.choice([1, 2, 3]) for _ in past] if r.random() < 0.3 else None
    given = [r.randrange(channels) for _ in past] if r.random() < 0.5 else None
    passes = ["place.only=pim"] if private and r.random() < 0.7 else []
    overrides = [f"dram.channels={channels}"] if private else []
    parallel = {"tp": 2} if r.random() < 0.4 else {}
    result = compiled(
        LLAMA,
        target,
        requests(past, new, given),
        *passes,
        overrides=(*overrides, f"system.devices={parallel.get('tp', 1)}"),
        parallel=parallel,
    )
    assert result.comparison is not None
    assert result.comparison.ok


LAST = {
    "the last token": "slice(x, [-1], [9223372036854775807], [1])",
    "the last two": "slice(x, [-2], [9223372036854775807], [-2])",
    "an index": "gather(x, -1, axis = 1)",
    "of flat ones": "slice(reshape(abs(reshape(x, [batch * seq, hidden])), [batch, seq, hidden]), [-1], [seq], [1])",
}


@pytest.mark.parametrize("last", LAST.values(), ids=LAST)
@pytest.mark.parametrize("target", ["npu", "cent"])
def test_the_last_tokens_are_those_of_each_request(target: str, last: str, tmp_path: Path) -> None:
    text = LLAMA.read_text().replace('"tiny-llama.onnx"', f'"{LLAMA.with_suffix(".onnx")}"')
    text = text.replace("let layers = 2", "let layers = 1").replace("rms_norm(x, final", f"rms_norm({last}, final")
    model = tmp_path / "last.pimc"
    model.write_text(text)
    result = compiled(model, target, requests((5, 0, 12), new=(2, 6, 3)))
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.outputs


@pytest.mark.parametrize(
    "name", ["llamagqa-decode-dynamo", "llamagqa-decode-hf-ortcpu", "gptj-decode-ts", "llama-decode-optimum"]
)
def test_decoders_of_exporters(name: str) -> None:
    result = compiled(DATA / f"{name}.onnx", "neupims", requests(RAGGED))
    assert result.comparison is not None
    assert result.comparison.ok


@pytest.mark.parametrize("target", ["npu", "cent"])
def test_masks_of_several_new_tokens_end_where_each_request_does(target: str) -> None:
    """The graph computes its causal mask from the one number of cached tokens."""
    result = compiled(DATA / "llama-decode-optimum.onnx", target, requests((3, 5, 0), new=(2, 2, 2)))
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.outputs


@pytest.mark.parametrize(("target", "past"), [("newton", (129, 60, 129)), ("neupims", (129, 60, 129, 1, 60))])
def test_waves_that_share_their_room_take_turns_in_it(target: str, past: tuple[int, ...]) -> None:
    """A wave works before the one before it is collected; this buffer has room for the results of one."""
    result = compiled(LLAMA, target, requests(past), overrides=("dram.channels=2", "buffer.bytes=256KiB"))
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.outputs


def test_hundreds_of_lengths_share_groups() -> None:
    past = [(i * 37) % 211 for i in range(100)]
    result = compiled(LLAMA, "npu", requests(past))
    assert result.comparison is not None
    assert result.comparison.ok
    assert len({e.rows.rows for e in result.program.memory if e.rows and e.role == "cache"}) <= 32


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "share"), [("neupims", 0.75), ("newton", 0.75), ("npu", 0.95), ("cent", 0.75)])
def test_short_requests_take_less_time_than_long_ones(target: str, share: float) -> None:
    long, short = [900] * 8, [900, *[60] * 7]
    assert cycles(target, short) < share * cycles(target, long)


def test_time_goes_with_the_sum_of_a_channel() -> None:
    """One channel with all of the keys, against four with a quarter each."""
    spread = cycles("neupims", [800] * 4, "place.only=pim", channels=[0, 1, 2, 3])
    heaped = cycles("neupims", [800] * 4, "place.only=pim", channels=[0, 0, 0, 0])
    assert heaped > 1.3 * spread


def test_each_length_is_cut_as_it_is_alone() -> None:
    """Keys of a few long requests go to the vector unit, those of many short ones to the arrays: neither choice holds
    for both. What one length was cut into had been asked of all."""

    def seconds(past: Sequence[int]) -> list[float]:
        made = Options(requests=requests(past), parallel={"tp": 4}, overrides=("system.devices=4",))
        report = compile_model(MODELS / "bench" / "gpt3-7b-layers.pimc", "npu", made).report
        assert report is not None
        return [o.seconds for o in report.ops if o.name.startswith("layer.0.self_attention.context")]

    long, short = [260] * 4, [16] * 64
    for together, *alone in zip(seconds([*long, *short]), seconds(long), seconds(short), strict=True):
        assert together <= 1.05 * sum(alone)


def test_commands_of_pim_follow_each_length() -> None:
    """Tiles by hand, of two layers. Keys: a row for each 32 tokens, in which both kv heads lie, and both query heads
    in the global buffer. Values: a row for each kv head, since 16 dims fit the banks and 512 tokens a row."""
    past = [31, 95, 40]
    result = compiled(LLAMA, "neupims", requests(past, channels=[0, 1, 2]), "place.only=pim", values=False)
    program = result.program
    tiles: Counter[tuple[str, int]] = Counter()
    for stream in program.streams:
        for channel in stream.instances if stream.engine == "pim" else ():
            for step in unrolled(stream.items, {DEVICE: 0, INSTANCE: channel}):
                if step.command.mnemonic == "HEADER":
                    tiles[program.ops[step.op].op, channel] += 1
    for channel, cached in enumerate(past):
        assert tiles["attention_scores", channel] == 2 * -(-(cached + 1) // 32)
        assert tiles["attention_context", channel] == 2 * 2


def test_equal_waves_become_loops() -> None:
    """The program does not grow with the number of equal waves."""

    def size(waves: int) -> int:
        batch = requests([255] * 4 * waves, channels=[i % 4 for i in range(4 * waves)])
        made = compiled(LLAMA, "neupims", batch, "place.only=pim", values=False, overrides=("dram.channels=4",))
        return len(to_bytes(made.program))

    assert size(32) < 1.3 * size(8)


# -- arrays and stored programs ---------------------------------------------------------------------------------------


def test_padded_arrays_and_arrays_of_one_request_are_the_same() -> None:
    batch = requests([5, 2, 9])
    rng = np.random.default_rng(0)
    graph = compiled(GPT, "npu", batch, values=False)
    caches = [n for n in graph.program.inputs if n != "input_ids"]
    alone: dict[str, Array] = {}
    padded: dict[str, Array] = {f"in:{n}": np.full((3, 4, 9, 16), np.nan, np.float32) for n in caches}
    padded["in:input_ids"] = np.zeros((3, 1), np.int64)
    for r in batch:
        alone[f"in:input_ids[{r.id}]"] = rng.integers(0, 256, (1, 1))
        padded["in:input_ids"][r.row] = alone[f"in:input_ids[{r.id}]"][0]
        for n in caches:
            alone[f"in:{n}[{r.id}]"] = rng.standard_normal((1, 4, r.past, 16)).astype(np.float32)
            padded[f"in:{n}"][r.row, :, : r.past] = alone[f"in:{n}[{r.id}]"][0]
    outputs = [compile_model(GPT, "neupims", Options(requests=batch), values=v).outputs for v in (alone, padded)]
    assert outputs[0] is not None
    assert outputs[1] is not None
    for name, value in outputs[0].items():
        np.testing.assert_array_equal(value, outputs[1][name])
    expected = {f"out:{n}[{r.id}]": v[r.row : r.row + 1] for n, v in outputs[0].items() for r in batch if n == "logits"}
    checked = compile_model(GPT, "neupims", Options(requests=batch), values={**alone, **expected})
    assert checked.comparison is not None
    assert checked.comparison.ok
    wrong = {n: v + 1 for n, v in expected.items()}
    checked = compile_model(GPT, "neupims", Options(requests=batch), values={**padded, **wrong})
    assert checked.comparison is not None
    assert not checked.comparison.ok


def test_arrays_that_fit_no_request_are_refused() -> None:
    batch = requests([5, 2])
    values = {"in:input_ids[r0]": np.zeros((1, 1), np.int64), "in:input_ids[x]": np.zeros((1, 1), np.int64)}
    with pytest.raises(CompileError) as raised:
        compile_model(GPT, "npu", Options(requests=batch), values=values)
    said = str(raised.value)
    assert "there is no request 'x'" in said
    assert "none for request 'r1'" in said
    assert {d.kind for d in raised.value.diagnostics} == {Kind.INPUT_BAD}


def test_programs_are_stored_and_read_back_with_their_requests() -> None:
    result = compiled(GPT, "newton", requests([5, 2, 40], channels=[1, 1, 3]))
    program = result.program
    again = from_bytes(to_bytes(program))
    assert [(r.id, r.past, r.new, r.channel, r.row) for r in again.requests] == [
        (r.id, r.past, r.new, r.channel, r.row) for r in program.requests
    ]
    assert to_bytes(assemble(disassemble(again))) == to_bytes(again)
    inputs = {n: np.ones(e.whole_shape, e.logical.numpy) for n in program.inputs if (e := program.entry(n)) is not None}
    first, _ = execute(program, inputs, wide=True)
    second, _ = execute(again, inputs, wide=True)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_the_graph_means_the_same_before_and_after_lowering() -> None:
    """The interpreter on the graph of the whole batch, rows in the program's order."""
    from pimc.driver import inputs_and_expected, lower_model

    lowered = lower_model(LLAMA, "npu", Options(requests=requests(RAGGED), until="ragged-attention"))
    inputs, expected = inputs_and_expected(lowered, "random", 0)
    batch = lowered.graph.batch
    assert batch is not None
    order = [r.row for r in batch.requests]
    outputs = interp.run(lowered.graph, {n: v[order] for n, v in inputs.items()})
    for place, request in enumerate(batch.requests):
        np.testing.assert_allclose(outputs["logits"][place], expected[f"logits[{request.id}]"][0], rtol=1e-3, atol=1e-3)
