"""The simulator on programs of real models, for every kind of machine."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.program import Program
from pimc.backends.races import check_races
from pimc.backends.storage import HEADER, from_bytes, to_bytes
from pimc.driver import Options, compile_model
from pimc.sim.time import simulate
from pimc.sim.values import execute
from tests.timings import engines_of

CASES = {
    "npu": ("npu", {"batch": 1, "seq": 1, "past": 7}, {}),
    "npu prefill": ("npu", {"batch": 2, "seq": 5, "past": 0}, {}),
    "cent": ("cent", {"batch": 1, "seq": 1, "past": 7}, {}),
    "neupims": ("neupims", {"batch": 2, "seq": 1, "past": 40}, {}),
    "newton": ("newton", {"batch": 2, "seq": 1, "past": 40}, {}),
    "two devices": ("npu", {"batch": 1, "seq": 1, "past": 7}, {"tp": 2}),
    "two stages": ("npu", {"batch": 1, "seq": 1, "past": 7}, {"pp": 2}),
}


@cache
def compiled(case: str) -> Program:
    target, dims, parallel = CASES[case]
    overrides = (f"system.devices={max([1, *parallel.values()])}",) if parallel else ()
    options = Options(dims=dims, parallel=parallel, overrides=overrides, simulate=False)
    return compile_model("models/tiny-llama.pimc", target, options).program


@pytest.mark.parametrize("case", CASES)
def test_fast_equals_plain(case: str) -> None:
    fast, plain = (simulate(compiled(case), engine=engine) for engine in ("fast", "plain"))
    assert fast.time == plain.time > 0
    assert engines_of(fast) == engines_of(plain)
    assert fast.resources == plain.resources
    assert fast.ops == plain.ops


@pytest.mark.parametrize("case", CASES)
def test_text_and_stored_form_give_the_same_bytes(case: str) -> None:
    stored = to_bytes(compiled(case))
    assert to_bytes(assemble(disassemble(compiled(case)))) == stored
    again = from_bytes(stored)
    assert to_bytes(again) == stored
    assert simulate(again).time == simulate(compiled(case)).time


@pytest.mark.parametrize("case", CASES)
def test_nothing_races_and_every_order_gives_the_same_values(case: str) -> None:
    program = compiled(case)
    check_races(program)
    chance = np.random.default_rng(0)
    inputs = {}
    for name in program.inputs:
        entry = program.entry(name)
        assert entry is not None
        whole = list(entry.shape)
        if entry.shard is not None:
            whole[entry.shard[0]] *= entry.shard[1]
        if entry.logical.is_float:
            inputs[name] = chance.standard_normal(whole).astype(np.float32)
        else:
            inputs[name] = chance.integers(0, 4, whole).astype(entry.logical.numpy)
    found = [execute(program, inputs, wide=False, order=order)[0] for order in ("forward", "reverse", 5)]
    for name in program.outputs:
        np.testing.assert_array_equal(found[0][name], found[1][name])
        np.testing.assert_array_equal(found[0][name], found[2][name])


def test_the_size_of_streams_follows_structure_not_trip_counts() -> None:
    def stream_bytes(past: int) -> int:
        options = Options(dims={"batch": 1, "seq": 1, "past": past}, simulate=False)
        program = compile_model("models/tiny-llama.pimc", "npu", options).program
        return int(HEADER.unpack_from(to_bytes(program))[4])

    assert stream_bytes(4095) < 1.2 * stream_bytes(511)
