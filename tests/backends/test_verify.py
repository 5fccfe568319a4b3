"""The verifier: every rule is broken once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.backends.affine import DEVICE, variable
from pimc.backends.isa import Signal, Wait
from pimc.backends.overlap import overlaps
from pimc.backends.program import Item, Loop, MapEntry, Program, Step, Stream
from pimc.backends.races import check_races, without_synchronisation
from pimc.backends.synchronize import split_streams
from pimc.backends.verify import verify_program
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.sim.time import simulate
from tests.fakes import BUFFER_BYTES, platform, program, work
from tests.sim.test_time import items


def sound() -> Program:
    body = (Loop(0, 8, (work("a", 1, variable(0) * 8, 512), work("b", 1, 512, variable(0) * 8 + 1024))),)
    entries = (
        MapEntry("x", "input", "buffer", DType.I32, Layout.dense((16,), 4), DType.I32),
        MapEntry("y", "output", "buffer", DType.I32, Layout.dense((16,), 4, 1024), DType.I32),
    )
    return dataclasses.replace(program(split_streams(body)), memory=entries, inputs=("x",), outputs=("y",))


def test_a_sound_program_passes() -> None:
    verify_program(sound(), platform())
    check_races(sound(), platform())


def _streams(change: Callable[[Stream], Stream]) -> Callable[[Program], Program]:
    return lambda p: dataclasses.replace(p, streams=(change(p.streams[0]), *p.streams[1:]))


def _items(*extra: Item) -> Callable[[Program], Program]:
    return _streams(lambda s: dataclasses.replace(s, items=(*s.items, *extra)))


def _entry(**changes: object) -> Callable[[Program], Program]:
    def change(p: Program) -> Program:
        return dataclasses.replace(p, memory=(dataclasses.replace(p.memory[0], **changes), *p.memory[1:]))  # type: ignore[arg-type]

    return change


BROKEN: dict[str, tuple[Callable[[Program], Program], Kind, str]] = {
    "range": (_items(work("a", 1, BUFFER_BYTES)), Kind.PROGRAM_BAD, "reads bytes 4096 to 4100 of 'buffer'"),
    "range in a loop": (
        _items(Loop(0, 100, (work("a", 1, 0, variable(0) * 64),))),
        Kind.PROGRAM_BAD,
        "writes bytes 0 to 6340 of 'buffer'",
    ),
    "engine": (_streams(lambda s: dataclasses.replace(s, engine="x")), Kind.PROGRAM_BAD, "for engine 'x'"),
    "device": (_streams(lambda s: dataclasses.replace(s, devices=(3,))), Kind.PROGRAM_BAD, "devices beyond"),
    "instance": (_streams(lambda s: dataclasses.replace(s, instances=(1,))), Kind.PROGRAM_BAD, "instances of a"),
    "op": (_items(work("a", 1, op=9)), Kind.PROGRAM_BAD, "belongs to op 9"),
    "deadlock": (_items(Step("a", Wait(99))), Kind.DEADLOCK, "wait for ever"),
    "balance": (_items(Step("a", Signal(99))), Kind.PROGRAM_BAD, "semaphore 99 of device 0 is signalled 1 times"),
    "twice": (_streams(lambda s: dataclasses.replace(s, engine="b")), Kind.PROGRAM_BAD, "are for the same b"),
    "overlap": (_entry(layout=Layout.dense((16,), 4, 1000)), Kind.PROGRAM_BAD, "input 'x' and output 'y' overlap"),
    "place": (_entry(layout=Layout.dense((16,), 4, 4090)), Kind.PROGRAM_BAD, "lies at bytes 4090 to 4154"),
    "name": (_entry(name="y"), Kind.PROGRAM_BAD, "has 'y' twice"),
    "alias": (_entry(alias="nothing"), Kind.PROGRAM_BAD, "shares the memory of 'nothing'"),
    "space": (_entry(space="attic"), Kind.PROGRAM_BAD, "of which the program uses nothing"),
    "devices": (lambda p: dataclasses.replace(p, devices=1 << 40), Kind.PROGRAM_BAD, "for 1099511627776 devices"),
    "semaphores": (
        _items(Loop(0, 1 << 40, (Step("a", Signal(variable(0))),))),
        Kind.PROGRAM_BAD,
        "is for more than 65536 semaphores",
    ),
    "capacity": (
        lambda p: dataclasses.replace(p, extent={"buffer": BUFFER_BYTES + 1}),
        Kind.PROGRAM_BAD,
        "the program uses 4097 bytes of 'buffer', which has 4096",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_rule_is_reported(case: str) -> None:
    change, kind, says = BROKEN[case]
    with pytest.raises(CompileError) as caught:
        verify_program(change(sound()), platform())
    assert any(d.kind is kind and says in d.message for d in caught.value.diagnostics), caught.value.diagnostics


def test_more_tokens_than_can_be_walked_through_are_counted() -> None:
    with pytest.raises(CompileError, match=f"semaphore 99 of device 0 is signalled {1 << 60} times"):
        verify_program(_items(Loop(0, 1 << 60, (Step("a", Signal(99)),)))(sound()), platform())


def test_signals_and_waits_are_counted_by_loops() -> None:
    """Semaphore 90 in every turn of both loops, and 91 and 92 in one turn of the inner one; of which one waits less."""
    signals = Loop(0, 3, (Loop(1, 2, (Step("a", Signal(90)), Step("a", Signal(variable(1) + 91)))),))
    waits = [Loop(0, 6, (Step("b", Wait(90)),)), Loop(0, 3, (Step("b", Wait(91)),)), Loop(0, 2, (Step("b", Wait(92)),))]
    made = sound()
    own = {"a": (signals,), "b": tuple(waits)}
    streams = tuple(dataclasses.replace(s, items=own.get(s.engine, s.items)) for s in made.streams)
    with pytest.raises(CompileError) as caught:
        verify_program(dataclasses.replace(made, streams=streams), platform())
    (told,) = caught.value.diagnostics
    assert told.message == "semaphore 92 of device 0 is signalled 3 times and awaited 2 times"


def test_of_a_program_that_is_timed_next_deadlocks_are_left_to_the_simulator() -> None:
    made = sound()
    crossed = {"a": (Step("a", Wait(90)), Step("a", Signal(91))), "b": (Step("b", Wait(91)), Step("b", Signal(90)))}
    made = dataclasses.replace(
        made, streams=tuple(dataclasses.replace(s, items=crossed.get(s.engine, s.items)) for s in made.streams)
    )
    verify_program(made, platform(), timed=True)
    for find in (lambda: verify_program(made, platform()), lambda: simulate(made, platform=platform())):
        with pytest.raises(CompileError) as caught:
            find()
        assert [d.kind for d in caught.value.diagnostics] == [Kind.DEADLOCK]


def test_a_command_for_another_unit_is_refused() -> None:
    from pimc.backends.dma.isa import Load

    step = Step("a", Load(0, 0, DType.F16, (8,), (2,), (2,)))
    with pytest.raises(CompileError, match="is for a unit 'dma'; a takes test"):
        verify_program(_items(step)(sound()), platform())


def test_streams_of_devices_that_do_the_same_are_looked_at_once() -> None:
    """And for all of these devices: here the last reads beyond its buffer."""
    (stream,) = program({"a": (work("a", 1, variable(DEVICE) * (BUFFER_BYTES // 3)),)}).streams
    devices = [dataclasses.replace(stream, devices=(rank,)) for rank in range(4)]
    made = dataclasses.replace(sound(), streams=tuple(devices), devices=4, memory=(), inputs=(), outputs=())
    verify_program(dataclasses.replace(made, streams=tuple(devices[:3]), devices=3), platform())
    with pytest.raises(CompileError) as raised:
        verify_program(made, platform())
    (only,) = raised.value.diagnostics
    assert "reads bytes 0 to 4099 of 'buffer', which has 4096" in only.message


@settings(max_examples=60, deadline=None)
@given(items())
def test_synchronised_programs_have_no_races_and_no_deadlock(sequential: tuple[Item, ...]) -> None:
    made = program(split_streams(sequential))
    verify_program(made, platform())
    check_races(made, platform())


def test_leaving_out_what_orders_two_engines_is_a_race() -> None:
    """The write of `a` that `b` reads in the same turn, and the read that its next write must wait for."""
    made = sound()
    numbers = {c.command.semaphore for s in made.streams for c in _all(s.items) if isinstance(c.command, Signal)}
    racing = []
    for number in sorted(n for n in numbers if isinstance(n, int)):
        racing.append("nothing orders TESTWORK" in _races(without_synchronisation(made, number)))
    assert sum(racing) >= 2


def _races(made: Program) -> str:
    try:
        check_races(made, platform())
    except CompileError as error:
        return str(error)
    return ""


def _all(items: tuple[Item, ...]) -> list[Step]:
    from pimc.backends.program import steps

    return list(steps(items))


digits = st.lists(
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from([-16, 2, 4, 6, 16, 24, 64, 128])), min_size=1, max_size=3),
    max_size=3,
).map(lambda dims: tuple(tuple(d) for d in dims))


@settings(max_examples=300, deadline=None)
@given(digits, st.integers(0, 300), digits, st.integers(0, 300))
def test_overlap_equals_the_sets_of_addresses(first: tuple, a: int, second: tuple, b: int) -> None:  # type: ignore[type-arg]
    layouts = (Layout(a, first), Layout(b, second))
    one, two = (MapEntry("x", "weight", "dram", DType.F16, layout, DType.F16) for layout in layouts)
    bytes_of = [{int(n) + k for n in np.ravel(e.layout.addresses()) for k in (0, 1)} for e in (one, two)]
    assert overlaps(one, two) == bool(bytes_of[0] & bytes_of[1])
