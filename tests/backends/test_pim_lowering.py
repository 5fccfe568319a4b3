"""PIM products of both styles compute what the ops mean, from and to any place, in streams whose size is constant."""

from __future__ import annotations

import pytest

from pimc.backends.pim.aim_isa import MacAllBanks
from pimc.backends.pim.legality import why_not
from pimc.backends.program import count, steps, unrolled
from pimc.backends.target_registry import load_target
from tests.backends.pim_harness import Setting, lower, node_of, run, small

TARGETS = [("cent", 4), ("cent", 9), ("neupims", 4), ("newton", 3)]
PLACES = [Setting(), Setting("dram", "dram"), Setting("dram", "buffer"), Setting("buffer", "dram", scratch=1 << 16)]


@pytest.mark.parametrize(("name", "channels"), TARGETS)
@pytest.mark.parametrize("setting", PLACES)
@pytest.mark.parametrize(
    ("m", "k", "n"),
    [((3,), 64, 100), ((1,), 20, 7), ((2,), 1500, 33), ((2, 3), 2048, 130), ((), 48, 64), ((1,), 600, 1100)],
)
def test_matmul(name: str, channels: int, setting: Setting, m: tuple[int, ...], k: int, n: int) -> None:
    assert run(small(name, channels), "matmul", [(*m, k), (k, n)], setting=setting).error < 1e-5


HEADS = [
    # batch, query heads, kv heads, steps, tokens, depth
    (1, 2, 2, 1, 16, 16),
    (2, 4, 2, 1, 33, 20),
    (3, 6, 3, 2, 5, 32),
    (1, 8, 1, 1, 130, 128),
    (5, 4, 4, 1, 70, 64),
    (3, 12, 12, 1, 40, 64),
    (1, 8, 2, 3, 600, 128),
    (1, 4, 1, 1, 1100, 64),
    (1, 16, 1, 1, 9, 256),
    (1, 2, 2, 1, 1, 16),
]


@pytest.mark.parametrize(("name", "channels"), TARGETS)
@pytest.mark.parametrize("setting", [Setting(), Setting("dram", "dram", turned=True), Setting("buffer", "dram")])
@pytest.mark.parametrize("heads", HEADS)
def test_attention(name: str, channels: int, setting: Setting, heads: tuple[int, ...]) -> None:
    b, h, kv, s, t, d = heads
    spec = small(name, channels)
    for scale in (1.0, d**-0.5):
        scores = run(spec, "attention_scores", [(b, h, s, d), (b, kv, t, d)], {"scale": scale}, setting)
        assert scores.error < 1e-5
    context = run(spec, "attention_context", [(b, h, s, t), (b, kv, t, d)], {}, setting)
    assert context.error < 1e-5


@pytest.mark.parametrize(("name", "bound"), [("cent", 4e-2), ("neupims", 2e-3), ("newton", 2e-3)])
def test_device_format_is_as_good_as_its_types(name: str, bound: float) -> None:
    spec = small(name, 4)
    assert run(spec, "matmul", [(2, 2048), (2048, 64)], wide=False).error < bound
    assert run(spec, "attention_scores", [(2, 4, 1, 64), (2, 2, 50, 64)], {"scale": 0.125}, wide=False).error < bound
    assert run(spec, "attention_context", [(2, 4, 1, 50), (2, 2, 50, 64)], wide=False).error < bound


@pytest.mark.parametrize("name", ["cent", "neupims", "newton"])
def test_size_does_not_grow_with_the_operands(name: str) -> None:
    """A Llama 2 70B layer's products, on the real machine and its real buffer."""
    spec = load_target(name)
    half = spec.buffer.bytes // 2
    setting = Setting("dram", "dram", scratch=half, buffer_bytes=spec.buffer.bytes)
    written = []
    for m, k, n in ((1, 8192, 28672), (7, 28672, 8192)):
        _, items = lower(spec, node_of("matmul", [(m, k), (k, n)]), setting)
        written.append(len(list(steps(items))))
    for t in (512, 4095):
        node = node_of("attention_scores", [(2, 64, 1, 128), (2, 8, t, 128)], {"scale": 0.1})
        written.append(len(list(steps(lower(spec, node, setting)[1]))))
        node = node_of("attention_context", [(2, 64, 1, t), (2, 8, t, 128)])
        written.append(len(list(steps(lower(spec, node, setting)[1]))))
    assert max(written) <= 120


def test_aim_opens_a_key_row_once_for_all_heads_of_a_group() -> None:
    spec = small("cent", 4)
    _, items = lower(spec, node_of("attention_scores", [(1, 8, 1, 128), (1, 1, 2048, 128)], {"scale": 1.0}), Setting())
    macs = [s.command for s in unrolled(items) if isinstance(s.command, MacAllBanks)]
    rows = [
        command.row
        for command, before in zip(macs, [None, *macs], strict=False)
        if before is None or command.row != before.row
    ]
    assert len(rows) == len(set(rows)) == 4
    assert count(items) < 800


def test_what_does_not_fit_is_refused_with_numbers() -> None:
    node = node_of("attention_scores", [(1, 2, 1, 600), (1, 2, 8, 600)], {"scale": 1.0})
    assert "600 elements does not fit a row of 512" in why_not(node, small("neupims", 2))
    assert not why_not(node, small("cent", 2))
    assert "columns of 16" in why_not(node, load_target("cent", ["pim.macs_per_bank=32"]))
