"""The same input gives the same bytes, and a stored program does what the compiled one did."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pimc
from pimc.backends.storage import to_bytes
from pimc.execution import time_program
from tests.e2e.harness import ROOT, SAMPLES, TARGETS, Built, assert_equal_bits, build_sample
from tests.e2e.programs import PROGRAMS, program_of

LLAMA = next(s for s in SAMPLES if s.arrays.name == "tiny-llama.decode.npz")
SPLIT = ["--set", "system.devices=4", "--parallel", "tp=2,pp=2"]
RUNS = {
    "neupims": ["models/tiny-llama.onnx", "-t", "neupims", "--values", "models/tiny-llama.decode.npz"],
    "cent": ["models/tiny-gpt2.pimc", "-t", "cent", "--dim", "batch=2", "--dim", "past=7", "--values", "random"],
    "npu": ["models/tiny-gpt2.pimc", "-t", "npu", "--dim", "seq=5", *SPLIT],
}


def command(*arguments: str, seed: int = 0) -> Any:
    """Run `pimc` in a process of its own, in which text hashes to numbers of its own; what it printed."""
    environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-m", "pimc", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout) if "--json" in arguments else run.stdout


@pytest.mark.parametrize(
    "arguments",
    [pytest.param(a, id=name, marks=[] if name == "npu" else pytest.mark.slow) for name, a in RUNS.items()],
)
def test_two_processes_give_the_same_bytes(arguments: list[str], tmp_path: Path) -> None:
    files = [tmp_path / f"{i}.pimprog" for i in range(2)]
    first, second = (
        command("compile", *arguments, "-o", str(file), "--json", seed=seed) for seed, file in enumerate(files)
    )
    assert first == second
    assert files[0].read_bytes() == files[1].read_bytes()
    simulated = command("sim", str(files[0]), "--json")
    for what in ("cycles", "seconds", "bound_seconds", "engines", "ops"):
        assert simulated[what] == first[what]


def test_text_and_back_give_the_same_bytes(tmp_path: Path) -> None:
    program, text, again = (str(tmp_path / name) for name in ("a.pimprog", "a.pimasm", "b.pimprog"))
    command("compile", *RUNS["neupims"], "-o", program, "--quiet")
    command("disasm", program, "-o", text)
    command("asm", text, "-o", again)
    assert Path(program).read_bytes() == Path(again).read_bytes()


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_program_survives_storage(name: str, tmp_path: Path) -> None:
    """Stored, loaded, written as text and assembled: the same bytes, cycles and values."""
    built = program_of(name)
    path = tmp_path / "stored.pimprog"
    pimc.save_program(built.program, path)
    assembled = pimc.assemble(pimc.disassemble(built.program))
    assert to_bytes(assembled) == path.read_bytes() == to_bytes(pimc.load_program(path))
    assert time_program(pimc.load_program(path)) == time_program(built.program)
    loaded = Built(pimc.load_program(path), built.spec, built.inputs, built.expected)
    assert_equal_bits(loaded.run("reverse"), built.run())


@pytest.mark.parametrize("target", TARGETS)
def test_sim_gives_what_compile_gave(target: str, tmp_path: Path) -> None:
    compiled = pimc.compile(LLAMA.model, target, values=LLAMA.values(), form="device")
    pimc.save_program(compiled.program, tmp_path / "a.pimprog")
    simulated = pimc.simulate(tmp_path / "a.pimprog", values=LLAMA.values(), form="device")
    assert compiled.outputs is not None
    assert simulated.outputs is not None
    assert_equal_bits(compiled.outputs, simulated.outputs)
    assert simulated.comparison == compiled.comparison
    assert simulated.timing == compiled.timing


def test_weights_may_be_given_anew(tmp_path: Path) -> None:
    """Arrays take the place of the program's own weights."""
    built = build_sample(LLAMA, "cent")
    path = tmp_path / "a.pimprog"
    pimc.save_program(built.program, path)
    given = {f"in:{name}": array for name, array in built.inputs.items()}
    head = built.program.entry("head")
    assert head is not None
    zero = pimc.simulate(path, values=given, weights={head.name: np.zeros(head.shape, np.float32)})
    assert zero.outputs is not None
    assert not zero.outputs["logits"].any()
