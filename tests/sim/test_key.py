"""Keys of sequences: those with the same key are split into the same streams, whatever their addresses are."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pimc.backends.affine import Scalar, variable
from pimc.backends.emission import Part, Sequential
from pimc.backends.isa import Command
from pimc.backends.planning import Plan
from pimc.backends.program import Item, Loop, Step
from pimc.backends.synchronize import split_streams
from pimc.sim.key import KeyMaker
from pimc.sim.time import simulate
from tests.fakes import Work, platform, program, work

PLATFORM = platform()


def sequence(items: tuple[Item, ...]) -> Sequential:
    return Sequential((Part((), (0,), Plan()),), (items,), {})


def key(items: tuple[Item, ...]) -> bytes:
    return KeyMaker(PLATFORM).key(sequence(items))


def touching(engine: str, src: Scalar, dst: Scalar, length: int) -> Step:
    return Step(engine, Work(3, src, dst, length, 0), 0)


@st.composite
def sequences(draw: st.DrawFn, depth: int = 0) -> tuple[Item, ...]:
    """Commands on a buffer in which most things begin at whole granules and end anywhere."""

    def place(stride: int = 64) -> Scalar:
        at = draw(st.integers(0, 7)) * 32 + draw(st.sampled_from([0, 0, 0, 4, 20]))
        if not depth or draw(st.booleans()):
            return at
        return variable(draw(st.integers(0, depth - 1))) * draw(st.sampled_from([stride, 32, 48])) + at

    out: list[Item] = []
    for _ in range(draw(st.integers(1, 3))):
        if depth < 2 and draw(st.integers(0, 2)) == 0:
            out.append(Loop(depth, draw(st.integers(2, 4)), draw(sequences(depth + 1))))
        else:
            out.append(touching(draw(st.sampled_from("abc")), place(), place(), draw(st.integers(1, 10)) * 4))
    return tuple(out)


def longer(items: tuple[Item, ...], by: int, shift: int) -> tuple[Item, ...]:
    """The same with other lengths, and the commands outside of loops further on."""

    def changed(command: Command, shift: int) -> Command:
        assert isinstance(command, Work)
        return dataclasses.replace(command, length=command.length + by, dst=command.dst + shift)

    def walk(items: tuple[Item, ...], shift: int) -> Iterator[Item]:
        for item in items:
            if isinstance(item, Loop):
                yield Loop(item.variable, item.count, tuple(walk(item.body, 0)))
            else:
                yield dataclasses.replace(item, command=changed(item.command, shift))

    return tuple(walk(items, shift))


def shape(items: tuple[Item, ...]) -> list[object]:
    """A stream without addresses."""
    return [
        (item.count, shape(item.body)) if isinstance(item, Loop) else (type(item.command), _number(item.command))
        for item in items
    ]


def _number(command: Command) -> object:
    return getattr(command, "semaphore", None)


@settings(max_examples=400, deadline=None)
@given(sequences(), st.sampled_from([4, 8, 12, -4, 16]), st.sampled_from([0, 4, 8, 32]))
def test_equal_keys_mean_equal_streams(items: tuple[Item, ...], by: int, shift: int) -> None:
    other = longer(items, by, shift)
    lengths = [s.command.length for s in _steps(other) if isinstance(s.command, Work)]
    assume(all(length > 0 for length in lengths))
    if key(items) != key(other):
        return
    first, second = split_streams(items), split_streams(other)
    assert {e: shape(s) for e, s in first.items()} == {e: shape(s) for e, s in second.items()}
    times = [simulate(program(dict(streams)), platform=PLATFORM).time for streams in (first, second)]
    assert times[0] == times[1]


def _steps(items: tuple[Item, ...]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, Loop):
            yield from _steps(item.body)
        else:
            yield item


def test_what_ends_a_little_later_is_the_same() -> None:
    """Rows of 9, 15 and 16 elements end before what begins at 64 does; one of 17 meets it."""

    def row(count: int) -> bytes:
        return key((touching("a", 0, 0, 4 * count), touching("b", 64, 128, 4), touching("b", 0, 0, 4 * count)))

    assert row(9) == row(15) == row(16)
    assert row(17) != row(16)


def test_costs_count_and_addresses_do_not() -> None:
    assert key((work("a", 3, 0, 0),)) == key((work("a", 3, 320, 320),))
    assert key((work("a", 3, 0, 0),)) != key((work("a", 4, 0, 0),))
    assert key((work("a", 3, 0, 0),)) != key((work("b", 3, 0, 0),))
    assert key((Loop(0, 3, (work("a", 3),)),)) != key((Loop(0, 4, (work("a", 3),)),))
