"""The commands as users run them, on the tiny models."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pimc
from pimc.backends.engines import commands
from pimc.ir.op import REGISTRY
from tests.cli.harness import DECODE, TINY, TINY_ONNX, CommandLine

COMPILE_KEYS = {"model", "target", "target_hash", "dims", "phase", "cycles", "seconds", "bound_seconds", "bound_share"}
ENGINE_KEYS = {"name", "kind", "cycles", "commands", "busy", "stalled", "idle"}
OP_KEYS = {"name", "op", "source", "phase", "nature", "engine", "reason", "seconds", "bound_seconds", "flops", "bytes"}


@pytest.fixture
def program(run: CommandLine) -> str:
    """A stored program."""
    run.done("compile", TINY, "-t", "npu", "--dim", "past=3", "-o", "a.pimprog", "-q")
    return "a.pimprog"


def as_json(text: str) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    return found


# -- compile ----------------------------------------------------------------------------------------------------------


def test_compile_as_json(run: CommandLine) -> None:
    found = as_json(run.done("compile", TINY_ONNX, "-t", "npu", "--values", DECODE, "--json"))
    assert found.keys() >= COMPILE_KEYS
    assert found["dims"] == {"batch": 2, "seq": 1, "past": 5}
    assert found["phase"] == "decode"
    assert all(e.keys() >= ENGINE_KEYS for e in found["engines"])
    assert all(o.keys() >= OP_KEYS for o in found["ops"])
    assert found["values"].keys() >= {"ok", "format", "max_abs_err", "max_rel_err"}
    assert found["values"]["ok"]
    assert isinstance(found["cycles"], int)
    for e in found["engines"]:
        assert e["busy"] + sum(e["stalled"].values()) + e["idle"] == pytest.approx(found["seconds"])


def test_compile_for_people(run: CommandLine) -> None:
    out = run.done("compile", TINY, "-t", "neupims", "--dim", "past=7", "--values", "random", "-v")
    for part in ("tiny-llama", "neupims", "cycles", "of its bound", "stalled by", "where the time goes", "memory map"):
        assert part in out
    assert "values     ok" in out
    assert run.done("compile", TINY, "-t", "npu", "-q") == ""


def test_the_same_input_gives_the_same_bytes(run: CommandLine) -> None:
    for name in ("a", "b"):
        run.done("compile", TINY, "-t", "cent", "-q", "-o", f"{name}.pimprog", "--trace", f"{name}.json.gz")
    assert Path("a.pimprog").read_bytes() == Path("b.pimprog").read_bytes()
    assert Path("a.json.gz").read_bytes() == Path("b.json.gz").read_bytes()
    assert json.loads(gzip.decompress(Path("a.json.gz").read_bytes()))["traceEvents"]


def test_wrong_values_are_a_failure_that_prints_everything(run: CommandLine) -> None:
    with np.load(DECODE) as archive:
        arrays = dict(archive)
    np.savez("wrong.npz", **{**arrays, "out:logits": arrays["out:logits"] + 1})
    outcome = run("compile", TINY_ONNX, "-t", "npu", "--values", "wrong.npz", "--json")
    assert outcome.status == 1
    assert not as_json(outcome.out)["values"]["ok"]
    assert "error[P0901]" in outcome.told
    assert "'logits'" in outcome.told
    text = run("compile", TINY_ONNX, "-t", "npu", "--values", "wrong.npz")
    assert "values     differ in 1 of 5 outputs" in text.out
    assert text.err.startswith("error[P0901]")


def test_without_simulation(run: CommandLine) -> None:
    found = as_json(run.done("compile", TINY, "-t", "npu", "--no-sim", "--json"))
    assert "cycles" not in found
    assert found["ops"]
    assert "placement" not in run.done("compile", TINY, "-t", "npu", "--no-sim")


def test_emit(run: CommandLine) -> None:
    shown = {
        form: run.done("compile", TINY, "-t", "npu", "--emit", form) for form in ("ir", "tagged", "placed", "tiled")
    }
    assert all(pimc.parse_ir(text, form) for form, text in shown.items())
    assert "#" not in shown["ir"]
    assert "#phase=" in shown["tagged"]
    assert "#place=" not in shown["tagged"]
    assert "#place=" in shown["placed"]
    assert "lies in" in shown["tiled"]
    asm = run.done("compile", TINY, "-t", "npu", "--emit", "asm", "-o", "a.pimprog")
    assert run.done("disasm", "a.pimprog") == asm


@pytest.mark.parametrize("what", ["tagged", "placed"])
def test_stages_of_a_split_that_is_chosen(what: str, run: CommandLine) -> None:
    devices = (TINY, "-t", "cent", "--set", "system.devices=2")
    assert run.done("compile", *devices, "--emit", what).startswith("graph tiny-llama(")
    assert run.done("explain", *devices).startswith("tiny-llama")


def test_a_missing_pass_is_told_where_a_split_is_chosen(run: CommandLine) -> None:
    said = run("compile", TINY, "-t", "cent", "--set", "system.devices=2", "--disable-pass", "tag-nature")
    assert said.status == 1
    assert "let 'tag-nature' run" in said.err


def test_looking_inside(run: CommandLine) -> None:
    outcome = run(
        "compile", TINY, "-t", "npu", "--json", "--timing", "--print-ir-after", "bind", "--dump-stages", "stages"
    )  # fmt: skip
    assert outcome.status == 0
    assert as_json(outcome.out)
    assert "// after bind" in outcome.err
    assert "all passes" in outcome.err
    stages = sorted(p.name for p in Path("stages").iterdir())
    assert stages[0] == "00-bind.pimir"
    assert all(name.endswith(".pimir") for name in stages)
    everything = run("compile", TINY, "-t", "npu", "-q", "--print-ir-after-all").err
    assert everything.count("// after ") == len(stages)


def test_times_of_passes_are_kept_where_they_are_asked_for(run: CommandLine) -> None:
    done = run("compile", TINY, "-t", "npu", "--timing", "--json")
    passes = as_json(done.out)["passes"]
    assert "all passes" in done.err
    assert all(row["seconds"] >= 0 for row in passes)
    assert sum(row["seconds"] for row in passes) > 0


def test_options_reach_the_compiler(run: CommandLine) -> None:
    arguments = ("compile", TINY, "-t", "neupims", "--dim", "past=63", "--json")
    plain = as_json(run.done(*arguments))
    only = ("compile", TINY, "-t", "neupims", "--dim", "seq=128", "--json", "--pass-config", "place.only=npu")
    npu = as_json(run.done(*only))
    assert "pim" in {o["engine"] for o in plain["ops"]}
    assert {o["engine"] for o in npu["ops"]} == {"npu"}
    slow = as_json(run.done(*only, "--set", "npu.clock=500MHz"))
    assert slow["seconds"] > npu["seconds"]
    assert slow["target_hash"] != npu["target_hash"]
    assert as_json(run.done(*arguments, "--sim-engine", "plain"))["cycles"] == plain["cycles"]


def test_a_pass_of_ones_own(run: CommandLine) -> None:
    Path("mine.py").write_text(
        '''
from dataclasses import dataclass
from pimc import GraphStage, Node, PatternPass, Placement, Rewriter

@dataclass(frozen=True)
class ProductsOnNpu(PatternPass):
    """Products go to the NPU."""
    name = "products-on-npu"
    before = GraphStage.TAGGED
    root = ("matmul",)

    def rewrite(self, node: Node, rewriter: Rewriter) -> None:
        rewriter.set_fact(node, Placement("npu", "because I say so"))
'''
    )
    found = as_json(run.done("compile", TINY, "-t", "neupims", "--load", "mine.py", "--json"))
    products = [o for o in found["ops"] if o["op"] == "matmul"]
    assert {(o["engine"], o["reason"]) for o in products} == {("npu", "because I say so")}
    assert "products-on-npu" in run.done("passes", "--load", "mine.py")
    assert "products-on-npu" not in run.done("passes")


def test_generation(run: CommandLine) -> None:
    found = as_json(run.done("compile", TINY, "-t", "npu", "--generate", "2", "--values", "random", "--json"))
    assert found["values"]["ok"]
    assert [s["past"] for s in found["steps"]] == [0, 8, 9]
    assert {"time_to_first_token", "time_per_token", "tokens_per_s"} <= found.keys()
    out = run.done("compile", TINY, "-t", "npu", "--generate", "2")
    assert "first token" in out
    assert "decode 2" in out


# -- programs ---------------------------------------------------------------------------------------------------------


def test_a_stored_program_runs_the_same(run: CommandLine) -> None:
    arguments = ("--values", DECODE, "--json")
    compiled = as_json(run.done("compile", TINY_ONNX, "-t", "cent", "-o", "a.pimprog", *arguments))
    simulated = as_json(run.done("sim", "a.pimprog", *arguments, "--out", "o.npz"))
    assert simulated["cycles"] == compiled["cycles"]
    assert simulated["values"] == compiled["values"]
    with np.load(DECODE) as archive, np.load("o.npz") as outputs:
        assert set(outputs) == {name for name in archive if name.startswith("out:")}
        np.testing.assert_allclose(outputs["out:logits"], archive["out:logits"], atol=1e-4)
    again = as_json(run.done("sim", "a.pimprog", "--json"))
    assert again["cycles"] == compiled["cycles"]


def test_outputs_of_random_values_are_the_same_each_time(run: CommandLine, program: str) -> None:
    for name in ("a.npz", "b.npz"):
        assert "nothing to compare with" in run.done("sim", program, "--values", "random", "--out", name)
    assert Path("a.npz").read_bytes() == Path("b.npz").read_bytes()


def test_weights_given_by_name(run: CommandLine, program: str) -> None:
    shape = pimc.load_program(program).entry("head").shape  # type: ignore[union-attr]
    np.savez("weights.npz", head=np.zeros(shape, np.float32))
    run.done("sim", program, "--values", "random", "--weights", "weights.npz", "--out", "o.npz")
    with np.load("o.npz") as outputs:
        assert not outputs["out:logits"].any()


def test_text_and_back(run: CommandLine, program: str) -> None:
    data = Path(program).read_bytes()
    run.done("disasm", program, "-o", "a.pimasm")
    run.done("asm", "a.pimasm", "-o", "b.pimprog")
    assert Path("b.pimprog").read_bytes() == data
    run.done("asm", "a.pimasm")
    assert Path("a.pimprog").read_bytes() == data
    text = run("disasm", "-", stdin=data)
    assert text.out == Path("a.pimasm").read_text()


def test_show(run: CommandLine, program: str) -> None:
    out = run.done("show", program)
    for part in ("inputs", "memory map", '.stream "npu"', "more lines"):
        assert part in out
    only = run.done("show", program, "--engine", "npu", "--op", "logits", "--limit", "0")
    assert only.startswith('.stream "npu"')
    assert "; matmul logits" in only
    assert "rms_norm" not in only
    found = as_json(run.done("show", program, "--engine", "load", "--json"))
    assert [s["engine"] for s in found["streams"]] == ["load"]


def test_opt(run: CommandLine) -> None:
    Path("m.pimir").write_text(run.done("compile", TINY, "-t", "npu", "--emit", "ir"))
    bound = run.done("opt", "m.pimir", "--passes", "bind,fold", "--dim", "past=2")
    assert "past" not in bound.partition("{")[0].replace("past_key", "")
    Path("m.pimir").write_text(run.done("compile", TINY, "-t", "npu", "--emit", "tagged"))
    assert "#place=npu" in run.done("opt", "m.pimir", "--passes", "place{only=npu}", "-t", "neupims")


# -- what there is ----------------------------------------------------------------------------------------------------


def test_ops_are_found_by_their_weight(run: CommandLine, program: str) -> None:
    """Products of expressions have made-up names, but their weights have good ones."""
    rows = as_json(run.done("compile", TINY, "-t", "npu", "--dim", "past=3", "--json"))["ops"]
    (up,) = (row for row in rows if row["weight"] == "layer.0.mlp.w_up")
    shown = run.done("show", program, "--engine", "npu", "--op", "layer.0.mlp.w_up", "--limit", "0")
    assert {line.split("; ")[1].split()[1] for line in shown.splitlines() if "; " in line} == {up["name"]}
    (explained,) = as_json(run.done("explain", TINY, "-t", "npu", "--op", "w_up", "--json"))["ops"]
    assert (explained["op"], explained["weight"]) == ("matmul", "layer.*.mlp.w_up")
    assert "no op 'w_sideways'" in run("show", program, "--op", "w_sideways").told


def test_explain(run: CommandLine) -> None:
    out = run.done("explain", TINY, "-t", "neupims", "--dim", "past=127")
    assert "why    gemv" in out
    assert "pim cannot: pim has no commands for rms_norm" in out
    found = as_json(run.done("explain", TINY, "-t", "neupims", "--op", "matmul", "--json"))
    assert {o["op"] for o in found["ops"]} == {"matmul"}
    first = found["ops"][0]
    assert first["seconds"] > 0
    assert first["alternatives"][0]["seconds"] > 0
    assert len(first["nodes"]) == 2


def test_targets(run: CommandLine) -> None:
    assert all(name in run.done("targets") for name in ("cent", "neupims", "newton", "npu"))
    page = run.done("targets", "cent", "--set", "timing.tRP=40clk")
    assert "source: " in page
    assert "nRP 40" in page
    assert as_json(run.done("targets", "--schema"))["properties"]
    found = as_json(run.done("targets", "npu", "--json"))
    assert found["main_clock"]["hz"] == 1_000_000_000
    assert [t["name"] for t in as_json(run.done("targets", "--json"))["targets"]] == [
        "aim-head",
        "aim-pinned",
        "cent",
        "cent-published",
        "neupims",
        "neupims-faithful",
        "newton",
        "newton-faithful",
        "npu",
        "npu-onnxim",
        "npu-scalesim",
        "npu-server",
        "tpuv3",
    ]


def test_every_name_has_its_page(run: CommandLine) -> None:
    listed = as_json(run.done("passes", "--json"))["passes"]
    for name in [p["name"] for p in listed]:
        assert name in run.done("passes", name)
        assert as_json(run.done("passes", name, "--json"))["doc"]
    page = run.done("passes", "place")
    assert "place.only" in page
    assert "where it can run" in page
    for op in as_json(run.done("ops", "--json"))["ops"]:
        assert op["doc"]
    assert set(REGISTRY) == {op["name"] for op in as_json(run.done("ops", "--json"))["ops"]}
    assert "attention(q, k, v, mask=none" in run.done("ops", "attention")
    listing = run.done("commands")
    for name in commands():
        assert name in listing
        assert as_json(run.done("commands", name, "--json"))["name"] == name
    assert "semaphore" in run.done("commands", "signal")


# -- Python -----------------------------------------------------------------------------------------------------------


def test_the_same_in_python(run: CommandLine) -> None:
    result = pimc.compile(TINY, "npu", dims={"past": 3}, values="random", form="device")
    assert result.report is not None
    assert result.comparison is not None
    assert result.comparison.ok
    pimc.save_program(result.program, "a.pimprog")
    again = pimc.simulate("a.pimprog")
    assert again.report.cycles == result.report.cycles
    assert as_json(run.done("sim", "a.pimprog", "--json"))["cycles"] == result.report.cycles
    with pytest.raises(pimc.CompileError, match="no such target"):
        pimc.compile(TINY, "nup")
