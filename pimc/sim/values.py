"""The value runner: executes a program's streams on the simulated memories.

Weights, constants and inputs are written to their places in the memory map, every command of every stream does what it
does, and outputs are read from their places. Streams are taken in any order that their signals, waits and exchanges
allow; `order` picks one, so that tests can look for what is not synchronised.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from pimc.backends.engines import Platform, platform_of
from pimc.backends.executors import Executor, Meetings, Semaphores, all_executors, executed
from pimc.backends.isa import Command, Signal, Wait
from pimc.backends.link.isa import Exchange, Party, meet
from pimc.backends.program import MapEntry, Program, Step
from pimc.backends.program import count as command_count
from pimc.backends.state import DeviceState, Space, ValueFormat
from pimc.ir.blocks import ENTRY_BYTES
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, did_you_mean, fail
from pimc.ir.layout import Layout
from pimc.ir.op import Array
from pimc.ir.requests import Rows
from pimc.ir.types import DType
from pimc.ir.weights import Sharded

Progress = Callable[[int, int], None]
"""Called now and then with the number of commands executed and their total."""
Order = int | str
"""forward: streams as the program lists them, each as far as it can. reverse: the last first. A number: a seed."""

PROGRESS_COMMANDS = 2000
YIELD = 0.3
"""With a random order, how often a stream gives way after a command."""


@dataclass
class RunState:
    """The memories of all devices, which may be carried from one program to the next (generation)."""

    devices: list[DeviceState]
    format: ValueFormat
    loaded: dict[tuple[int, str], tuple[str, Layout, DType]] = field(default_factory=dict)
    """Weights that lie in memory, with their places."""


def execute(
    program: Program,
    inputs: Mapping[str, Array],
    *,
    wide: bool,
    weights: Mapping[str, Array] | None = None,
    state: RunState | None = None,
    order: Order = "forward",
    progress: Progress | None = None,
    platform: Platform | None = None,
    received: Mapping[int, Mapping[int, Sequence[Array]]] | None = None,
) -> tuple[dict[str, Array], RunState]:
    """Run a program on values; the outputs by name (floats as float32), and the state it leaves.

    weights: arrays that take the place of the program's own. state: memories to go on with, into which only the given
    inputs and whatever weights are not there yet are written. received: what devices of another machine have sent, by
    their ranks, and by the ranks here.
    Raises CompileError: UNAVAILABLE, INPUT_BAD, WEIGHT_MISSING, PROGRAM_BAD, DEADLOCK.
    """
    check_computes(program)
    machine = platform or platform_of(program)
    checked = check_inputs(program, inputs, partial=state is not None)
    run = _grown(state, program, machine) if state is not None else _fresh(program, machine, ValueFormat(wide))
    _load(program, run, weights or {})
    for name, value in checked.items():
        for entry in _entries(program, name):
            for rank in entry.devices:
                _write(run, entry, rank, _part(value, entry.shard, rank))
    for sender, messages in (received or {}).items():
        for rank, values in messages.items():
            run.devices[rank].received[sender] = list(values)
    for device in run.devices:
        if "dram" in device.spaces:
            device.spaces["dram"].unmap()  # the streams read block tables for themselves
    with np.errstate(all="ignore"):
        _Runner(program, run, order, progress).run()
    return {name: read_output(program, run, name) for name in program.outputs}, run


def check_computes(program: Program) -> None:
    """Raises CompileError (UNAVAILABLE) for a program that has a time alone."""
    if program.no_values:
        raise fail(
            Kind.UNAVAILABLE,
            f"'{program.graph}' computes no values on {program.target_name}: {program.no_values}",
            help="leave out --values, or compile for a target with another mapping",
        )


# -- memories ---------------------------------------------------------------------------------------------------------


def _fresh(program: Program, machine: Platform, form: ValueFormat) -> RunState:
    run = RunState([], form)
    for rank in range(program.devices):
        spaces = {name: Space(name, size, form) for name, size in _sizes(program, machine).items()}
        run.devices.append(DeviceState(rank, spaces, form, machine.geometry, run.devices))
    return run


def _sizes(program: Program, machine: Platform) -> dict[str, int]:
    """Bytes of each space: on chip all there is, DRAM as far as the program uses it."""
    on_chip = {name: size for name, size in machine.spaces.items() if name != "dram"}
    return {**on_chip, **{name: max(size, on_chip.get(name, 0)) for name, size in program.extent.items()}}


def _grown(state: RunState, program: Program, machine: Platform) -> RunState:
    """The state with room for another program."""
    if len(state.devices) != program.devices:
        raise fail(
            Kind.PROGRAM_BAD, f"a program for {program.devices} devices cannot go on from one for {len(state.devices)}"
        )
    for device in state.devices:
        spaces = dict(device.spaces)
        for name, size in _sizes(program, machine).items():
            if name not in spaces:
                spaces[name] = Space(name, size, state.format)
            elif spaces[name].size < size:
                larger = Space(name, size, state.format)
                old = spaces[name]
                larger.write(0, [(old.size, 1)], DType.U8, old.read(0, [(old.size, 1)], DType.U8))
                spaces[name] = larger
        device.spaces = spaces
    return state


def _load(program: Program, run: RunState, override: Mapping[str, Array]) -> None:
    """Write constants, and the weights that the program before has not left in the same place."""
    before, run.loaded = run.loaded, {}
    for entry in program.memory:
        if entry.role not in ("weight", "constant", "table") or not entry.layout.elements:
            continue
        place = (entry.space, entry.layout, entry.dtype)
        kept = [r for r in entry.devices if entry.role == "weight" and before.get((r, entry.name)) == place]
        run.loaded |= {(rank, entry.name): place for rank in kept}
        ranks = [r for r in entry.devices if r not in kept]
        if not ranks:
            continue
        for rank, value in _contents(entry, ranks, override.get(entry.name)):
            if value.shape != entry.shape and value.size != int(np.prod(entry.shape)):
                raise fail(
                    Kind.INPUT_BAD, f"weight '{entry.name}' is {list(value.shape)}, its place is {list(entry.shape)}"
                )
            _write(run, entry, rank, value.reshape(entry.shape))
            run.loaded[rank, entry.name] = place


def _contents(entry: MapEntry, ranks: Sequence[int], override: Array | None) -> Iterator[tuple[int, Array]]:
    if override is not None:
        for rank in ranks:
            yield rank, _part(override, entry.shard, rank)
        return
    contents = entry.contents
    if contents is None:
        raise fail(Kind.WEIGHT_MISSING, f"{entry.role} '{entry.name}' has no data in the program")
    if isinstance(contents, Sharded) and contents.rank is None:
        whole = contents.whole.array()
        for rank in ranks:
            yield rank, _part(whole, (contents.axis, contents.count), rank)
        return
    value = contents.array()
    for rank in ranks:
        yield rank, value


def _part(whole: Array, shard: tuple[int, int] | None, rank: int) -> Array:
    """What a rank holds of a tensor."""
    if shard is None:
        return whole
    axis, count = shard
    length = whole.shape[axis] // count
    at = rank % count * length
    return whole[(slice(None),) * axis + (slice(at, at + length),)]


def _write(run: RunState, entry: MapEntry, rank: int, value: Array) -> None:
    if entry.rows is not None:
        value = _of_requests(entry, entry.rows, value)
    if value.size:
        _space(run, entry, rank).write_layout(entry.layout, entry.dtype, np.asarray(value))


def _space(run: RunState, entry: MapEntry, rank: int) -> Space:
    """The memory that a tensor lies in; if it is paged, as the block table there says."""
    space = run.devices[rank].spaces[entry.space]
    if entry.blocks is not None:
        window = entry.blocks.window
        space.map(window, space.read(entry.blocks.table, ((window.entries, ENTRY_BYTES),), DType.I32))
    return space


def _of_requests(entry: MapEntry, rows: Rows, value: Array) -> Array:
    """The requests of a place, each as far as it goes, with zeros behind."""
    if not rows.lengths:
        return value[list(rows.rows)]
    own = np.zeros(entry.shape, value.dtype)
    for at, (row, length) in enumerate(zip(rows.rows, rows.lengths, strict=True)):
        part = (slice(None),) * (rows.axis - 1) + (slice(0, length),)
        own[at][part] = value[row][part]
    return own


def _entries(program: Program, name: str) -> list[MapEntry]:
    """The places of a tensor; several where groups of devices keep their own."""
    return [e for e in program.memory if e.name == name]


def read_output(program: Program, run: RunState, name: str) -> Array:
    """A tensor out of its place; parts on several devices are joined."""
    entries = _entries(program, name)
    places = [e for e in entries if e.role == "output"] or entries[:1]
    if not places:
        raise fail(Kind.PROGRAM_BAD, f"output '{name}' has no place in the memory map")
    if all(e.rows is None for e in places):
        return _joined(run, places[0])
    whole: Array | None = None
    for entry in places:
        value, rows = _joined(run, entry), entry.rows
        assert rows is not None
        if whole is None:
            whole = np.zeros(entry.whole_shape, value.dtype)
        if not rows.lengths:
            whole[list(rows.rows)] = value
        for at, length in enumerate(rows.lengths):
            part = (slice(None),) * (rows.axis - 1) + (slice(0, length),)
            whole[rows.rows[at]][part] = value[at][part]
    assert whole is not None
    return whole


def _joined(run: RunState, entry: MapEntry) -> Array:
    """What lies in a place, over all devices that have a part of it."""
    if entry.shard is None:
        return _read(run, entry, entry.devices[0])
    axis, count = entry.shard
    holders = {rank % count: rank for rank in reversed(entry.devices)}
    return np.concatenate([_read(run, entry, holders[part]) for part in range(count)], axis)


def _read(run: RunState, entry: MapEntry, rank: int) -> Array:
    if 0 in entry.shape:
        return np.empty(entry.shape, np.float32 if entry.dtype.is_float else entry.dtype.numpy)
    value = _space(run, entry, rank).read_layout(entry.layout, entry.dtype, entry.shape)
    return value if entry.dtype.is_float else value.astype(entry.logical.numpy)


# -- inputs -----------------------------------------------------------------------------------------------------------


def check_inputs(program: Program, inputs: Mapping[str, Array], *, partial: bool = False) -> dict[str, Array]:
    """The inputs as arrays, if they fit the program. Raises CompileError (INPUT_BAD) with everything that is wrong."""
    wrong: list[Diagnostic] = []
    checked: dict[str, Array] = {}
    for name, given in inputs.items():
        entries = _entries(program, name) if name in program.inputs else []
        if not entries:
            help = did_you_mean(name, program.inputs)
            wrong.append(Diagnostic(Kind.INPUT_BAD, f"the program has no input '{name}'", help=help))
            continue
        value = np.asarray(given)
        problem = _misfit(entries[0], value)
        if problem:
            wrong.append(Diagnostic(Kind.INPUT_BAD, f"input '{name}' {problem}"))
        checked[name] = value
    if not partial:
        for name in program.inputs:
            entries = _entries(program, name)
            if name not in inputs and any(e.layout.elements for e in entries):
                shape = list(entries[0].whole_shape)
                text = f"input '{name}' ({entries[0].logical.text}{shape}) is not given"
                wrong.append(Diagnostic(Kind.INPUT_BAD, text))
    if wrong:
        raise CompileError(wrong)
    return checked


def _misfit(entry: MapEntry, value: Array) -> str:
    if value.shape != entry.whole_shape:
        return f"has shape {list(value.shape)}, the program was compiled for {list(entry.whole_shape)}"
    floating = value.dtype.kind not in "iub"
    if floating and value.dtype.name not in ("float16", "bfloat16", "float32", "float64"):
        return f"has elements of type {value.dtype}, the program takes {entry.logical.text}"
    if floating != entry.logical.is_float or (value.dtype.kind == "b") != (entry.logical is DType.BOOL):
        return f"has elements of type {value.dtype}, the program takes {entry.logical.text}"
    if entry.contents is not None and not np.array_equal(value, made_for := entry.contents.array()):
        return f"holds {value.tolist()}, but the program was compiled for {made_for.tolist()}, which shapes depend on"
    return ""


# -- execution --------------------------------------------------------------------------------------------------------


class _Runner:
    def __init__(self, program: Program, run: RunState, order: Order, progress: Progress | None) -> None:
        self._program = program
        self._run = run
        self._executors = all_executors(program)
        self._tokens: Semaphores[None] = Semaphores(self._executors)
        self._meetings = Meetings(self._executors)
        self._order = order
        self._chance = random.Random(order if isinstance(order, int) else 0)
        self._progress = progress
        self._done = 0
        self._total = sum(command_count(e.items) for e in self._executors)
        self._walks = [executed(e.items, e.variables) for e in self._executors]
        self._at: dict[int, Step] = {}
        self._waiters: dict[tuple[int, int], list[int]] = defaultdict(list)

    def run(self) -> None:
        runnable = [e.index for e in self._executors]
        while runnable:
            index = self._pick(runnable)
            runnable += self._advance(self._executors[index])
        if self._progress is not None:
            self._progress(self._done, self._total)
        if self._at:
            raise self._deadlock()

    def _pick(self, runnable: list[int]) -> int:
        if isinstance(self._order, int):
            return runnable.pop(self._chance.randrange(len(runnable)))
        chosen = max(runnable) if self._order == "reverse" else runnable[0]
        runnable.remove(chosen)
        return chosen

    def _advance(self, executor: Executor) -> Iterable[int]:
        """Execute as far as the stream gets, or till somebody else may go on; who can go on now."""
        walk = self._walks[executor.index]
        while (step := self._at.pop(executor.index, None) or next(walk, None)) is not None:
            self._count()
            match step.command:
                case Signal(semaphore=int() as number):
                    self._tokens.post(executor, number, None)
                    freed = self._waiters.pop((executor.rank, number), [])
                    if freed:
                        return [*freed, executor.index] if self._order != "forward" else [executor.index, *freed]
                case Wait(semaphore=int() as number):
                    if self._tokens.take(executor, number) is None:
                        self._at[executor.index] = step
                        self._waiters[executor.rank, number].append(executor.index)
                        return ()
                case Exchange() as command:
                    self._at[executor.index] = step
                    members = self._meetings.arrive(executor, command)
                    if members is None:
                        return ()
                    self._meet(members)
                    return members
                case command:
                    self._execute(executor, command)
                    if isinstance(self._order, int) and self._chance.random() < YIELD:
                        return [executor.index]
        return ()

    def _meet(self, members: Sequence[int]) -> None:
        parties = []
        for member in members:
            command = self._at.pop(member).command
            assert isinstance(command, Exchange)
            parties.append(Party(command, self._run.devices[self._executors[member].rank]))
        meet(parties)

    def _execute(self, executor: Executor, command: Command) -> None:
        state = self._run.devices[executor.rank]
        state.channel = executor.instance
        try:
            command.execute(state)
        except CompileError as error:
            first = error.diagnostics[0]
            raise fail(first.kind, f"{command.mnemonic} ({executor}): {first.message}", help=first.help) from None
        except (ValueError, IndexError, KeyError, TypeError, OverflowError, ZeroDivisionError) as error:
            raise fail(Kind.PROGRAM_BAD, f"{command.mnemonic} ({executor}) cannot be executed: {error}") from error

    def _count(self) -> None:
        self._done += 1
        if self._progress is not None and self._done % PROGRESS_COMMANDS == 0:
            self._progress(self._done, self._total)

    def _deadlock(self) -> CompileError:
        rows = self._program.ops
        notes = []
        for index, step in sorted(self._at.items())[:12]:
            op = rows[step.op].name if 0 <= step.op < len(rows) else "?"
            notes.append(f"{self._executors[index]} is held at {step.command.mnemonic} of op '{op}'")
        return fail(Kind.DEADLOCK, f"{len(self._at)} streams wait for ever", notes=notes)
