"""Decoders of odd shapes: whatever does not divide, fill, or fit at once is computed all the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pimc.backends.program import count
from pimc.backends.races import check_races
from pimc.driver import Options, checked_program, lower_model, run_passes
from pimc.ir import interp
from pimc.random_inputs import random_inputs
from pimc.sim.time import simulate
from tests.e2e.decoders import Decoder, drawn
from tests.e2e.harness import Built, assert_equal_bits
from tests.timings import same

FEW, MANY = range(4), range(4, 150)
MOST_UNROLLED = 20_000
"""Commands of a program that is small enough to look at each of them."""

ON_NPU = ("place.only=npu",)
CASES = {
    "more requests than channels": Decoder("neupims", {"batch": 33, "past": 20}, layers=1),
    "more requests than channels on the NPU": Decoder("newton", {"batch": 33, "past": 3}, passes=ON_NPU),
    "more pairs than channels": Decoder("cent", {"batch": 17, "past": 16}, layers=1),
    "heads that fill no row": Decoder("neupims", {"past": 31}, layers=1, kv_heads=5, head_size=128, passes=ON_NPU),
    "a head wider than a row": Decoder("newton", {"past": 9}, layers=1, kv_heads=1, head_size=640),
    "a head that fills banks in part": Decoder(
        "neupims", {"seq": 3, "past": 530}, layers=1, hidden=40, kv_heads=1, head_size=40,
        passes=("split-attention.whole=always",),
    ),
    "odd extents": Decoder("cent", {"batch": 3, "past": 13}, hidden=100, ffn=37, head_size=40),
    "a cache of several rows": Decoder("cent", {"past": 1100}, layers=1),
    "one channel": Decoder("neupims", {"batch": 2, "past": 40}, layers=1, overrides=("dram.channels=1",)),
    "a small buffer": Decoder("npu", {"seq": 64}, layers=1, hidden=520, overrides=("buffer.bytes=256KiB",)),
    "lengths of requests": Decoder("neupims", {"batch": 4, "past": 33}, lengths=True),
    "a window": Decoder("cent", {"seq": 7, "past": 40}, layers=1, attention=("causal = true", "window = 3")),
    "part of a head turned": Decoder("npu", {"batch": 2, "seq": 5}, rotary=4, interleaved=True),
}  # fmt: skip


@pytest.mark.parametrize("decoder", CASES.values(), ids=CASES)
def test_a_shape(decoder: Decoder, tmp_path: Path) -> None:
    check(decoder, tmp_path)


@pytest.mark.parametrize("seed", [*FEW, *(pytest.param(seed, marks=pytest.mark.slow) for seed in MANY)])
def test_any_shape(seed: int, tmp_path: Path) -> None:
    check(drawn(seed), tmp_path)


def check(decoder: Decoder, folder: Path) -> None:
    """Values in both formats, the same in other orders and without races; both simulators agree."""
    built = build(decoder, folder)
    outputs = built.run()
    wide = built.compare(outputs)
    assert wide.ok, (decoder, wide.outputs)
    assert built.compare(built.run(wide=False), wide=False).ok, decoder
    if sum(count(stream.items) for stream in built.program.streams) <= MOST_UNROLLED:
        for order in ("reverse", 1):
            assert_equal_bits(outputs, built.run(order))
        check_races(built.program)
        assert same(simulate(built.program, engine="fast"), simulate(built.program, engine="plain"))


def build(decoder: Decoder, folder: Path) -> Built:
    model = folder / "decoder.pimc"
    model.write_text(decoder.text())
    devices = (f"system.devices={decoder.devices}",) if decoder.devices > 1 else ()
    options = Options(
        dims=decoder.dims,
        pass_options=decoder.passes,
        overrides=(*decoder.overrides, *devices),
        parallel=decoder.parallel,
    )
    lowered = lower_model(model, decoder.target, options)
    run_passes(lowered.reference, Options(dims=lowered.dims, until="fold"), None)
    inputs = random_inputs(lowered.reference)
    if decoder.lengths:
        batch, seq, past = (lowered.dims[name] for name in ("batch", "seq", "past"))
        inputs["lengths"] = np.random.default_rng(0).integers(seq, seq + past + 1, batch)
    expected = interp.run(lowered.reference, inputs)
    return Built(checked_program(lowered), lowered.machine.spec, inputs, expected, lowered.graph)
