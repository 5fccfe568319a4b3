"""One request on two machines: the second decodes on the caches that the first has made, in values and in time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pimc.backends.isa import COMMANDS
from pimc.backends.link.isa import Import
from pimc.backends.state import DeviceState
from pimc.disaggregated import Request, options_for, serve
from pimc.driver import Options
from pimc.handover import Handover
from pimc.ir.diagnostics import CompileError
from pimc.ir.op import Array
from tests.cli.harness import CommandLine
from tests.e2e.harness import DATA, MODELS

LLAMA = MODELS / "tiny-llama.pimc"
BF16 = ("prefill:storage=bf16", "decode:storage=bf16")
SLOW_LINK = "system.link.bandwidth=1MB/s"


def _serve(
    pair: str, model: Path = LLAMA, count: int = 1, *, by_layer: bool = False, values: bool = False, **given: object
) -> Request:
    first, _, second = pair.partition(":")
    return serve([model], (first, second), Options(**given), count, values=values, by_layer=by_layer)  # type: ignore[arg-type]


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "overrides"),
    [("npu:neupims", ()), ("neupims:npu", ()), ("npu:cent", BF16[:1]), ("cent:newton", BF16[1:])],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_decoding_elsewhere_gives_what_onnx_runtime_gives(pair: str, overrides: tuple[str, ...]) -> None:
    """ONNX Runtime goes on with its own caches; the machines have nothing but the prompt in common with it."""
    model = MODELS / "tiny-llama.onnx"
    steps = _serve(pair, model, 3, values=True, dims={"batch": 2, "seq": 5}, overrides=overrides).generation.steps
    assert [(s.past, s.new) for s in steps] == [(0, 5), (5, 1), (6, 1), (7, 1)]
    assert all(s.carried for s in steps[1:])
    _equals_onnx_runtime(model, [s.inputs for s in steps], [s.outputs for s in steps])


def test_caches_of_contrib_ops_cross_too() -> None:
    model = DATA / "llamagqa-merged-genai.onnx"
    steps = _serve("npu:neupims", model, 2, values=True).generation.steps
    _equals_onnx_runtime(model, [s.inputs for s in steps], [s.outputs for s in steps])


def _equals_onnx_runtime(model: Path, inputs: list[Mapping[str, Array]], outputs: list[Mapping[str, Array]]) -> None:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    names = [o.name for o in session.get_outputs()]
    size = next(value.shape[3] for value in outputs[0].values() if value.ndim == 4)
    caches = {
        i.name: np.zeros([inputs[0]["input_ids"].shape[0], i.shape[1], 0, size], np.float32)
        for i in session.get_inputs()
        if len(i.shape) == 4
    }
    for given, computed in zip(inputs, outputs, strict=True):
        expected = dict(zip(names, session.run(None, {**given, **caches}), strict=True))
        for name in names:
            np.testing.assert_allclose(computed[name], expected[name], rtol=1e-4, atol=1e-5)
        caches = {name: expected[_present(name, names)] for name in caches}


def _present(past: str, names: list[str]) -> str:
    layer = past.split(".", 1)[1]
    return next(n for n in names if n.endswith(layer) and "present" in n)


@pytest.mark.parametrize(
    ("pair", "overrides", "parallel"),
    [
        ("npu:npu", ["prefill:system.devices=2"], {"prefill:tp": 2}),
        ("npu:neupims", ["decode:system.devices=2"], {"decode:tp": 2}),
        ("npu:cent", ["prefill:storage=bf16", "decode:system.devices=4"], {"decode:pp": 2, "decode:tp": 2}),
        ("cent:npu", ["decode:storage=bf16", "system.devices=2"], {"prefill:pp": 2, "decode:tp": 2}),
    ],
)
def test_devices_get_their_parts_however_the_other_machine_had_shared_them_out(
    pair: str, overrides: list[str], parallel: dict[str, int]
) -> None:
    found = _serve(pair, count=2, values=True, overrides=overrides, parallel=parallel, dims={"seq": 7})
    assert found.ok
    assert all(step.carried for step in found.decodes)
    copies = 2 * 2 * 7 * 16 * 2 * 2  # layers, K and V, tokens, size, heads, bytes
    assert found.handover.bytes == copies


def test_what_did_not_arrive_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decode step has no other source of the caches than what crossed the link."""
    original = Import.execute

    def lose_one(self: Import, state: DeviceState) -> None:
        messages = state.received[self.origin if isinstance(self.origin, int) else 0]
        messages[0] = np.zeros_like(messages[0])
        original(self, state)

    monkeypatch.setattr(Import, "execute", lose_one)
    found = _serve("npu:neupims", values=True)
    assert [s.comparison is not None and s.comparison.ok for s in found.generation.steps] == [True, False]


# -- time -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def moved() -> Handover:
    return _serve("npu:neupims", dims={"seq": 40}).handover


def test_the_whole_lies_between_its_slower_end_and_both_one_after_the_other(moved: Handover) -> None:
    ends, hop = (moved.sender.timing.time, moved.receiver.timing.time), moved.crossing.link.latency
    assert max(ends) + hop < moved.whole_ps < sum(ends) + hop


def test_a_slow_link_paces() -> None:
    slow = _serve("npu:neupims", overrides=[SLOW_LINK]).handover
    assert slow.paced_by == "link"
    assert slow.wire_ps == slow.bytes * 10**6
    assert slow.wire_ps < slow.whole_ps < slow.wire_ps * 1.01


def test_the_slower_end_is_the_link() -> None:
    """Whichever machine it is, with the longer hop of the two."""
    for phase in ("prefill", "decode"):
        overrides = [f"{phase}:{SLOW_LINK}", "decode:system.link.latency=1us"]
        link = _serve("npu:neupims", overrides=overrides).handover.crossing
        assert (link.bandwidth, link.link.latency) == (10**6, 10**6)
        assert link.slower == {"prefill": "npu", "decode": "neupims"}[phase]


def test_packets_and_free_links() -> None:
    cent = _serve("cent:cent", overrides=["system.devices=32"]).handover  # flits of 256 bytes carry 192
    assert cent.sent_bytes > cent.bytes * 256 / 192 - 1
    free = _serve("npu:npu", overrides=["system.link.transfers=free"]).handover
    assert (free.wire_ps, free.crossing.link.transfers) == (0, "free")


def test_the_same_machine_has_nothing_to_lay_out_anew(moved: Handover) -> None:
    same = _serve("npu:npu", dims={"seq": 40}).handover
    assert all(p.same_order for p in same.passages)
    assert not any(p.same_order for p in moved.passages)
    assert same.receiver.timing.time < moved.receiver.timing.time


def test_layer_by_layer_hides_what_there_is_time_for() -> None:
    after = _serve("npu:neupims", dims={"seq": 24})
    by_layer = _serve("npu:neupims", dims={"seq": 24}, by_layer=True)
    found = by_layer.handover
    assert by_layer.transfer_seconds < after.transfer_seconds == found.whole_ps * 1e-12
    starts = found.schedule(by_layer=True)
    assert all(start >= ready for start, ready in zip(starts, found.ready_ps, strict=True))
    assert list(starts) == sorted(starts)
    assert all(0 < r <= found.prefill_ps for r in found.ready_ps)
    assert len(set(found.ready_ps)) == len(found.ready_ps)  # those of layers in a loop, too
    slow = _serve("npu:neupims", dims={"seq": 24}, by_layer=True, overrides=[SLOW_LINK])
    hidden = slow.handover.whole_ps - slow.handover.by_layer_ps
    assert hidden == slow.handover.prefill_ps - slow.handover.ready_ps[0]


def test_times_of_the_request_add_up() -> None:
    found = _serve("npu:neupims", count=3)
    steps = [s.timing.time * 1e-12 for s in found.generation.steps]
    assert found.seconds == pytest.approx(sum(steps) + found.transfer_seconds)
    assert found.time_to_second_token == pytest.approx(steps[0] + found.transfer_seconds + steps[1])
    assert found.generation.time_per_token == pytest.approx(sum(steps[1:]) / 3)
    assert found.tokens_per_second == pytest.approx(4 / found.seconds)


def test_energy_is_that_of_all_parts() -> None:
    one, three = (_serve("npu:neupims", count=n) for n in (1, 3))
    assert one.energy is not None
    assert three.energy is not None
    parts = {name: r.energy.total_j for name, r in one.reports.items() if r.energy is not None}
    assert dict(one.energy) == pytest.approx(parts)
    assert three.energy["decode"] > 2.9 * one.energy["decode"]
    send = one.reports["send"].energy
    assert send is not None
    assert send.groups["link"] == pytest.approx(one.handover.bytes * 10.4e-12)


# -- what cannot be, and the command line -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        ("npu:cent", "npu stores the cache .* as f16, and cent stores .* as bf16"),
        ("cent-published:npu", "cent-published has no commands that move a cache"),
        ("npu:cent-published", "cent-published has no commands that move a cache"),
    ],
)
def test_machines_that_do_not_go_together(pair: str, message: str) -> None:
    with pytest.raises(CompileError, match=message) as raised:
        _serve(pair)
    assert raised.value.diagnostics[0].help


def test_two_lengths_of_one_prompt() -> None:
    with pytest.raises(CompileError, match=r"finds 8 tokens cached.* not past=9"):
        _serve("npu:npu", dims={"seq": 8, "past": 9})
    assert _serve("npu:npu", dims={"past": 9}).prefill.new == 9


def test_settings_of_one_machine_win_over_those_of_both() -> None:
    options = Options(overrides=["a=1", "decode:a=2"], parallel={"decode:tp": 4, "tp": 2, "prefill:pp": 3})
    assert options_for(options, "prefill").overrides == ("a=1",)
    assert options_for(options, "decode").overrides == ("a=1", "a=2")
    assert options_for(options, "prefill").parallel == {"tp": 2, "pp": 3}
    assert options_for(options, "decode").parallel == {"tp": 4}


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    monkeypatch.chdir(tmp_path)
    return CommandLine(tmp_path, capsys, monkeypatch)


def test_the_command_tells_the_request_and_its_parts(run: CommandLine) -> None:
    pair = ("compile", str(LLAMA), "-t", "npu:neupims", "--dim", "seq=6")
    page = run.done(*pair, "--values", "random")
    assert "npu prefills, neupims decodes" in page
    assert "values  ok" in page
    assert "paced by storing at the receiving end; 4 of 4 caches lie in another order there" in page
    plain = json.loads(run.done(*pair, "--json", "--trace", "t.json"))
    assert list(plain["phases"]) == ["prefill", "send", "receive", "decode"]
    assert plain["target"] == "npu:neupims"
    assert plain["seconds"] == pytest.approx(
        plain["time_to_first_token"] + plain["transfer"]["exposed_seconds"] + plain["time_per_token"]
    )
    assert len(plain["ops"]) == sum(len(p["ops"]) for p in plain["phases"].values())
    assert plain["bound_seconds"] < plain["seconds"]
    slices = [e for e in json.loads((run.folder / "t.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert max(e["ts"] + e["dur"] for e in slices) == pytest.approx(plain["seconds"] * 1e6)
    on_the_way = [e for e in slices if e["cat"] == "transfer"]
    assert [e["name"] for e in on_the_way] == [c["name"] for c in plain["transfer"]["caches"]]
    assert on_the_way[0]["ts"] == pytest.approx(plain["time_to_first_token"] * 1e6)


def test_requests_are_compared_as_a_whole(run: CommandLine) -> None:
    for name, pair in (("a.json", "npu:neupims"), ("b.json", "npu:npu")):
        (run.folder / name).write_text(run.done("compile", str(LLAMA), "-t", pair, "--json"))
    found = json.loads(run.done("compare", "a.json", "b.json", "--json"))
    assert [side["name"] for side in found["results"]] == ["npu:neupims", "npu:npu"]
    assert {row["phase"] for row in found["ops"]} == {"prefill", "transfer", "decode"}
    assert "a.json#receive" in run.done("compare", "a.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-t", "npu:"), "the name of a target is empty"),
        (("-t", "npu:cent,npu"), "-t PREFILL:DECODE is one run"),
        (("-t", "npu:cent", "--phase", "decode"), "does not go with --phase decode"),
        (("-t", "npu:cent", "-o", "x.pimprog"), "does not go with -o"),
        (("-t", "npu:cent", "--requests", "x.csv"), "does not go with --requests"),
        (("-t", "npu:cent", "--dim", "seq=1:4"), "a range of a dimension does not go with"),
        (("-t", "npu", "--transfer", "after"), "--transfer is how caches get to another machine"),
        (("-t", "npu", "--set", "decode:storage=bf16"), "is for one of two machines"),
        (("-t", "npu", "--parallel", "decode:tp=2"), "is for one of two machines"),
    ],
)
def test_what_does_not_go_with_two_machines(run: CommandLine, arguments: tuple[str, ...], said: str) -> None:
    outcome = run("compile", str(LLAMA), *arguments)
    assert outcome.status == 2
    assert said in outcome.err
    assert not outcome.out


def test_commands_of_both_ends_are_declared() -> None:
    assert {"EXPORT", "IMPORT"} <= COMMANDS.keys()
