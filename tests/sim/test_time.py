"""Time: hand-made programs with known times, and fast = plain on random ones."""

from __future__ import annotations

import dataclasses
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.backends.affine import Scalar, variable
from pimc.backends.isa import Signal, Wait
from pimc.backends.program import Item, Loop, Program, Step
from pimc.backends.synchronize import split_streams
from pimc.ir.diagnostics import CompileError, Kind
from pimc.sim import accounts, code
from pimc.sim.code import END
from pimc.sim.time import Clockwork, simulate
from pimc.sim.timing import Timing
from tests.fakes import platform, program, work


def test_a_stream_runs_in_order_and_ends_with_its_last_command() -> None:
    timing = simulate(program({"a": (work("a", 10), work("a", 20))}), platform=platform())
    assert timing.time == 30_000
    assert timing.cycles == 30
    (engine,) = timing.engines
    assert (engine.busy, engine.idle, engine.stalled, engine.commands) == (30_000, 0, {}, 2)


def test_a_wait_holds_until_everything_before_the_signal_has_completed() -> None:
    streams: dict[str, tuple[Item, ...]] = {
        "a": (work("a", 10), Step("a", Signal(0))),
        "b": (Step("b", Wait(0)), work("b", 10, op=1)),
    }
    timing = simulate(program(streams), platform=platform())
    a, b = timing.engines
    assert timing.time == 10_000 + 7_000
    assert b.stalled == {"wait:a": 10_000}
    assert (a.idle, b.idle) == (7_000, 0)
    assert timing.ops[1].start == 10_000
    assert timing.bound == 10_000


def test_a_group_has_signalled_when_all_its_instances_have() -> None:
    from pimc.backends.affine import INSTANCE

    cycles = variable(INSTANCE) * 10 + 10
    streams: dict[str, tuple[Item, ...]] = {
        "many": (work("many", cycles), Step("many", Signal(0)), Step("many", Wait(1)), work("many", 1)),
        "a": (Step("a", Wait(0)), work("a", 5), Step("a", Signal(1))),
    }
    timing = simulate(program(streams), platform=platform())
    assert [e.name for e in timing.engines] == ["many"] * 4 + ["a"]
    assert timing.time == 40_000 + 5_000 + 1_000


def test_instances_whose_time_is_alike_are_simulated_once() -> None:
    timing = simulate(program({"many": (work("many", 10),)}), platform=platform())
    assert [e.instances for e in timing.engines] == [(0, 1, 2, 3)]


def test_shared_resources_go_to_who_is_first() -> None:
    streams: dict[str, tuple[Item, ...]] = {"a": (work("a", 10),), "c": (work("c", 10),)}
    timing = simulate(program(streams), platform=platform({"a": ("bus",), "c": ("bus",)}))
    _a, c = timing.engines
    assert c.stalled == {"bus": 5_000}
    assert timing.resources[0].busy == 9_500
    assert timing.resources[0].by_op == {0: 9_500}


def test_a_deadlock_is_reported_with_who_waits_for_what() -> None:
    streams: dict[str, tuple[Item, ...]] = {"a": (Step("a", Wait(3)), work("a", 1))}
    with pytest.raises(CompileError) as caught:
        simulate(program(streams), platform=platform())
    assert caught.value.diagnostics[0].kind is Kind.DEADLOCK


def test_long_loops_take_no_longer_than_short_ones() -> None:
    """A hundred million turns, with and without synchronisation, nested."""
    body = (work("a", 3), Step("a", Signal(0)), Step("a", Wait(1)))
    other = (Step("b", Wait(0)), Loop(1, 100, (work("b", 2), work("b", 3, row=1))), Step("b", Signal(1)))
    turns = 10**8
    streams: dict[str, tuple[Item, ...]] = {"a": (Loop(0, turns, body),), "b": (Loop(0, turns, other),)}
    clockwork = Clockwork(program(streams), platform())
    timing = clockwork.run()
    short = simulate(_with_turns(program(streams), 50), platform=platform(), engine="plain")
    longer = simulate(_with_turns(program(streams), 60), platform=platform(), engine="plain")
    assert timing.time == short.time + (longer.time - short.time) // 10 * (turns - 50)
    assert sum(e.commands for e in timing.engines) == turns * 201


def _with_turns(made: Program, turns: int) -> Program:
    streams = tuple(
        dataclasses.replace(s, items=tuple(Loop(i.variable, turns, i.body) for i in s.items if isinstance(i, Loop)))
        for s in made.streams
    )
    return dataclasses.replace(made, streams=streams)


# -- fast = plain -----------------------------------------------------------------------------------------------------


@st.composite
def items(draw: st.DrawFn, depth: int = 0, variables: tuple[int, ...] = ()) -> tuple[Item, ...]:
    """A sequential program: commands of three engines on a small buffer, in loops."""
    out: list[Item] = []
    for _ in range(draw(st.integers(1, 3))):
        if depth < 3 and draw(st.integers(0, 2)) == 0:
            count = draw(st.integers(1, 30 if depth == 0 else 9))
            out.append(Loop(depth, count, draw(items(depth + 1, (*variables, depth)))))
        else:
            out.append(draw(commands(variables)))
    return tuple(out)


@st.composite
def commands(draw: st.DrawFn, variables: tuple[int, ...]) -> Step:
    def moving(base: int, step: int) -> Scalar:
        if not variables or draw(st.integers(0, 2)):
            return base
        return variable(draw(st.sampled_from(variables))) * step + base

    cells = st.integers(0, 5).map(lambda n: n * 64)
    cycles = moving(draw(st.integers(1, 9)), draw(st.sampled_from([0, 0, 1])))
    row = moving(draw(st.integers(0, 2)), draw(st.sampled_from([0, 1, 4])))
    engine, op = draw(st.sampled_from("abc")), draw(st.integers(0, 3))
    return work(engine, cycles, moving(draw(cells), 4), moving(draw(cells), 4), op, row)


SHARING: list[dict[str, tuple[str, ...]]] = [
    {},
    {"a": ("bus",), "b": ("bus",)},
    {"a": ("own",), "b": ("bus",), "c": ("bus",)},
    {"a": ("bus",), "b": ("bus",), "c": ("bus",)},
]


@settings(max_examples=150, deadline=None)
@given(items(), st.sampled_from(SHARING))
def test_fast_equals_plain(sequential: tuple[Item, ...], sharing: dict[str, tuple[str, ...]]) -> None:
    made = program(split_streams(sequential))
    machine = platform(sharing)
    fast = simulate(made, platform=machine)
    plain = simulate(made, engine="plain", platform=machine)
    assert _sums(fast) == _sums(plain)


@settings(max_examples=150, deadline=None)
@given(items(), st.sampled_from(SHARING))
def test_a_log_may_be_summed_up_at_any_time(sequential: tuple[Item, ...], sharing: dict[str, tuple[str, ...]]) -> None:
    made, machine = program(split_streams(sequential)), platform(sharing)
    for engine in ("fast", "plain"):
        whole = simulate(made, engine=engine, platform=machine)
        with patch.object(accounts, "MANY", 1):
            settled = simulate(made, engine=engine, platform=machine)
            assert _sums(settled) == _sums(whole)
        for one, other in zip(settled.engines, whole.engines, strict=True):
            assert np.array_equal(one.segments, other.segments)


def test_a_stream_that_goes_on_is_one_segment_however_often_it_is_summed_up() -> None:
    parts = tuple(work("a", 10) for _ in range(6))
    streams: dict[str, tuple[Item, ...]] = {
        "b": tuple(Step("b", Signal(n)) for n in range(3)),
        "a": tuple(item for n, part in enumerate(parts[:3]) for item in (Step("a", Wait(n)), part)) + parts[3:],
    }
    with patch.object(accounts, "MANY", 1), patch.object(code, "LEAST_PART", 1):
        clockwork = Clockwork(program(streams), platform())
        timing = clockwork.run()
    assert sum(isinstance(chunk, accounts.Settled) for chunk in clockwork.runners[1].account.log) == 3
    assert timing.engines[1].segments.tolist() == [[0, 0, 60_000, 60_000]]


def test_code_is_made_when_a_stream_comes_to_it_and_kept_no_longer() -> None:
    streams: dict[str, tuple[Item, ...]] = {
        "a": (work("a", 1), Step("a", Signal(0)), Step("a", Wait(1)), work("a", 1)),
        "b": (Step("b", Wait(0)), Loop(0, 3, (work("b", 1), work("b", 2))), Step("b", Signal(1))),
    }
    clockwork = Clockwork(program(streams), platform())
    assert [len(runner.code) for runner in clockwork.runners] == [1, 1]
    assert clockwork.run().time == 1000 + 3 * (700 + 1400) + 1000
    for runner in clockwork.runners:
        assert not any(i.command is not None or i.what == END for i in runner.code)


def _sums(timing: Timing) -> object:
    ops = {op: (t.start, t.end, t.active, t.busy, t.bound) for op, t in timing.ops.items()}
    return timing.time, timing.engines, timing.resources, ops
