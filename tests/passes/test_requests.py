"""Which channel requests get, in which order they are worked on, and what refuses a batch."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pimc.driver import Options, compile_model, lower_model
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.requests import Batch, Request
from tests.e2e.harness import MODELS
from tests.e2e.test_requests import requests

GPT = MODELS / "tiny-gpt2.pimc"
SKEWED = (600, 10, 10, 10, 500, 10, 10, 10, 400, 10, 10, 10)
LLAMA = MODELS / "tiny-llama.pimc"


def assigned(past: tuple[int, ...], channels: int, balance: str, given: tuple[int, ...] | None = None) -> Batch:
    options = Options(
        requests=requests(past, channels=given),
        overrides=(f"dram.channels={channels}",),
        pass_options=(f"assign-requests.balance={balance}",),
        until="assign-requests",
    )
    batch = lower_model(GPT, "neupims", options).graph.batch
    assert batch is not None
    return batch


def channels_of(batch: Batch) -> dict[int, int | None]:
    return {r.row: r.channel for r in batch.requests}


def load(batch: Batch) -> Counter[int]:
    found: Counter[int] = Counter()
    for r in batch.requests:
        assert r.channel is not None
        found[r.channel] += r.past + 1
    return found


def test_greedy_by_hand() -> None:
    """Longest first, each to the emptiest channel: 300 to one, 200 to the other, and 100 to that of 200, which has less
    so far. That one has more requests, and is channel 0."""
    batch = assigned((100, 300, 200), 2, "greedy")
    assert channels_of(batch) == {1: 1, 2: 0, 0: 0}


def test_channels_with_more_requests_are_neighbours() -> None:
    """No wave of a greedy assignment is torn apart."""
    batch = assigned(tuple(SKEWED[i % 12] + 37 * i % 101 for i in range(45)), 8, "greedy")
    assert list(batch.groups) == sorted(batch.groups, reverse=True)
    assert len(batch.groups) == max(Counter(channels_of(batch).values()).values())


def test_round_robin_by_hand() -> None:
    assert channels_of(assigned((5, 6, 7, 8, 9), 2, "round-robin")) == {0: 0, 1: 1, 2: 0, 3: 1, 4: 0}


def test_the_file_decides_where_it_says() -> None:
    given = (3, 0, 3)
    assert channels_of(assigned((5, 6, 7), 4, "auto", given)) == {0: 3, 1: 0, 2: 3}
    assert channels_of(assigned((5, 6, 7), 4, "greedy", given)) == {2: 0, 1: 1, 0: 2}


def test_greedy_is_better_than_round_robin_on_skewed_lengths() -> None:
    greedy, dealt = (assigned(SKEWED, 4, b) for b in ("greedy", "round-robin"))
    assert max(load(greedy).values()) < 0.6 * max(load(dealt).values())


def test_greedy_is_faster_too() -> None:
    def cycles(balance: str) -> int:
        options = Options(
            requests=requests(SKEWED),
            overrides=("dram.channels=4",),
            pass_options=(f"assign-requests.balance={balance}", "place.only=pim"),
        )
        timing = compile_model(LLAMA, "neupims", options).timing
        assert timing is not None
        return timing.cycles

    assert cycles("greedy") < cycles("round-robin")


def test_waves_and_groups_by_hand() -> None:
    """Channel 0 has 50 and 9, channel 1 has 40, channel 3 has 30 and 20: waves are {50, 40 | 30} and {9 | 20}."""
    batch = assigned((9, 40, 20, 50, 30), 4, "file", (0, 1, 3, 0, 3))
    assert [r.past for r in batch.requests] == [50, 40, 30, 9, 20]
    assert batch.groups == (2, 1, 1, 1)


def test_equal_waves_are_one_group() -> None:
    assert assigned((7,) * 8, 4, "round-robin").groups == (8,)


def test_machines_without_channels_of_requests_sort_by_length() -> None:
    options = Options(requests=requests((3, 9, 3, 5)), until="assign-requests")
    batch = lower_model(GPT, "npu", options).graph.batch
    assert batch is not None
    assert [r.row for r in batch.requests] == [1, 3, 0, 2]
    assert batch.groups == (1, 1, 2)
    assert {r.channel for r in batch.requests} == {None}


# -- what is refused --------------------------------------------------------------------------------------------------


def refused(model: Path, batch: tuple[Request, ...], target: str = "neupims", **options: object) -> CompileError:
    with pytest.raises(CompileError) as raised:
        compile_model(model, target, Options(requests=batch, **options))  # type: ignore[arg-type]
    return raised.value


def test_a_full_channel_is_told_with_numbers() -> None:
    error = refused(
        GPT,
        requests((60, 60, 60, 60, 2), channels=(1, 1, 1, 1, 0)),
        overrides=("dram.channels=2", "dram.rows=64"),
        pass_options=("place.only=pim",),
    )
    (said,) = error.diagnostics
    assert said.kind is Kind.CAPACITY
    # 4 requests x 2 layers x (2 rows of keys + 4 heads x 1 row of values) = 48 rows of 32 banks x 1 KiB
    assert "in channel 1 need 1.5 MiB" in said.message
    assert "of its 2.0 MiB left" in said.message
    assert said.help is not None
    assert "assign-requests.balance=greedy" in said.help


@pytest.mark.parametrize("name", ["assign-requests", "spread-positions", "ragged-attention"])
def test_its_passes_cannot_be_left_out(name: str) -> None:
    assert refused(GPT, requests((3, 4)), disabled=(name,)).diagnostics[0].kind is Kind.PIPELINE


def test_dimensions_that_requests_bind_cannot_be_given() -> None:
    error = refused(GPT, requests((3, 4)), dims={"past": 3, "batch": 2})
    assert [d.kind for d in error.diagnostics] == [Kind.DIM_BAD, Kind.DIM_BAD]


def test_channels_beyond_the_machine() -> None:
    error = refused(GPT, requests((3, 4), channels=(0, 99)))
    assert error.diagnostics[0].kind is Kind.REQUESTS_BAD
    assert "channel 99" in error.diagnostics[0].message


BAD_MODELS = {
    "reads the keys or values": """\
        let keys = cache_append(past_key, k)
        output y = attention(k, keys, keys, scale = 1.0, causal = true)
        output z = keys + 1.0""",
    "attends to all keys": """\
        let keys = cache_append(past_key, k)
        output y = attention(k, keys, keys, scale = 1.0)""",
    "mixes new tokens": """\
        let keys = cache_append(past_key, k)
        output y = attention(k, keys, keys, scale = 1.0, causal = true)
        output z = reduce_mean(k, [2], keepdims = 1)""",
    "works with the one number of cached tokens": """\
        let keys = cache_append(past_key, k)
        output y = attention(k, keys, keys, scale = 1.0, causal = true)
        output z = matmul(unsqueeze(f32(range(past, past + seq)), [1]), w)
        output o = range(past, past + seq)""",
}


@pytest.mark.parametrize("said", BAD_MODELS)
def test_models_that_cannot_serve_requests_of_different_lengths(said: str, tmp_path: Path) -> None:
    model = tmp_path / "m.pimc"
    model.write_text(
        "model m(batch = 1, seq = 1, past = 1)\n"
        'cache past_key "past" -> "present": f32[batch, 2, past, 16]\n'
        "input k: f32[batch, 2, seq, 16]\n"
        "weight w: f32[1, 3]\n" + "\n".join(line.strip() for line in BAD_MODELS[said].splitlines()) + "\n"
    )
    error = refused(model, requests((3, 4), new=(1, 2)))
    assert said in str(error)
    assert {d.kind for d in error.diagnostics} == {Kind.REQUESTS_BAD}
