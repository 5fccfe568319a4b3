"""A small machine for tests: two kinds of commands, timers with a pipeline, open rows and shared resources."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import ClassVar

from pimc.backends.affine import Scalar
from pimc.backends.engines import Platform
from pimc.backends.isa import COMMANDS, Command, Region, address, choice, command, operand
from pimc.backends.program import Item, OpRow, Program, Step, Stream
from pimc.backends.state import DeviceState, DramGeometry
from pimc.backends.timing import EngineDecl, Issued, Resource, Resources
from pimc.ir.types import DType


@command
@dataclass(frozen=True, slots=True)
class Work(Command):
    """Add the bytes at `src` to those at `dst` (i32), in `cycles` clocks."""

    mnemonic: ClassVar[str] = "TESTWORK"
    unit: ClassVar[str] = "test"
    cycles: Scalar = operand("clocks")
    src: Scalar = address("first byte read", 0)
    dst: Scalar = address("first byte written", 0)
    length: int = operand("bytes", 4)
    row: Scalar = operand("row that must be open", 0)
    mode: str = choice("what to do", ("add", "copy"), "add")

    def regions(self) -> Iterator[Region]:
        yield Region("buffer", self.src, self.length, False)
        yield Region("buffer", self.dst, self.length, True)

    def execute(self, state: DeviceState) -> None:
        space = state.spaces["buffer"]
        assert isinstance(self.src, int)
        assert isinstance(self.dst, int)
        digits = [(self.length // 4, 4)]
        old = space.read(self.dst, digits, DType.I32)
        new = space.read(self.src, digits, DType.I32)
        space.write(self.dst, digits, DType.I32, new + old * (self.mode == "add") + state.channel)


del COMMANDS["TESTWORK"]  # declared, but no command of pimc


@dataclass
class FakeTimer:
    """Issues a command every half of its time; a row switch costs 7 clocks; `shared` resources are held meanwhile."""

    clock_ps: int
    resources: list[Resource]
    row_matters: bool = False
    counters: Counter[str] = field(default_factory=Counter)
    free_at: int = 0
    row: int = 0

    def issue(self, command: Command, ready: int) -> Issued:
        assert isinstance(command, Work)
        assert isinstance(command.cycles, int)
        assert isinstance(command.row, int)
        start, cause = max(ready, self.free_at), "unit"
        duration = command.cycles * self.clock_ps
        if self.row_matters and command.row % 4 != self.row:
            start, cause = start + 7 * self.clock_ps, "row"
            self.row = command.row % 4
        for resource in self.resources:
            at = resource.acquire(start, duration // 2)
            start, cause = (at, resource.name) if at > start else (start, cause)
        self.free_at = start + duration
        self.counters["bytes"] += command.length
        return Issued(start, start + duration // 2, start + duration, duration, cause if start > ready else "")

    def signature(self, command: Command) -> Hashable:
        assert isinstance(command, Work)
        return (command.cycles, command.row) if self.row_matters else command.cycles

    def relative(self, now: int) -> Hashable | None:
        return (max(0, self.free_at - now), self.row)

    def shift(self, by: int, since: int) -> None:
        self.free_at += by


ENGINES = {
    "a": EngineDecl("a", "test", 1000, 1, frozenset({"test"})),
    "b": EngineDecl("b", "test", 700, 1, frozenset({"test"})),
    "c": EngineDecl("c", "test", 900, 1, frozenset({"test"})),
    "many": EngineDecl("many", "test", 1000, 4, frozenset({"test"})),
}
BUFFER_BYTES = 4096


def platform(shared: dict[str, tuple[str, ...]] | None = None) -> Platform:
    """shared: the resources that each engine holds."""

    def timer(engine: EngineDecl, resources: Resources) -> FakeTimer:
        names = (shared or {}).get(engine.name, ())
        return FakeTimer(engine.clock_ps, [resources[n] for n in names], engine.name in ("b", "many"))

    return Platform(ENGINES, timer, 1000, DramGeometry(2, 2, 4, 64), {"dram": 1024, "buffer": BUFFER_BYTES})


def program(streams: dict[str, tuple[Item, ...]], *, ops: int = 4, devices: int = 1) -> Program:
    ranks = tuple(range(devices))
    source = 'm.onnx: node "n"'
    rows = tuple(OpRow(f"op{i}", "add", source, (), "decode", "gemv", "a", "why", 8, 8) for i in range(ops))
    return Program(
        graph="test",
        dims={"batch": 2},
        phase="decode",
        target={"name": "fake"},
        target_name="fake",
        target_hash="0" * 64,
        devices=devices,
        streams=tuple(Stream(e, ranks, tuple(range(ENGINES[e].instances)), items) for e, items in streams.items()),
        memory=(),
        ops=rows,
        extent={"buffer": BUFFER_BYTES},
    )


def work(engine: str, cycles: Scalar, src: Scalar = 0, dst: Scalar = 0, op: int = 0, row: Scalar = 0) -> Step:
    return Step(engine, Work(cycles, src, dst, 4, row), op)
