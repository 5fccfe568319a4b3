"""Block tables: which blocks requests get, and where the tokens of a paged cache lie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.backends.arena import Bump
from pimc.backends.dma.block_traffic import accesses_in_blocks, blocks_of, busiest_of, nest_in_blocks, traffic_in_blocks
from pimc.backends.dma.traffic import Memory, traffic
from pimc.backends.paging import Pager, Part, Request, given_out
from pimc.backends.target import CacheSpec, TargetSpec
from pimc.backends.target_registry import load_target
from pimc.ir.blocks import NO_BLOCK, Blocks, Window
from pimc.ir.diagnostics import CompileError
from pimc.ir.layout import Layout

PAGED = CacheSpec(layout="paged", block=16)


def requests(tokens: Sequence[int], lanes: int = 1, room: int = 0) -> list[Request]:
    return [Request(i % lanes, n, max(n, room)) for i, n in enumerate(tokens)]


# -- who gets which blocks --------------------------------------------------------------------------------------------


@given(st.lists(st.integers(1, 200), min_size=1, max_size=8), st.integers(1, 40), st.integers(0, 5), st.integers(1, 3))
def test_every_block_has_one_owner(tokens: list[int], block: int, seed: int, lanes: int) -> None:
    cache = CacheSpec(layout="paged", block=block, seed=seed)
    held, pool = given_out(requests(tokens, lanes), block, cache)
    assert [len(own) for own in held] == [-(-n // block) for n in tokens]
    for lane in range(lanes):
        blocks = [b for own in held[lane::lanes] for b in own]
        assert len(set(blocks)) == len(blocks)
        assert set(blocks) <= set(range(pool))


@given(st.lists(st.integers(1, 60), min_size=1, max_size=5), st.integers(1, 9), st.integers(0, 3))
def test_a_longer_step_finds_the_blocks_of_the_one_before(tokens: list[int], block: int, grown: int) -> None:
    """All requests take one more token a step, as in a batch without lengths of its own."""
    cache = CacheSpec(layout="paged", block=block)
    many = [max(tokens)] * len(tokens)
    before, _ = given_out(requests(many, room=90), block, cache)
    after, _ = given_out(requests([n + grown for n in many], room=90), block, cache)
    assert all(longer[: len(own)] == own for own, longer in zip(before, after, strict=True))


def test_free_blocks_are_shuffled_by_the_seed_and_never_in_order() -> None:
    found = [given_out(requests([200]), 16, CacheSpec(layout="paged", seed=seed))[0][0] for seed in range(4)]
    assert len({tuple(own) for own in found}) == 4
    assert all(own != sorted(own) for own in found)
    rising, _ = given_out(requests([40, 40]), 16, CacheSpec(layout="paged", order="rising"))
    assert rising == [[0, 2, 4], [1, 3, 5]]


def test_a_pool_that_is_too_small_says_how_large_it_must_be() -> None:
    with pytest.raises(CompileError) as raised:
        given_out(requests([33, 16]), 16, CacheSpec(layout="paged", blocks=3))
    (d,) = raised.value.diagnostics
    assert d.message == "requests need 4 blocks of 16 tokens of each cache, and its pool has 3"
    assert "cache.blocks=4" in (d.help or "")


# -- where tokens lie -------------------------------------------------------------------------------------------------


def paged(spec: TargetSpec, kind: str, shape: tuple[int, int, int, int], cache: CacheSpec = PAGED) -> tuple[
    Layout, Blocks, Pager, Bump
]:  # fmt: skip
    pager, memory = Pager(spec, cache), Bump()
    part = Part(shape, (shape[2],) * shape[0], (shape[2],) * shape[0])
    row = spec.dram.geometry.stride_row
    if kind:
        ((layout, blocks),) = pager.in_banks(kind, [part], (), lambda n: memory.take(n * row, row) // row)
    else:
        ((layout, blocks),) = pager.linear([part], 2, lambda n: memory.take(n, 64))
    pager.settle({}, lambda n: memory.take(n, 64))
    return layout, blocks, pager, memory


CASES = [("npu", ""), ("cent", "")] + [
    (target, kind) for target in ("neupims", "newton", "cent", "mapping") for kind in ("key", "value")
]


def machine(name: str) -> TargetSpec:
    return load_target("cent", ["mapping=cent-mapping"]) if name == "mapping" else load_target(name)


@pytest.mark.parametrize(("target", "kind"), CASES)
@pytest.mark.parametrize("shape", [(3, 2, 40, 16), (2, 4, 1500, 64), (40, 2, 33, 24)], ids=str)
def test_each_element_has_a_place_of_its_own_in_the_pool(
    target: str, kind: str, shape: tuple[int, int, int, int]
) -> None:
    layout, blocks, pager, _ = paged(machine(target), kind, shape)
    batch, _, tokens, _ = shape
    addresses = layout.addresses()[tuple(slice(0, n) for n in shape)]
    there = blocks.window.physical(addresses, pager.tables[0].entries.astype(np.int64))
    first, length = blocks.pool
    assert there.min() >= first
    assert there.max() < first + length
    assert len(np.unique(there)) == there.size
    block_of = (there - first) // blocks.window.block_bytes
    for request in range(min(batch, 3)):
        for start in range(0, tokens, blocks.tokens):
            one = block_of[request, :, start : start + blocks.tokens]
            assert (one == one.flat[0]).all(), "tokens of a block lie in one block"
    if tokens > blocks.tokens:
        entries = pager.tables[0].entries.ravel()
        assert (np.diff(entries[entries != NO_BLOCK]) != 1).any(), "and blocks are not in order"


def test_blocks_of_banks_are_whole_rows() -> None:
    spec = load_target("neupims")
    assert paged(spec, "key", (2, 2, 40, 16))[1].tokens == 32  # a token a bank
    assert paged(spec, "value", (2, 2, 40, 16))[1].tokens == 512  # a row's elements
    assert paged(spec, "key", (2, 2, 40, 16), CacheSpec(layout="paged", block=100))[1].tokens == 128


def test_channels_of_one_request_each_have_entries_of_their_own() -> None:
    spec = load_target("neupims", ["dram.channels=2"])
    _, blocks, pager, _ = paged(spec, "key", (4, 2, 100, 16))
    assert blocks.window.lanes == 2
    assert pager.tables[0].entries.shape == (2, 4, 2)
    assert not np.array_equal(pager.tables[0].entries[..., 0], pager.tables[0].entries[..., 1])


def test_equal_tables_are_stored_once() -> None:
    pager, memory = Pager(load_target("npu"), PAGED), Bump()
    part = Part((2, 2, 40, 16), (40, 40), (40, 40))
    for _ in range(3):
        pager.linear([part], 2, lambda n: memory.take(n, 64))
    assert len(pager.tables) == 1
    pager.linear([Part((2, 2, 50, 16), (50, 50), (50, 50))], 2, lambda n: memory.take(n, 64))
    assert len(pager.tables) == 2


@pytest.mark.parametrize(("target", "kind"), [(t, k) for t in ("cent", "mapping") for k in ("key", "value")])
def test_groups_of_requests_do_not_meet(target: str, kind: str) -> None:
    """A group of one request has all channels of its blocks, others lie side by side: their pool is the same."""
    spec, memory = machine(target), Bump()
    row = spec.dram.geometry.stride_row
    sizes = ((1, 15000), (2, 700), (5, 900), (16, 2400))
    parts = [Part((n, 2, most, 16), (most,) * n, (most,) * n) for n, most in sizes]
    pager = Pager(spec, PAGED)
    placed = pager.in_banks(kind, parts, (), lambda n: memory.take(n * row, row) // row)
    pager.settle({}, lambda n: memory.take(n, 64))
    seen: list[np.ndarray] = []
    for part, (layout, blocks) in zip(parts, placed, strict=True):
        table = pager.tables[pager._of[blocks.window]].entries
        addresses = layout.addresses()[tuple(slice(0, n) for n in part.shape)]
        seen.append(blocks.window.physical(addresses, table.astype(np.int64)).ravel())
    joined = np.concatenate(seen)
    assert joined.min() >= 0
    assert len(np.unique(joined)) == len(joined)


def test_blocks_that_a_request_lacks_are_nowhere() -> None:
    window = Window(start=1000, blocks=4, block_bytes=10, pool=200)
    table = np.array([1, NO_BLOCK, 0, 3])
    assert window.physical(np.array([1000, 1009, 1015, 1020, 1039]), table).tolist() == [210, 219, NO_BLOCK, 200, 239]


# -- what it costs ----------------------------------------------------------------------------------------------------

HBM = Memory(32, 1024, 64, banks=32)


def accesses(addresses: np.ndarray) -> np.ndarray:
    """The accesses of each channel, one for every stretch of 64 bytes that a run of 2-byte elements touches."""
    lines = np.unique(addresses // 64)
    return np.bincount(lines * 64 // 1024 % 32, minlength=32)


@settings(max_examples=40, deadline=None)
@given(st.sampled_from([512, 1024, 4096, 32768]), st.integers(1, 4), st.integers(2, 40), st.integers(0, 1000))
def test_accesses_are_those_of_blocks_that_lie_anywhere(block: int, runs: int, count: int, seed: int) -> None:
    """A head's stretch of each block: the sum is exact, the busiest channel as busy as of random tables on average."""
    run = block // runs // 64 * 64
    digits = ((count, block), (run // 2, 2))
    layout = Layout(0, digits and ((digits[0],), (digits[1],)))
    busiest = []
    for draw in range(30):
        table = np.random.default_rng((seed, draw)).permutation(2 * count)[:count]
        there = Window(0, count, block, 0).physical(layout.addresses(), table.astype(np.int64))
        each = accesses(there)
        busiest.append(int(each.max()))
        assert int(each.sum()) == accesses_in_blocks(HBM, digits, 2, block)
    expected = busiest_of(HBM, nest_in_blocks(HBM, digits, 2, block))
    error = 4 * np.std(busiest) / len(busiest) ** 0.5
    assert expected == pytest.approx(np.mean(busiest), abs=error + 0.05 * expected)
    assert blocks_of(digits, 2, block) == count


def test_a_block_alone_is_a_transfer_like_any_other() -> None:
    digits = ((16, 256), (128, 2))
    assert traffic_in_blocks(HBM, digits, 2, 4096) == traffic(HBM, digits, 2)


def test_runs_end_with_their_block() -> None:
    """A stretch over several small blocks opens a row for each of them."""
    whole = ((40960, 2),)
    assert traffic(HBM, whole, 2).rows == 3
    assert traffic_in_blocks(HBM, whole, 2, 256).rows == 10
    assert blocks_of(whole, 2, 256) == 320
