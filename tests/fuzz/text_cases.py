"""Cases of damaged texts and programs, run through the command line: done, or a diagnostic with status 1."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from functools import cache
from pathlib import Path

from numpy.random import PCG64, Generator

from pimc.backends.assembly import disassemble
from pimc.backends.storage import to_bytes
from pimc.cli import main
from pimc.driver import Options, checked_program, lower_model, read_model
from pimc.ir.diagnostics import CompileError
from pimc.ir.text import show
from tests.e2e.harness import MODELS, ROOT
from tests.fuzz.cases import TARGETS, Verdict, WrongError, check_printable
from tests.fuzz.nodes import random_sample
from tests.fuzz.text_mutations import damaged_program, damaged_text

SMALL = """model small(batch = 1, seq = 2)
input x: f16[batch, seq, 32]
weight w: f16[32, 48]
weight scale: f16[48]
let h = rms_norm(x @ w, scale, epsilon = 1e-5)
output y = softmax(h * 2, axis = -1)
"""


def text_case(seed: int, folder: Path) -> Verdict:
    """A damaged model of the DSL, graph in text form, target, or assembly."""
    chance = Generator(PCG64([seed, 77]))
    name, text, lines = (_dsl, _dsl, _graph, _target, _assembly)[seed % 5](seed, folder)
    (folder / name).write_text(damaged_text(text, chance), encoding="utf-8", errors="surrogatepass")
    return _judge(lines, folder)


def program_case(seed: int, folder: Path) -> Verdict:
    """A damaged stored program."""
    chance = Generator(PCG64([seed, 78]))
    (folder / "p.pimprog").write_bytes(damaged_program(program(TARGETS[seed % 4])[0], chance))
    rest = ("sim p.pimprog --values random", "sim p.pimprog --json", "show p.pimprog -v", "disasm p.pimprog")
    return _judge([rest[seed // 4 % 4]], folder)


def _dsl(seed: int, folder: Path) -> tuple[str, str, list[str]]:
    if seed % 2:
        text = (MODELS / ("tiny-llama.pimc", "tiny-gpt2.pimc")[seed // 2 % 2]).read_text()
        shutil.copytree(MODELS / "blocks", folder / "blocks", dirs_exist_ok=True)
    else:
        text = SMALL
    values = " --values random" if seed % 3 else ""
    return "m.pimc", text, [f"compile m.pimc -t {TARGETS[seed // 10 % 4]}{values}"]


def _graph(seed: int, folder: Path) -> tuple[str, str, list[str]]:
    path = folder / "model.onnx"
    path.write_bytes(random_sample(seed).model.SerializeToString())
    text = show(read_model(MODELS / "tiny-gpt2.pimc", Options()))
    if seed % 2:
        with contextlib.suppress(CompileError):  # not all random models are supported
            text = show(read_model(path, Options()))
    passes = ("fold", "bind,fold,canonicalize,dce", "bind,fold,canonicalize,fuse-norm,fuse-rotary,fuse-attention,dce")
    return "g.pimir", text, [f"opt g.pimir --passes {passes[seed % 3]}", "compile g.pimir -t npu"]


def _target(seed: int, folder: Path) -> tuple[str, str, list[str]]:
    (folder / "m.pimc").write_text(SMALL)
    files = sorted((ROOT / "backends" / "targets").glob("*.yaml"))
    for extra in (ROOT / "backends" / "targets").glob("*.csv"):
        shutil.copy(extra, folder)
    return "t.yaml", files[seed // 5 % len(files)].read_text(), ["compile m.pimc -t t.yaml"]


def _assembly(seed: int, folder: Path) -> tuple[str, str, list[str]]:
    return "p.pimasm", program(TARGETS[seed // 5 % 4])[1], ["asm p.pimasm -o p.pimprog", "sim p.pimprog"]


@cache
def program(target: str) -> tuple[bytes, str]:
    """A small program as a stored file and as text."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small.pimc"
        path.write_text(SMALL)
        made = checked_program(lower_model(path, target, Options()))
    return to_bytes(made), disassemble(made)


def _judge(lines: list[str], folder: Path) -> Verdict:
    """Run command lines until one fails; what it prints must be fit for a terminal."""
    for line in lines:
        status, out, err = command(line, folder)
        if status not in (0, 1):
            raise WrongError(f"'{line}' ends with status {status}: {err[:300]}")
        check_printable(err)
        if "disasm" not in line:
            check_printable(out)
        if status:
            found = _diagnostic(err)
            if not found:
                raise WrongError(f"'{line}' fails without a diagnostic: {err[:300]}")
            return Verdict("refused", found)
    return Verdict("done")


def _diagnostic(err: str) -> str:
    """The first error that was printed, as text or (--json) as an object; empty if there is none."""
    if err.startswith(("error[", "error: ")):
        return err.splitlines()[0]
    try:
        first = json.loads(err)["errors"][0]
        return f"error[{first['code']}]: {first['message']}"
    except (ValueError, LookupError, TypeError):
        return ""


def command(line: str, folder: Path) -> tuple[int, str, str]:
    """Run the command line in this process, in a folder; status, stdout and stderr."""
    before = Path.cwd()
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2))
    os.chdir(folder)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main(line.split())
            except SystemExit as ended:
                status = ended.code if isinstance(ended.code, int) else 70
    finally:
        os.chdir(before)
    return status, _text(out), _text(err)


def _text(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode("utf-8", "replace")
