"""`pimc report`, and the files that `pimc compile` writes for Netron and Graphviz."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest

from tests.cli.harness import GEMV, TINY, TINY_ONNX, CommandLine
from tests.report.pages import faults, sections

ONNX = (TINY_ONNX, "--dim", "batch=1", "--dim", "seq=1", "--dim", "past=15")


def test_a_page_of_a_program_and_of_json(run: CommandLine) -> None:
    run.done("compile", GEMV, "-t", "cent", "-o", "a.pimprog", "-q")
    Path("b.json").write_text(run.done("sim", "a.pimprog", "--json"))
    said = run.done("report", "a.pimprog", "-o", "a.html")
    assert re.fullmatch(r"a\.html: \d+ kB\n", said)
    assert run.done("report", "b.json", "-o", "b.html", "-q") == ""
    pages = [Path(name).read_text() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1].replace("b.json", "a.pimprog")
    assert run.done("report", "b.json", "-o", "-") == pages[1]
    assert run("report", "-", "-o", "-", stdin=Path("b.json").read_bytes()).status == 0


def test_two_results_and_two_phases_are_compared(run: CommandLine) -> None:
    Path("both.json").write_text(run.done("compile", TINY, "-t", "cent", "--phase", "both", "--json"))
    run.done("report", "both.json", "-q")
    page = Path("report.html").read_text()
    assert faults(page) == []
    assert sections(page)[0] == "comparison"
    assert "--phase both" in page


def test_a_request_on_two_machines_is_drawn_as_one(run: CommandLine) -> None:
    for name, pair in (("a.json", "npu:neupims"), ("b.json", "npu:npu")):
        Path(name).write_text(run.done("compile", TINY, "-t", pair, "--json"))
    run.done("report", "a.json", "-q")
    assert sections(Path("report.html").read_text())[:3] == ["request", "transfer", "prefill-engines"]
    run.done("report", "a.json", "b.json", "-q")
    page = Path("report.html").read_text()
    assert faults(page) == []
    assert "A is npu:neupims" in page
    broken = json.loads(Path("a.json").read_text())
    del broken["transfer"]["link"]
    Path("c.json").write_text(json.dumps(broken))
    outcome = run("report", "c.json")
    assert outcome.status == 1
    assert "transfer.link: Field required" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["missing.json"], 1, "cannot read missing.json"),
        (["bad.json"], 1, "bad.json"),
        (["not-a-report.json"], 1, "is no report of a run"),
        (["not-a-report.json", "-o", "nowhere/a.html"], 1, "there is no folder nowhere"),
        (["a", "b", "c"], 2, "one result, or two"),
        (["-", "-"], 2, "may be given once"),
        ([], 2, "missing argument"),
    ],
)
def test_mistakes_are_told(run: CommandLine, arguments: list[str], status: int, said: str) -> None:
    Path("bad.json").write_text("{")
    Path("not-a-report.json").write_text(json.dumps({"model": 3}))
    found = run("report", *arguments)
    assert (found.status, found.out) == (status, "")
    assert said in found.err
    assert "Traceback" not in found.err


# -- other programs ---------------------------------------------------------------------------------------------------


def test_an_annotated_model_tells_of_every_node(run: CommandLine) -> None:
    report = json.loads(run.done("compile", *ONNX, "-t", "neupims", "--annotate", "out.onnx", "--json"))
    model = onnx.load("out.onnx")
    onnx.checker.check_model(model)
    told = [{p.key.removeprefix("pimc."): p.value for p in node.metadata_props} for node in model.graph.node]
    assert all("engine" in each for each in told)
    ops = {op["name"]: op for op in report["ops"]}
    named = {name for each in told for name in each.get("op", "").split(", ") if name}
    assert named <= set(ops)
    assert {name for name, op in ops.items() if op["nature"] in ("gemv", "skinny_gemm")} <= named
    for each in told:
        own = [ops[name] for name in each.get("op", "").split(", ") if name]
        if own:
            assert each["engine"] == ", ".join(dict.fromkeys(op["engine"] for op in own))
            assert float(each["seconds"]) == pytest.approx(sum(op["seconds"] for op in own), rel=1e-4)
            clock = report["cycles"] / report["seconds"]
            assert int(each["cycles"]) == pytest.approx(float(each["seconds"]) * clock, abs=1)
    whole = {p.key: p.value for p in model.metadata_props}
    assert whole["pimc.cycles"] == str(report["cycles"])
    original = onnx.load(TINY_ONNX)
    for node in model.graph.node:
        del node.metadata_props[:]
    assert [n.SerializeToString() for n in model.graph.node] == [n.SerializeToString() for n in original.graph.node]
    assert model.graph.initializer == original.graph.initializer


def test_an_annotated_model_can_be_compiled_and_annotated_again(run: CommandLine) -> None:
    run.done("compile", *ONNX, "-t", "npu", "--annotate", "tiny.onnx", "-q")
    again = ["tiny.onnx", *ONNX[1:], "-t", "npu", "-q"]
    run.done("compile", *again, "--annotate", "second.onnx")
    first, second = onnx.load("tiny.onnx"), onnx.load("second.onnx")
    assert [n.metadata_props for n in first.graph.node] == [n.metadata_props for n in second.graph.node]


def test_a_graph_for_graphviz_has_every_op_and_every_edge(run: CommandLine) -> None:
    report = json.loads(run.done("compile", TINY, "-t", "cent", "--dot", "g.dot", "--json"))
    text = Path("g.dot").read_text()
    boxes = set(re.findall(r"^ +(n\d+) \[label=", text, re.MULTILINE))
    assert len(boxes) == len(report["ops"])
    assert set(re.findall(r'label="layer (\d)"', text)) == {"0", "1"}
    edges = re.findall(r"^  (\w+) -> (\w+)", text, re.MULTILINE)
    declared = set(re.findall(r"^ +([nio]\d+) \[label=", text, re.MULTILINE))
    assert {end for edge in edges for end in edge} <= declared
    assert boxes <= {end for edge in edges for end in edge}
    assert text.count("{") == text.count("}")
    engines = {op["engine"] for op in report["ops"]}
    assert all(f"\\n{engine} · " in text for engine in engines)


@pytest.mark.parametrize("option", ["--annotate", "--dot"])
def test_exports_need_one_simulated_program(run: CommandLine, option: str) -> None:
    for other in (["--no-sim"], ["--generate", "2"], ["--emit", "ir"], ["--phase", "both"], ["--dim", "past=0:3"]):
        found = run("compile", TINY, "-t", "npu", option, "out", *other)
        assert (found.status, found.out) == (2, "")
        assert option in found.err


def test_only_onnx_models_are_annotated(run: CommandLine) -> None:
    found = run("compile", TINY, "-t", "npu", "--annotate", "out.onnx")
    assert found.status == 1
    assert "no .onnx file" in found.err
