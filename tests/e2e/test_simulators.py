"""The simulator that skips steady turns of loops gives what the one gives that executes every command."""

from __future__ import annotations

import pytest

from pimc.backends.program import Program
from pimc.sim.time import simulate
from tests.e2e.harness import CHUNK, DECODE, PREFILL, TARGETS, TINY, key, tiny
from tests.e2e.programs import PROGRAMS, program_of
from tests.timings import same

LONG = {"batch": 3, "seq": 1, "past": 300}


def check(program: Program) -> None:
    fast, plain = (simulate(program, engine=engine) for engine in ("fast", "plain"))
    assert fast.cycles == plain.cycles > 0
    assert same(fast, plain)
    assert fast.ops == plain.ops


@pytest.mark.parametrize("name", PROGRAMS)
def test_on_programs_of_all_commands(name: str) -> None:
    check(program_of(name).program)


@pytest.mark.parametrize("dims", [PREFILL, DECODE, CHUNK, LONG], ids=["prefill", "decode", "chunk", "long"])
@pytest.mark.parametrize("target", TARGETS)
def test_on_small_models(target: str, dims: dict[str, int]) -> None:
    for name in TINY:
        if dims is LONG and name == "tiny-gpt2.pimc":
            continue  # has no positions there
        passes = () if target in ("npu", "cent") else ("place.only=pim",)
        check(tiny(name, target, key(dims), passes).program)
