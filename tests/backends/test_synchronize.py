"""Streams split from a random sequential program, run in any order that their waits allow, compute the same."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pytest

from pimc.backends.affine import Scalar, variable
from pimc.backends.isa import Command, Region, Signal, Wait, command, operand
from pimc.backends.program import Item, Loop, Step, unrolled
from pimc.backends.synchronize import Streams, split_streams

ENGINES = ("load", "npu", "store")
CELLS = 64


@command
@dataclass(frozen=True, slots=True)
class Mix(Command):
    """Test command: cells [dst, dst+length) become a hash of themselves, of cells at src, and of `salt`."""

    mnemonic: ClassVar[str] = "TEST.MIX"
    dst: Scalar = operand("first cell written")
    src: Scalar = operand("first cell read")
    length: Scalar = operand("cells")
    salt: Scalar = operand("what tells this command from others")

    def regions(self) -> Iterator[Region]:
        assert isinstance(self.length, int)
        yield Region("cells", self.src, self.length, write=False)
        yield Region("cells", self.dst, self.length, write=True)


def random_items(rng: random.Random, depth: int, loops: tuple[int, ...], numbers: Iterator[int]) -> tuple[Item, ...]:
    items: list[Item] = []
    for _ in range(rng.randint(1, 4)):
        if depth < 2 and rng.random() < 0.4:
            number = next(numbers)
            items.append(Loop(number, rng.randint(2, 4), random_items(rng, depth + 1, (*loops, number), numbers)))
        else:
            items.append(Step(rng.choice(ENGINES), random_command(rng, loops)))
    return tuple(items)


def random_command(rng: random.Random, loops: Sequence[int]) -> Mix:
    def address() -> Scalar:
        at: Scalar = rng.randint(0, 8)
        for loop in loops:
            at = at + variable(loop) * rng.choice([0, 0, 1, 2, 3])
        return at

    return Mix(address(), address(), rng.randint(1, 2), rng.randint(0, 1000))


def apply(cells: list[int], item: Command) -> None:
    assert isinstance(item, Mix)
    assert isinstance(item.dst, int) and isinstance(item.src, int) and isinstance(item.length, int)
    for i in range(item.length):
        cells[item.dst + i] = hash((cells[item.dst + i], cells[item.src + i], item.salt))


def run_sequential(items: tuple[Item, ...]) -> list[int]:
    cells = [0] * CELLS
    for step in unrolled(items):
        apply(cells, step.command)
    return cells


def run_streams(streams: Streams, rng: random.Random) -> list[int]:
    cells = [0] * CELLS
    tokens: dict[Scalar, int] = {}
    queues = {engine: list(unrolled(items)) for engine, items in streams.items()}
    heads = dict.fromkeys(queues, 0)
    while True:
        ready = []
        for engine, queue in queues.items():
            if heads[engine] < len(queue):
                head = queue[heads[engine]].command
                if not isinstance(head, Wait) or tokens.get(head.semaphore, 0) > 0:
                    ready.append(engine)
        if not ready:
            break
        engine = rng.choice(ready) if rng.random() < 0.7 else ready[0]
        head = queues[engine][heads[engine]].command
        heads[engine] += 1
        if isinstance(head, Signal):
            tokens[head.semaphore] = tokens.get(head.semaphore, 0) + 1
        elif isinstance(head, Wait):
            tokens[head.semaphore] -= 1
        else:
            apply(cells, head)
    assert all(heads[e] == len(q) for e, q in queues.items()), "deadlock"
    assert not any(tokens.values()), "a token was left over"
    return cells


@pytest.mark.parametrize("seed", range(150))
def test_any_order_that_the_waits_allow_gives_the_sequential_result(seed: int) -> None:
    rng = random.Random(seed)
    items = random_items(rng, 0, (), iter(range(1000)))
    streams = split_streams(items)
    expected = run_sequential(items)
    for _ in range(4):
        assert run_streams(streams, rng) == expected


def test_double_buffers_overlap() -> None:
    """Loads run ahead of compute by the number of buffers, not in lock-step with it."""
    i = variable(0)
    body = tuple(
        item
        for slot in range(2)
        for item in (
            Step("load", Mix(slot * 2, 20, 1, 1)),
            Step("npu", Mix(10, slot * 2, 1, 2)),
        )
    )
    del i
    streams = split_streams((Loop(0, 8, body),))
    ahead = run_ahead(streams, "load")
    assert ahead == 2


def run_ahead(streams: Streams, engine: str) -> int:
    """How many commands an engine can execute when all others stand still once they have given first tokens."""
    tokens: dict[Scalar, int] = {}
    for other, items in streams.items():
        for step in unrolled(items):
            if other != engine:
                if not isinstance(step.command, Signal):
                    break
                tokens[step.command.semaphore] = tokens.get(step.command.semaphore, 0) + 1
    done = 0
    for step in unrolled(streams[engine]):
        if isinstance(step.command, Wait):
            if not tokens.get(step.command.semaphore):
                break
            tokens[step.command.semaphore] -= 1
        elif not isinstance(step.command, Signal):
            done += 1
    return done


def test_what_nobody_writes_needs_no_order() -> None:
    streams = split_streams((Step("load", Mix(0, 20, 1, 1)), Step("npu", Mix(5, 20, 1, 1))))
    assert all(isinstance(step.command, Mix) for items in streams.values() for step in unrolled(items))
