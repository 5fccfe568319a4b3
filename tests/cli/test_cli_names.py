"""Every kind of name that a user writes: the nearest one is suggested where it is wrong."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pimc
from tests.cli.harness import GEMV, TINY, TINY_ONNX, CommandLine

FORMS = {
    "GEMV": GEMV,
    "TINY": TINY,
    "ONNX": TINY_ONNX,
}


@dataclass(frozen=True)
class Name:
    """A kind of name, a command line that has one wrong, what is suggested, and the files that it needs."""

    kind: str
    line: str
    meant: str
    files: dict[str, str] = field(default_factory=dict)


def model(kind: str, text: str, meant: str) -> Name:
    whole = f"model m(batch = 1)\ninput x: f16[batch, 4]\n{text}\n"
    return Name(kind, "compile m.pimc -t npu", meant, {"m.pimc": whole})


def graph(kind: str, line: str, meant: str) -> Name:
    whole = f"graph g(%x: f32[4]) {{\n{line}\n  return %y\n}}\n"
    return Name(kind, "opt m.pimir --passes dce", meant, {"m.pimir": whole})


def target(kind: str, text: str, meant: str, base: str = "neupims") -> Name:
    return Name(kind, "targets m.yaml", meant, {"m.yaml": f"base: {base}\nname: m\ndescription: m\n{text}\n"})


def compiled(kind: str, text: str, meant: str) -> Name:
    return replace(target(kind, text, meant), line="compile TINY -t m.yaml")


def sweep(kind: str, text: str, meant: str) -> Name:
    lines = {"models": GEMV, "targets": "[aim-pinned]", "dims": "{K: 64, N: 16}"}
    for line in text.splitlines():
        lines.pop(line.partition(":")[0], None)
    plain = "".join(f"{key}: {value}\n" for key, value in lines.items())
    return Name(kind, "sweep s.yaml --dry-run", meant, {"s.yaml": f"{plain}{text}\n"})


def assembly(kind: str, old: str, new: str, meant: str) -> Name:
    return Name(kind, f"asm {old}:{new}", meant)


NAMES = [
    Name("command", "comple TINY -t npu", "compile"),
    Name("option", "compile TINY --trget npu", "--target"),
    Name("option of a list", "passes --jason", "--json"),
    Name("phase", "compile TINY -t npu --phase prefil", "prefill"),
    Name("phase of opt", "opt TINY --passes bind --phase decod", "decode"),
    Name("format", "compile TINY -t npu --format devise", "device"),
    Name("stage", "compile TINY -t npu --emit taged", "tagged"),
    Name("simulator", "compile TINY -t npu --sim-engine fats", "fast"),
    Name("parallelism", "compile TINY -t npu --parallel tpp=2", "tp"),
    Name("background", "compile TINY -t neupims --background raeds=2", "reads"),
    Name("target", "compile TINY -t neupmis", "neupims"),
    Name("target of several", "compile TINY -t npu,cnet", "cent"),
    Name("file of a target", "compile TINY -t mien.yaml", "mine.yaml", {"mine.yaml": ""}),
    Name("file of a model", "compile modle.onnx -t npu", "model.onnx", {"model.onnx": ""}),
    Name("file of a program", "sim modle.pimprog", "model.pimprog", {"model.pimprog": ""}),
    Name("file of a pass", "compile TINY -t npu --load my_pas.py", "my_pass.py", {"my_pass.py": ""}),
    Name("file of values", "compile ONNX -t npu --values oi.npz", "io.npz", {"io.npz": ""}),
    Name("override", "compile TINY -t npu --set timing.tRPP=3ns", "timing.tRP"),
    Name("group of an override", "compile TINY -t npu --set darm.channels=3", "dram.channels"),
    Name("choice in an override", "compile TINY -t neupims --set pim.style=newtn", "newton"),
    Name("mapping", "compile TINY -t neupims --set mapping=newtonsin", "newtonsim"),
    Name("controller", "compile TINY -t cent --set pim.controller=iam", "aim"),
    Name("storage type", "targets neupims --set storage=bf61", "bf16"),
    Name("pass", "compile TINY -t npu --disable-pass plaec", "place"),
    Name("pass to print after", "compile TINY -t npu --print-ir-after plaec", "place"),
    Name("pass of a pipeline", "opt TINY --passes bnid", "bind"),
    Name("pass to configure", "compile TINY -t npu --pass-config plaec.only=npu", "place"),
    Name("option of a pass", "compile TINY -t npu --pass-config place.onyl=npu", "only"),
    Name("value of a pass's option", "compile TINY -t neupims --pass-config place.only=pmi", "pim"),
    Name("choice of a pass's option", "compile TINY -t npu --pass-config split-attention.whole=atuo", "auto"),
    Name("option in a pipeline", "opt TINY --passes 'bind,place{onyl=npu}' -t npu", "only"),
    Name("dimension", "compile TINY -t npu --dim btach=2", "batch"),
    Name("dimension of an ONNX model", "compile ONNX -t npu --dim sqe=2", "seq"),
    Name("dimension of a range", "compile TINY -t npu --dim psat=0:4", "past"),
    Name("dimension of opt", "opt TINY --passes bind --dim btach=2", "batch"),
    Name("input", "compile ONNX -t npu --values wrong.npz", "input_ids"),
    Name("op", "ops attenton", "attention"),
    Name("command of an engine", "commands MAC_ABKK", "MAC_ABK"),
    Name("op to explain", "explain TINY -t npu --op logitz", "logits"),
    Name("engine to show", "show a.pimprog --engine laod", "load"),
    Name("engine to export", "export a.pimprog --parquet a.parquet --engine laod", "load"),
    Name("op to show", "show a.pimprog --op logitz", "logits"),
    Name("form to show", "show a.pimprog --as aim-trce", "aim-trace"),
    Name("trace format", "replay a.trace -t aim-pinned --trace-format iam", "aim", {"a.trace": ""}),
    Name("command of a trace", "replay a.trace -t aim-pinned", "MAC_ABK", {"a.trace": "AiM MAC_ABKK 1 0 0x1\n"}),
    Name("kind of violation", "check a.pimprog --kind tming", "timing"),
    Name("shell", "completion fsh", "fish"),
    Name("column of requests", "compile TINY -t npu --requests r.csv", "past", {"r.csv": "id,pats\na,3\n"}),
    Name("column of issued commands", "check i.csv -t cent", "cycle", {"i.csv": "cycel,channel,command\n1,0,ACT\n"}),
    model("op of the language", "output y = relo(x)", "relu"),
    model("name of the language", "let h = relu(x)\noutput y = relu(hh)", "h"),
    model("element type", "weight w: f61[4, 4]\noutput y = x @ w", "f16"),
    model("attribute", "output y = gelu(x, aproximate = \"tanh\")", "approximate"),
    model("dimension of the language", "weight w: f16[batsh, 4]\noutput y = x + w", "batch"),
    model("annotation", "@engne(\"npu\")\noutput y = relu(x)", "engine"),
    graph("op of a graph", "  %y = relo(%x) : f32[4]", "relu"),
    graph("value of a graph", "  %yyy = relu(%x) : f32[4]\n  %y = relu(%yyz) : f32[4]", "yyy"),
    graph("attribute of a graph", "  %y = gelu(%x) {aproximate=\"tanh\"} : f32[4]", "approximate"),
    graph("element type of a graph", "  %y = relu(%x) : f23[4]", "f32"),
    graph("fact of a graph", "  %y = relu(%x) : f32[4]  #phas=decode", "phase"),
    target("group of a target", "draam: {channels: 16}", "dram"),
    target("key of a target", "dram: {source: x, chanels: 16}", "channels"),
    target("timing of a target", "dram: {source: x, timing: {tRPP: 14ns}}", "tRP"),
    target("base of a target", "", "neupims", base="neupmis"),
    target("choice of a target", "dram: {source: x, refresh_order: al-banks}", "all-banks"),
    compiled("pass of a target", "passes: {plaec: {only: npu}}", "place"),
    compiled("option of a pass of a target", "passes: {place: {onyl: npu}}", "only"),
    sweep("key of a sweep", "target: [npu]", "targets"),
    sweep("target of a sweep", "targets: [aim-pined]", "aim-pinned"),
    sweep("dimension of a sweep", "dims: {K: 64, N: 16, MM: 3}\nmodels: models/bench/gemm.pimc", "M"),
    sweep("override of a sweep", "set: {timing.tRPP: [14ns]}", "timing.tRP"),
    sweep("objective of a sweep", "objectives: [secnds]", "seconds"),
    sweep("search of a sweep", "search: {kind: rnadom, points: 2}", "random"),
    sweep("pass of a sweep", "pass_config: {plaec.only: [npu]}", "place"),
    sweep("option of a pass of a sweep", "pass_config: {place.onyl: [npu]}", "only"),
    assembly("directive", ".stream", ".straem", ".stream"),
    assembly("mnemonic", "SIGNAL", "SINGAL", "SIGNAL"),
    assembly("operand", "semaphore=", "semafore=", "semaphore"),
    assembly("choice of an operand", "function=mul ", "function=mull ", "mul"),
    assembly("element type of an operand", "_type=f16", "_type=f61", "f16"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "a.pimprog"
    pimc.save_program(pimc.compile(TINY, "npu").program, path)
    return path


@pytest.mark.parametrize("name", NAMES, ids=[n.kind for n in NAMES])
def test_the_nearest_name_is_suggested(name: Name, program: Path, run: CommandLine) -> None:
    (run.folder / "models").symlink_to(Path(TINY).parent)
    for file, text in name.files.items():
        (run.folder / file).write_text(text)
    if "a.pimprog" in name.line:
        (run.folder / "a.pimprog").write_bytes(program.read_bytes())
    words = [FORMS.get(word, word) for word in shlex.split(name.line)]
    if words[0] == "asm":
        old, _, new = name.line.removeprefix("asm ").partition(":")
        text = pimc.disassemble(pimc.load_program(program))
        assert old in text
        (run.folder / "a.pimasm").write_text(text.replace(old, new, 1))
        words = ["asm", "a.pimasm", "-o", "b.pimprog"]
    if "wrong.npz" in words:
        arrays: dict[str, Any] = {"in:input_idz": np.zeros((1, 1), np.int64)}
        np.savez("wrong.npz", **arrays)
    outcome = run(*words)
    assert outcome.status in (1, 2)
    assert f"did you mean '{name.meant}" in outcome.err, outcome.err
