"""How long commands take as a user sees them, from a cold start: `make benchmark`. Nothing here is asserted on time.

Budgets: `replay-70b`, a trace of 362,386 lines, 2.5 s; `block-range`, all 4,096 positions of a layer of Llama 2 70B,
90 s; the simulation of that layer at the last position, 50 ms (`test_simulation`); once everything is imported,
`bert-base`, compiled and timed, 1 s, and a layer of Llama 3 8B with one token 100 ms (`test_compilation`).

The peak memory of each command, at least that of pytest itself, is in its `extra_info` (`--benchmark-json`).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

import pimc
from pimc.driver import Options, compile_model
from pimc.execution import time_program

ROOT = Path(__file__).parent.parent.parent
COMMANDS = {
    "help": "--help",
    "tiny": "compile models/tiny-llama.pimc -t neupims --dim past=127",
    "tiny-values": "compile models/tiny-llama.pimc -t cent --dim past=127 --values random",
    "7b-decode": "compile models/llama2-7b.pimc -t neupims --dim batch=64 --dim past=511",
    "7b-prefill": "compile models/llama2-7b.pimc -t npu --dim seq=2048",
    "175b-decode": "compile models/gpt3-175b.pimc -t neupims --set system.devices=32 --parallel tp=8,pp=4 "
    "--dim batch=64 --dim past=2047",
    "block-range": "compile models/bench/llama2-70b-block.pimc -t cent --dim past=0:4095 --json",
    "replay-70b": "replay tests/data/aim/cent/pp_Llama2-70B_s4096.trace.gz --trace-format aim -t aim-pinned",
}

MOST_KIB = {"replay": 500_000}
"""Budgets of memory, by command."""

pytestmark = pytest.mark.benchmark


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_command(benchmark: BenchmarkFixture, arguments: str) -> None:
    peak = 0

    def run() -> None:
        nonlocal peak
        command = [sys.executable, "-m", "pimc", *arguments.split()]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0
        peak = max(peak, usage.ru_maxrss)

    benchmark.pedantic(run, rounds=1 if "b.pimc" in arguments or ":" in arguments else 3)
    benchmark.extra_info["peak_kib"] = peak
    assert peak < MOST_KIB.get(arguments.split()[0], peak + 1)


COMPILATIONS = {
    "bert-base": ("models/bert-base.pimc", {"seq": 128}),
    "llama3-8b-layer": ("models/bench/llama3-8b-block.pimc", {"past": 1023}),
}
TIMED = """
import resource, sys
import pimc

def seconds():
    global begun
    last, begun = begun, resource.getrusage(resource.RUSAGE_SELF).ru_utime
    return begun - last

begun = 0.0
model, target, *given = sys.argv[1:]
dims = {name: int(value) for name, value in (each.split("=") for each in given)}
seconds()
pimc.compile
import pimc.frontends.dsl
print(seconds())
for _ in range(3):
    pimc.compile(model, target, dims=dims)
    print(seconds())
"""


@pytest.mark.parametrize("target", ["npu", "npu-server"])
@pytest.mark.parametrize("name", COMPILATIONS)
def test_compilation(benchmark: BenchmarkFixture, name: str, target: str) -> None:
    """CPU seconds of what compiling a `.pimc` file imports, and of the first and later compilations of a process, are
    in `extra_info`."""
    model, dims = COMPILATIONS[name]
    command = [sys.executable, "-c", TIMED, model, target, *(f"{dim}={size}" for dim, size in dims.items())]
    seconds: list[list[float]] = []

    def run() -> None:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        seconds.append([float(line) for line in done.stdout.split()])

    benchmark.pedantic(run, rounds=3)
    benchmark.extra_info["import_s"] = min(imported for imported, *_ in seconds)
    benchmark.extra_info["first_s"] = min(first for _, first, *_ in seconds)
    benchmark.extra_info["later_s"] = min(min(later) for _, _, *later in seconds)


SIMULATED = """
import resource, sys
import pimc

program = pimc.load_program(sys.argv[1])
simulate = pimc.simulate
for _ in range(4):
    begun = resource.getrusage(resource.RUSAGE_SELF).ru_utime
    simulate(program)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun)
"""


def test_simulation(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Loading and compiling not counted. CPU seconds of the first and of later simulations of a process that has only
    loaded the program are in `extra_info`; the first finds out about the channels' states."""
    options = Options(dims={"past": 4095}, simulate=False)
    program = compile_model(ROOT / "models/bench/llama2-70b-block.pimc", "cent", options).program
    pimc.save_program(program, tmp_path / "block.pimprog")
    command = [sys.executable, "-c", SIMULATED, tmp_path / "block.pimprog"]
    runs = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(3)]
    benchmark.extra_info["fresh_first_s"] = min(float(first) for first, *_ in runs)
    benchmark.extra_info["fresh_later_s"] = min(float(each) for _, *later in runs for each in later)
    benchmark.pedantic(time_program, (program,), rounds=10)
