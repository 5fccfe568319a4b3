"""The copy engines' closed form against a plain DRAM engine that steps each burst: at most 2 % on long streams.

Without refresh the two differ by what a transfer's first row takes (14 clocks), and by how evenly rows fall on banks.
Refresh of all banks at once comes to the same share of the time. Where ranks are refreshed in turn, the same share
stands for a controller that goes on with the other rank: 2 % hold where its 64 requests reach there; of long or
scattered runs in rows some channels find none there, and bursts take up to 4 % longer.
"""

from __future__ import annotations

import pytest

from pimc.backends.dma.isa import Load
from pimc.backends.dma.timing import DmaCosts, TransferTime
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.ir.types import DType
from tests.sim.bursts import clocks

Digits = tuple[tuple[int, int], ...]
KIB, MIB = 1 << 10, 1 << 20

STREAMS: dict[str, tuple[Digits, int]] = {
    "contiguous": ((), 4 * MIB),
    "rows of a weight": (((512, 22016),), 8 * KIB),
    "narrow rows of a weight": (((4096, 8448),), 512),
    "narrow rows, a power of two apart": (((4096, 8 * KIB),), 256),
    "columns of a head in a cache": (((4, 56623104), (2048, 27648)), 256),
    "heads with gaps": (((32, 256 * KIB),), 128 * KIB),
    "rows of one channel": (((1024, 32 * KIB),), KIB),
    "rows of one bank": (((512, MIB),), 64),
    "every other access": (((32768, 128),), 64),
    "runs across rows": (((8192, 4160),), 192),
    "an odd width": (((2048, 27656),), 3072),
    "three loops": (((8, 6 * MIB), (64, 32000), (4, 8000)), 2 * KIB),
}


SCATTERED = ("rows of a weight", "narrow rows of a weight", "runs across rows")
"""Streams of which a channel's next bursts lie in one rank more often than not."""


def modelled(spec: TargetSpec, digits: Digits, run: int) -> TransferTime:
    assert spec.dma is not None
    counts, strides = zip(*digits, (run // 2, 2), strict=True)
    time, _ = DmaCosts(spec, spec.dma).of(Load(0, 0, DType.F16, counts, strides, strides))
    return time


@pytest.mark.parametrize("name", STREAMS)
def test_streams_without_refresh(name: str) -> None:
    digits, run = STREAMS[name]
    spec = load_target("npu", ["dram.refresh=false"])
    assert modelled(spec, digits, run).duration / 1000 == pytest.approx(clocks(spec.dram, digits, run), rel=0.02)


@pytest.mark.parametrize("name", ["rows of one channel", "narrow rows, a power of two apart", "rows of one bank"])
def test_refresh_takes_its_share(name: str) -> None:
    """Of streams of several tREFI; twice as long, so that how many refreshes they meet matters little."""
    digits, run = STREAMS[name]
    digits = ((2 * digits[0][0], digits[0][1]), *digits[1:])
    spec = load_target("npu", ["dram.refresh_order=all-banks"])
    assert modelled(spec, digits, run).duration / 1000 == pytest.approx(clocks(spec.dram, digits, run), rel=0.02)


@pytest.mark.parametrize("name", STREAMS)
def test_refresh_of_ranks_in_turn(name: str) -> None:
    """Of streams of 4 tREFI and more, to a controller that goes on with bursts of the other rank it knows of."""
    digits, run = STREAMS[name]
    digits, run = (((8 * digits[0][0], digits[0][1]), *digits[1:]), run) if digits else (digits, 8 * run)
    spec = load_target("npu")
    exact, found = clocks(spec.dram, digits, run), modelled(spec, digits, run).duration / 1000
    assert (0.96 if name in SCATTERED else 0.98) * exact <= found <= 1.02 * exact
