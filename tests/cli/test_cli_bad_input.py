"""Every kind of bad input: its diagnostic and exit status, no traceback, nothing on stdout, nothing left behind."""

from __future__ import annotations

import gzip
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from pimc.cli import files
from tests.cli import bad_inputs
from tests.cli.harness import DECODE, GEMV, TINY, TINY_ONNX, CommandLine


@dataclass(frozen=True)
class Case:
    """A command line, and the code and words that its error has; a code of "" is a wrong usage (status 2)."""

    line: str
    code: str
    words: str = ""


def model(name: str, code: str, words: str = "", rest: str = "-t npu") -> Case:
    return Case(f"compile {name} {rest}", code, words)


def tiny(rest: str, code: str, words: str = "", *, target: str = "npu") -> Case:
    return Case(f"compile TINY -t {target} {rest}", code, words)


def values(name: str, words: str = "", code: str = "P0503") -> Case:
    return Case(f"compile ONNX -t npu --values {name}", code, words)


CASES = [
    # models that are no models
    model("nowhere.onnx", "P0101", "No such file"),
    model(".", "P0101", "directory"),
    model("empty.onnx", "P0201"),
    model("truncated.onnx", "P0201"),
    model("noise.onnx", "P0201"),
    model("text.onnx", "P0201"),
    model("neither.txt", "P0201", "neither ONNX"),
    # ONNX models with mistakes
    model("unsupported.onnx", "P0202", "my_det"),
    model("foreign.onnx", "P0202", "spell"),
    model("undefined.onnx", "P0201", "nowhere"),
    model("cycle.onnx", "P0"),
    model("mismatch.onnx", "P0401", "product", "-t npu --dim rows=2"),
    model("huge.onnx", "P0", rest="-t npu --dim rows=2"),
    model("attribute.onnx", "P0", rest="-t npu --dim rows=2"),
    model("depends.onnx", "P0204", "", "-t npu --dim rows=2"),
    model("moved.onnx", "P0203", "weights.bin", "-t npu --values random"),
    model("escape.onnx", "P0"),
    # dimensions
    model("unbound.onnx", "P0501", "--dim rows=N"),
    model("unbound.onnx", "P0502", "-3", "-t npu --dim rows=-3"),
    tiny("--dim bach=2", "P0502", "did you mean 'batch'?"),
    tiny("--dim past=99999999999", "P0502"),
    tiny("--dim batch", "", "--dim batch=8"),
    tiny("--dim batch=two", "", "no whole number"),
    tiny("--dim batch=2 --dim batch=3", "", "both 2 and 3"),
    tiny("--dim past=9:1", "", "upwards"),
    # the DSL and the text of graphs
    model("syntax.pimc", "P0301", "syntax.pimc:2:12"),
    model("name.pimc", "P0302", "'z'"),
    model("types.pimc", "P0401"),
    model("latin.pimc", "P0301", "UTF-8"),
    model("syntax.pimir", "P0301", "syntax.pimir:2:"),
    model("op.pimir", "P0302", "did you mean 'relu'?"),
    model("type.pimir", "P04"),
    # targets
    tiny("", "P0601", "did you mean 'npu'?", target="nup"),
    tiny("", "P0101", target="nowhere.yaml"),
    tiny("", "P0602", "did you mean 'channels'?", target="key.yaml"),
    tiny("", "P0602", "unit.yaml:4:12", target="unit.yaml"),
    tiny("", "P0602", "twice.yaml:3:1", target="twice.yaml"),
    tiny("", "P0602", target="lacks.yaml"),
    tiny("", "P0602", target="yaml.yaml"),
    tiny("", "P0601", "base.yaml:1", target="base.yaml"),
    tiny("", "P0602", "based on itself", target="loop.yaml"),
    tiny("--set dram.timing.tPR=3ns", "P0602", "did you mean"),
    tiny("--set dram.timing.tRP=3", "P0602", "unit"),
    tiny("--set system.devices", "", "--set"),
    Case("compile TINY", "", "pimc targets"),
    # machines that are too small, or cut in impossible ways
    tiny("--set dram.rows=1 --set dram.channels=1", "P0603"),
    tiny("--parallel tp=2", "P0605", "--set system.devices=2"),
    tiny("--parallel pp=5 --set system.devices=5", "P0605", "2 layers"),
    tiny("--parallel zz=2", "", "pp=P,tp=T"),
    tiny("--parallel tp=0", "", "pp=P,tp=T"),
    # passes
    tiny("--disable-pass plaec", "P0701", "plaec"),
    tiny("--disable-pass place", "P0703", "let 'place' run"),
    tiny("--disable-pass layout", "P0703", "needs a graph that is laid out"),
    tiny("--print-ir-after plaec", "P0701", "did you mean 'place'?"),
    tiny("--pass-config place.onyl=npu", "P0702", "did you mean 'only'?"),
    tiny("--pass-config tag-nature.gemv_rows=x", "P0702", "expected an integer"),
    tiny("--pass-config place.only", "", "no value"),
    tiny("--pass-config only=npu", "P0702", "pass.option=value"),
    tiny("--load nowhere.py", "P0101"),
    tiny("--load raises.py", "P0704", "KeyError: 'oops'"),
    tiny("--load syntax.py", "P0704", "SyntaxError"),
    tiny("--load import.py", "P0704", "no_such_module"),
    tiny("--load nothing.py", "P0704", "defines no pass"),
    tiny("--load placed.py", "P0604", "nowhere"),
    tiny("--load types.py", "P0", ""),
    tiny("--load exits.py", "P0704"),
    Case("opt type.pimir --passes fold", "P04"),
    Case("opt op.pimir --passes fold", "P0302"),
    Case("opt good.pimir --passes 'fold{'", "P0301", "fold{"),
    Case("opt good.pimir --passes foldd", "P0701", "did you mean 'fold'?"),
    Case("opt good.pimir --passes place", "P0703"),
    Case("opt good.pimir --passes fold --set a=1", "", "-t"),
    # values
    values("nowhere.npz", code="P0101"),
    values("broken.npz", "no .npz file"),
    values("text.npz", "no .npz file"),
    values("alone.npz", "single array"),
    values("prefix.npz", "in:<input>"),
    values("nothing.npz", "no arrays"),
    values("objects.npz", "Python objects"),
    values("promise.npz", "promises"),
    values("unknown.npz", "did you mean 'input_ids'?"),
    values("shape.npz", "input_ids"),
    values("extent.npz"),
    values("dtype.npz", "input_ids"),
    values("complex.npz", "input_ids"),
    values("lacking.npz", "past_key_values.0.key"),
    Case("compile ONNX -t npu --values DECODE --dim batch=3", "P05"),
    # programs
    Case("sim nowhere.pimprog", "P0101"),
    Case("sim TINY", "P0801"),
    Case("sim empty.pimprog", "P0801"),
    Case("sim truncated.pimprog", "P0801", "truncated"),
    Case("show longer.pimprog", "P0801", "behind its end"),
    Case("disasm flipped.pimprog", "P0801", "check sum"),
    Case("sim version.pimprog", "P0801", "version"),
    Case("sim good.pimprog --values unknown.npz", "P0503"),
    Case("sim good.pimprog --values random --weights prefix.npz", "P0503", "no weight 'input_ids'"),
    Case("sim good.pimprog --values random --weights nowhere.bin", "P0101"),
    Case("sim good.pimprog --out x.npz", "", "--values"),
    Case("show good.pimprog --engine pmi", "P0302", "pmi"),
    Case("show good.pimprog --op logitz", "P0302", "did you mean 'logits'?"),
    Case("asm mnemonic.pimasm", "P0803", "did you mean 'SIGNAL'?"),
    Case("asm operand.pimasm", "P0803", "semafore"),
    Case("asm cut.pimasm", "P0803"),
    Case("asm deadlock.pimasm", "P0804", "wait for ever"),
    Case("asm slow.pimasm", "P0801", "the target in the program is damaged"),
    Case("asm nowhere.pimasm", "P0101"),
    # output that cannot be written
    tiny("-o nowhere/a.pimprog", "P0102", "no folder"),
    tiny("-o .", "P0102", "folder"),
    tiny("--trace nowhere/t.json", "P0102"),
    tiny("--dump-stages neither.txt", "P0102"),
    Case("asm good.pimasm -o nowhere/b.pimprog", "P0102"),
    Case("disasm good.pimprog -o nowhere/b.pimasm", "P0102"),
    Case("sim good.pimprog --values random --out nowhere/o.npz", "P0102"),
    Case("opt good.pimir --passes fold -o nowhere/o.pimir", "P0102"),
    # usage
    Case("comple TINY -t npu", "", "did you mean 'compile'?"),
    Case("compile", "", "MODEL"),
    tiny("--jsno", "", "did you mean '--json'?"),
    tiny("--format wied", "", "did you mean 'wide'?"),
    tiny("--emit everything", "", "asm, ir, placed"),
    tiny("--emit ir --json", "", "--json"),
    tiny("--emit tagged -o a.pimprog", "", "-o"),
    tiny("--sim-engine slow", "", "fast, plain"),
    tiny("--phase all", "", "both, decode, prefill"),
    tiny("--phase both -o a.pimprog", "", "two programs"),
    tiny("--phase both --no-sim", "", "--no-sim"),
    tiny("--phase both --values tiny.npz", "", "--values random"),
    tiny("--phase both --generate 2", "", "--generate"),
    tiny("--seed x", "", "--seed"),
    tiny("--no-sim --trace t.json", "", "--no-sim"),
    tiny("-o - --json", "", "stdout"),
    tiny("--generate 0", "", "x>=1"),
    Case("compile TINY TINY -t npu", "", "--generate"),
    tiny("--background 2", "", "write reads=N"),
    tiny("--background writes=2", "", "write reads=N"),
    tiny("--background reads=2 --no-sim", "", "--no-sim"),
    tiny("--background reads=2 --generate 2", "", "--generate"),
    tiny("--background reads=2 --emit asm", "", "--emit"),
    tiny("--background reads=2 --phase both", "", "--phase both"),
    tiny("--background reads=2 --dim past=0:4", "", "a range of a dimension"),
    Case("check issued.csv -t neupims --background reads=2", "", "a file of commands is as it is"),
    # what a machine cannot do
    tiny("--background reads=2", "P1001", "no PIM work"),
    tiny("--set mapping=newtonsin", "P0302", "did you mean 'newtonsim'?", target="neupims"),
    tiny("--set mapping=newtonsim", "P1001", "of the style 'newton'", target="cent"),
    model("channels.pimc", "P0604", "no channel 32", "-t neupims"),
    model("channels.pimc", "P0604", "'npu' has no such engine", "-t npu"),
    Case("compile GEMV -t neupims-faithful --dim K=513 --values random", "P1001", "2 GWRITEs take row 0 of bank 0"),
    # the lists
    Case("targets nup", "P0601", "did you mean 'npu'?"),
    Case("passes plaec", "P0701", "did you mean 'place'?"),
    Case("ops attenton", "P0302", "did you mean 'attention'?"),
    Case("commands SINGAL", "P0302", "did you mean 'SIGNAL'?"),
    Case("explain TINY -t npu --op nothing_like_it", "P0302"),
]

NAMES = {"TINY": TINY, "ONNX": TINY_ONNX, "DECODE": DECODE, "GEMV": GEMV}


@pytest.fixture(scope="module")
def mistakes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mistakes")
    bad_inputs.make(folder)
    (folder / "good.pimir").write_text("graph g(%x: f32[4]) {\n  %y = relu(%x) : f32[4]\n  return %y\n}\n")
    return folder


def listing(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


@pytest.mark.parametrize("case", CASES, ids=[c.line for c in CASES])
def test_bad_input(case: Case, mistakes: Path, run: CommandLine) -> None:
    words = [NAMES.get(w, w).strip("'") for w in case.line.split()]
    for word in words:
        if (mistakes / word).is_file():
            shutil.copy(mistakes / word, run.folder)
    before = listing(run.folder)
    outcome = run(*words)
    assert outcome.out == ""
    assert outcome.status == (1 if case.code else 2), outcome.err
    assert f"error[{case.code}" in outcome.told if case.code else outcome.told.startswith("error: ")
    assert case.words in outcome.told
    assert outcome.err.startswith("{") == ("--json" in words)
    assert "Traceback" not in outcome.err
    after = {name: data for name, data in listing(run.folder).items() if "__pycache__" not in name}
    assert after == before


READING = [
    "compile FILE.onnx -t npu",
    "compile FILE.pimc -t npu",
    "compile FILE -t npu",
    "compile TINY -t npu --requests FILE.csv",
    "compile TINY -t npu --values FILE.npz",
    "compile TINY -t npu --load FILE.py",
    "compile TINY -t ./FILE.yaml",
    "sim FILE.pimprog",
    "sim good.pimprog --values random --weights FILE.npz",
    "replay FILE.trace --trace-format aim -t aim-pinned",
    "check FILE.csv -t aim-pinned",
    "asm FILE.pimasm",
    "opt FILE.pimir --passes fold",
    "sweep FILE.yaml",
    "report FILE.json",
]


@pytest.mark.parametrize("what", ["device", "folder", "gigabytes"])
@pytest.mark.parametrize("line", READING)
def test_only_files_of_a_size_are_read(line: str, what: str, mistakes: Path, run: CommandLine) -> None:
    """What has no end, or has more than any such file, is refused before memory is full of it."""
    shutil.copy(mistakes / "good.pimprog", run.folder)
    words = [NAMES.get(w, w) for w in line.split()]
    (file,) = (run.folder / word for word in words if "FILE" in word)
    if what == "device":
        file.symlink_to("/dev/zero")
    elif what == "folder":
        file.mkdir()
    else:
        file.touch()
        os.truncate(file, 6 << 30)
    outcome = run(*words)
    assert (outcome.status, outcome.out) == (1, "")
    assert file.name in outcome.told


def test_an_archive_is_unpacked_up_to_a_size(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LARGEST", 1 << 20)
    (run.folder / "bomb.trace.gz").write_bytes(gzip.compress(bytes(8 << 20)))
    outcome = run("replay", "bomb.trace.gz", "--trace-format", "aim", "-t", "aim-pinned")
    assert outcome.status == 1
    assert "bomb.trace.gz is not a whole gzip file: it has more than 1 MiB" in outcome.told


def test_there_are_many_kinds() -> None:
    assert len({c.code for c in CASES}) > 20


@pytest.mark.parametrize("option", ["-o", "--csv", "--dot"])
def test_nothing_is_written_over_what_the_command_reads(option: str, run: CommandLine) -> None:
    kept = Path(TINY).read_bytes()
    (run.folder / "mine.pimc").write_bytes(kept)
    outcome = run("compile", "mine.pimc", "-t", "npu", "--dim", "seq=2", option, "./mine.pimc")
    assert outcome.status == 1
    assert "P0102" in outcome.told
    assert "same file" in outcome.told
    assert (run.folder / "mine.pimc").read_bytes() == kept
