"""The time of attention's cuts, beside what the simulator says, and the search for the best one."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from pimc.backends.npu import attention
from pimc.backends.npu.attended import Attended, AttentionTiles
from pimc.backends.npu.attention_tiles import _SAME, _cuts, _fits, best_attention
from pimc.backends.npu.attention_time import Core, timed
from pimc.driver import Options, compile_model

MODEL = """
model heads(batch = 1, queries = 1, keys = 1)
let kv = {kv}
let heads = {heads}
let depth = {depth}
input q: f16[batch, heads, queries, depth]
input k: f16[batch, kv, keys, depth]
input v: f16[batch, kv, keys, depth]
let y = attention(q, k, v, scale = 0.1, causal = {causal})
output y
"""

CASES = [
    # heads of keys, heads, depth, causal, batch, queries, keys
    (8, 32, 128, True, 1, 1, 2049),
    (8, 32, 128, True, 16, 1, 513),
    (8, 32, 128, True, 1, 1, 8192),
    (1, 8, 128, True, 64, 1, 1000),
    (12, 12, 64, False, 1, 128, 128),
    (32, 32, 128, True, 1, 512, 512),
    (16, 16, 64, False, 2, 384, 384),
    (8, 64, 128, True, 1, 16, 700),
]
Asked = tuple[Core, Attended, int, AttentionTiles]


def asked(case: tuple[int, int, int, bool, int, int, int], target: str, folder: Path) -> tuple[Asked, float]:
    """The search that decides how attention is cut, and the simulated seconds."""
    kv, heads, depth, causal, batch, queries, keys = case
    model = folder / "heads.pimc"
    model.write_text(MODEL.format(kv=kv, heads=heads, depth=depth, causal=str(causal).lower()), encoding="utf-8")
    found: list[Asked] = []

    def search(core: Core, e: Attended, room: int) -> AttentionTiles | None:
        tiles = best_attention(core, e, room)
        assert tiles is not None
        found.append((core, e, room, tiles))
        return tiles

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attention, "best_attention", search)
        options = Options(
            dims={"batch": batch, "queries": queries, "keys": keys}, pass_options=("split-attention.whole=always",)
        )
        result = compile_model(model, target, options)
    assert result.timing is not None
    return found[-1], result.timing.time * 1e-12


@pytest.mark.parametrize("target", ["npu", "npu-server", "tpuv3"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_estimates_are_near_the_simulator(
    case: tuple[int, int, int, bool, int, int, int], target: str, tmp_path: Path
) -> None:
    (*_, tiles), simulated = asked(case, target, tmp_path)
    assert 0.8 < tiles.seconds / simulated < 1.15


@pytest.mark.parametrize("target", ["npu", "npu-server", "tpuv3"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_cut_is_better_than_the_one_that_is_taken(
    case: tuple[int, int, int, bool, int, int, int], target: str, tmp_path: Path
) -> None:
    """And none takes less than its bound, by which the search passes cuts over."""
    (core, e, room, taken), _ = asked(case, target, tmp_path)
    cuts = [cut for cut in _cuts(e) if _fits(core, e, *cut, room)]
    assert len(cuts) > 1
    for cut in cuts:
        seconds = timed(core, e, *cut).seconds
        assert timed(core, e, *cut, least=True).seconds <= seconds
        assert taken.seconds <= _SAME * seconds


def test_what_queries_see_is_what_the_tiles_show() -> None:
    """How many tiles there are, and how many of them positions hide in part, is told without making them."""
    random = Random(3)
    for _ in range(400):
        queries, keys, size = random.randint(1, 40), random.randint(1, 90), random.randint(1, 40)
        keys = max(keys, queries)
        window, causal = random.choice((0, 0, random.randint(1, keys))), random.random() < 0.6
        e = Attended(1, 1, queries, keys, 8, 8, 2, 0, causal, window, 0, False, random.random() < 0.1, False)
        start = random.randrange(queries)
        rows, lanes = random.randint(1, queries - start), random.choice((8, 16))
        tiles = AttentionTiles(1, rows, size, 0.0, 0.0, 0.0, 0.0).tiles(e, start, rows)
        seen = e.seen(start, rows, size, lanes)
        assert (seen.tiles, seen.masked) == (len(tiles), sum(tile.masked for tile in tiles))
        assert seen.keys == sum(tile.count for tile in tiles)
        assert seen.passes == sum(-(-tile.count // lanes) for tile in tiles)
