"""Loading programs with all that simulating them takes: `pimc.load_program`, and what `pimc.simulate` gives."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import pimc
from pimc.backends.isa import Wait
from pimc.backends.program import Step
from pimc.sim.report import build_report

MODEL = Path(__file__).parent.parent / "models" / "tiny-llama.pimc"
MODULES = """
import json, sys
import pimc
program = pimc.load_program(sys.argv[1])
before = set(sys.modules)
pimc.simulate(program)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


@pytest.fixture(scope="module", params=["cent", "neupims", "npu"])
def stored(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / f"{request.param}.pimprog"
    pimc.save_program(pimc.compile(MODEL, request.param, dims={"past": 127}, simulate=False).program, path)
    return path


def test_all_modules_are_there_once_a_program_is_loaded(stored: Path) -> None:
    done = subprocess.run([sys.executable, "-c", MODULES, stored], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_a_report_asked_for_later_is_that_of_the_run(stored: Path) -> None:
    program = pimc.load_program(stored)
    run, other = pimc.simulate(program), pimc.simulate(program)
    report = build_report(program, run.timing)
    assert other.report == run.report == report
    assert run.report is run.report


def test_mistakes_are_told_by_who_simulates(stored: Path, tmp_path: Path) -> None:
    program = pimc.load_program(stored)
    stream = program.streams[0]
    held = replace(stream, items=(Step(stream.engine, Wait(999)), *stream.items))
    path = tmp_path / "held.pimprog"
    pimc.save_program(replace(program, streams=(held, *program.streams[1:])), path)
    loaded = pimc.load_program(path)
    for _ in range(2):
        with pytest.raises(pimc.CompileError, match="wait for ever"):
            pimc.simulate(loaded)
