"""The one sequential program that lowering writes, before it is split into a stream per engine.

Lowering issues commands for all engines in program order, with counted loops; `i` in `with emit.loop(n) as i` is an
operand (`base + i * stride`). What may overlap is found afterwards from the memory that commands read and write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from pimc.backends.affine import Affine, Scalar, variable
from pimc.backends.isa import Command
from pimc.backends.program import Item, Loop, Step
from pimc.backends.timing import EngineDecl
from pimc.backends.vector import Elementwise, Reduce, Scan
from pimc.ir.blocks import Window


class MissingEngineError(Exception):
    """A command for an engine that the machine does not have; its argument is the engine's name."""


class Emitter:
    """Collects steps and loops in program order. `op` is the row of the op table that new commands belong to."""

    def __init__(
        self,
        engines: Iterable[EngineDecl] = (),
        moves: str = "load",
        windows: Iterable[Window] = (),
        lanes: Mapping[str, int] | None = None,
    ) -> None:
        """engines: those of the machine, with their further queues. moves: the queue of copies on chip. windows: of
        paged caches. lanes: of the vector units of kinds of engines, where they may not have the usual number."""
        self.moves = moves
        self.lanes = lanes or {}
        self._windows = sorted(set(windows), key=lambda w: w.start)
        self.op = -1
        self.queue = ""
        """what copies and vector work are for, if that has queues of its own"""
        engines = list(engines)
        self._engines = {e.name for e in engines}
        self._queues = {(e.of, e.queue): e for e in engines if e.queue}
        self._next_variable = 0
        self._stack: list[list[Item]] = [[]]

    def issue(self, engine: str, command: Command, instances: tuple[int, ...] | None = None) -> None:
        """Append one command for an engine, or for some of its instances (channels). Raises MissingEngineError."""
        if engine not in self._engines and self._engines:
            raise MissingEngineError(engine)
        other = self._queues.get((engine, self.queue))
        if other is not None and (other.kind != "npu" or _is_vector(command)):
            engine = other.name
        self._stack[-1].append(Step(engine, command, self.op, instances))

    def block_bytes(self, address: Scalar) -> int:
        """The size of blocks where an address is one of a paged cache; 0: it is none."""
        first = address.base if isinstance(address, Affine) else address
        if not self._windows or first < self._windows[0].start:
            return 0
        return next((w.block_bytes for w in self._windows if w.start <= first < w.end), 0)

    @contextmanager
    def on_op(self, op: int) -> Iterator[None]:
        """What is issued inside belongs to the op of another row of the table, if it belongs to any."""
        own = self.op
        self.op = op if own >= 0 else own
        yield
        self.op = own

    def of_op(self, further: int) -> AbstractContextManager[None]:
        """The same, so many rows further on."""
        return self.on_op(self.op + further)

    @contextmanager
    def loop(self, count: int) -> Iterator[Scalar]:
        """Repeat what is issued inside; yields the counter. No loop is made for a single turn, nothing for none."""
        if count == 1:
            yield 0
            return
        number = self._next_variable
        self._next_variable += 1
        self._stack.append([])
        yield variable(number)
        body = tuple(self._stack.pop())
        if count > 0 and body:
            self._stack[-1].append(Loop(number, count, body))

    def tiles(self, count: int, slots: int = 2) -> Iterator[tuple[Scalar, int]]:
        """Turns 0..count-1 as (turn, slot) with slot = turn % slots, so that buffers can alternate.

        The caller's body runs once per slot inside one loop, and once for each turn left over.
        """
        whole = count // slots
        if whole > 1:
            with self.loop(whole) as i:
                for slot in range(slots):
                    yield i * slots + slot, slot
            start = whole * slots
        else:
            start = 0
        for turn in range(start, count):
            yield turn, turn % slots

    @property
    def level(self) -> tuple[int, int]:
        """How many items there are outside of loops, and the number of the next loop's variable."""
        return len(self._stack[0]), self._next_variable

    def since(self, level: tuple[int, int]) -> tuple[Item, ...]:
        """The items that have come since then."""
        return tuple(self._stack[0][level[0] :])

    def back_to(self, level: tuple[int, int]) -> None:
        """Forget what has come since then."""
        self._stack = [self._stack[0][: level[0]]]
        self._next_variable = level[1]

    def again(self, items: tuple[Item, ...], next_variable: int) -> None:
        """Append what was emitted before from the same level on."""
        self._stack[0] += items
        self._next_variable = next_variable

    def take(self) -> tuple[Item, ...]:
        """The items so far; the emitter starts anew."""
        items = tuple(self._stack[0])
        self._stack = [[]]
        return items


def _is_vector(command: Command) -> bool:
    """Whether a command is for a vector unit alone."""
    return isinstance(command, Elementwise | Reduce | Scan)


@dataclass
class Scratch:
    """Addresses for short-lived operands in an on-chip space: a ring of `capacity` bytes from `base`.

    Takes whose sizes add up to at most half of the capacity never overlap. Reuse of older ones is safe, since streams
    are synchronised by what commands read and write.
    """

    base: int
    capacity: int
    alignment: int = 64
    _next: int = 0

    def take(self, size: int) -> int:
        """The address of `size` fresh bytes."""
        rounded = -(-size // self.alignment) * self.alignment
        if rounded > self.capacity:
            raise ValueError(f"{size} bytes do not fit a scratch area of {self.capacity}")
        if self._next + rounded > self.capacity:
            self._next = 0
        address = self.base + self._next
        self._next += rounded
        return address

    @property
    def position(self) -> int:
        """Where the next bytes are looked for."""
        return self._next

    def resume(self, position: int) -> None:
        """Go on from there."""
        self._next = position

    def restart(self) -> None:
        """Begin again at the base, so that equal layers get equal addresses."""
        self._next = 0

    @property
    def budget(self) -> int:
        """Bytes that one kernel may hold at a time."""
        return self.capacity // 2
