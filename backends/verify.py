"""Checks a program without running it: operands, memory map, synchronisation.

`verify_program` raises every mistake it finds. `check_races` unrolls a (small) program and reports accesses of the same
memory that nothing orders.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from math import prod

import numpy as np

from pimc.backends.affine import DEVICE, INSTANCE, Affine, Scalar
from pimc.backends.engines import Platform, platform_of
from pimc.backends.executors import Executor, Meetings, Semaphores, executed, representatives, selected
from pimc.backends.isa import SYNCHRONISING, Command, Signal, Wait
from pimc.backends.link.isa import Exchange
from pimc.backends.overlap import overlaps
from pimc.backends.program import Item, Loop, MapEntry, Program, Step, Stream
from pimc.backends.program import count as command_count
from pimc.backends.token_counts import unbalanced
from pimc.ir.blocks import NO_BLOCK
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind

MOST_MISTAKES = 20
"""How many are reported of each sort."""

MOST_DEVICES = 1 << 16
MOST_SEMAPHORES = 1 << 16
"""Semaphores that one command may go through."""
MOST_TOKENS = 20_000_000
"""Signals and waits beyond which deadlocks are left to the simulator to find."""

SOUND = "sound"
"""Of a program: nothing is wrong with it."""

LASTING = ("weight", "constant", "cache", "table")
"""Roles whose memory belongs to them alone for good."""


def verify_program(program: Program, platform: Platform | None = None, *, timed: bool = False) -> None:
    """Raise CompileError with all that is wrong: PROGRAM_BAD, DEADLOCK.

    On its own machine a sound program is looked at once; platform: another machine.
    timed: the simulator executes the program next, and finds deadlocks that signals and waits lead to which pair up.
    """
    if platform is None and SOUND in program.known:
        return
    machine = platform or platform_of(program)
    wrong = list(_limits(program)) or [*_streams(program, machine), *_memory(program, machine)]
    if not wrong:  # tokens of a program with wrong streams would only repeat what is wrong
        wrong = list(_synchronisation(program, timed=timed))
    if wrong:
        raise CompileError(wrong)
    if platform is None and not timed:
        program.known.add(SOUND)


def _bad(message: str, *, help: str | None = None) -> Diagnostic:
    return Diagnostic(Kind.PROGRAM_BAD, message, help=help)


def _limits(program: Program) -> Iterator[Diagnostic]:
    """Numbers beyond which nothing else is looked at."""
    if not 1 <= program.devices <= MOST_DEVICES:
        yield _bad(f"the program is for {program.devices} devices; 1 to {MOST_DEVICES} can be simulated")
    for stream in program.streams:
        ranges = {DEVICE: len(stream.devices), INSTANCE: len(stream.instances)}
        yield from (
            _bad(f"{_where(program, step)} is for more than {MOST_SEMAPHORES} semaphores")
            for step, reached in _semaphores(stream.items, ranges)
            if reached > MOST_SEMAPHORES
        )


def _semaphores(items: tuple[Item, ...], ranges: dict[int, int]) -> Iterator[tuple[Step, int]]:
    """Signals and waits, with the number of combinations that their operand's variables go through."""
    for item in items:
        if isinstance(item, Loop):
            yield from _semaphores(item.body, {**ranges, item.variable: item.count})
        elif isinstance(item.command, SYNCHRONISING) and isinstance(item.command.semaphore, Affine):
            yield item, prod(max(1, ranges[v]) for v, _ in item.command.semaphore.terms)


# -- streams ----------------------------------------------------------------------------------------------------------


def _streams(program: Program, machine: Platform) -> Iterator[Diagnostic]:
    taken: dict[tuple[str, int, int], int] = {}
    for number, stream in enumerate(program.streams):
        decl = machine.engines.get(stream.engine)
        if decl is None:
            known = ", ".join(machine.engines)
            yield _bad(f"stream {number} is for engine '{stream.engine}', which {program.target_name} lacks ({known})")
            continue
        if any(not 0 <= rank < program.devices for rank in stream.devices):
            yield _bad(f"stream {number} ({stream.engine}) is for devices beyond the program's {program.devices}")
        if any(not 0 <= i < decl.instances for i in stream.instances):
            yield _bad(f"stream {number} is for instances of {stream.engine} beyond its {decl.instances}")
        for key in ((stream.engine, rank, i) for rank in stream.devices for i in stream.instances):
            if taken.setdefault(key, number) != number:
                yield _bad(f"streams {taken[key]} and {number} are for the same {key[0]} of device {key[1]}")
                break
    for stream in _alike(program.streams):
        decl = machine.engines.get(stream.engine)
        if decl is not None:
            accepted = decl.units or frozenset({decl.kind})
            ranges = {DEVICE: _reach(stream.devices), INSTANCE: _reach(stream.instances)}
            yield from _few(_commands(program, machine, stream, stream.items, accepted, ranges))


def _alike(streams: Iterable[Stream]) -> Iterator[Stream]:
    """Streams of which those with the same items are one, for the devices of all of them: what a command touches is
    largest and least on the first and the last of these."""
    groups: dict[tuple[str, int, tuple[int, ...]], list[Stream]] = defaultdict(list)
    for stream in streams:
        groups[stream.engine, id(stream.items), stream.instances].append(stream)
    for first, *others in groups.values():
        yield replace(first, devices=tuple(rank for stream in (first, *others) for rank in stream.devices))


def _few(found: Iterator[Diagnostic]) -> Iterator[Diagnostic]:
    for count, diagnostic in enumerate(found):
        if count == MOST_MISTAKES:
            return
        yield diagnostic


Ranges = dict[int, tuple[int, int]]
"""Least and greatest value of each variable."""


def _commands(
    program: Program,
    machine: Platform,
    stream: Stream,
    items: tuple[Item, ...],
    accepted: frozenset[str],
    ranges: Ranges,
) -> Iterator[Diagnostic]:
    for item in items:
        if isinstance(item, Loop):
            if item.count < 0:
                yield _bad(f"a loop in the stream of {stream.engine} has {item.count} turns")
            elif item.count:
                inner = {**ranges, item.variable: (0, item.count - 1)}
                yield from _commands(program, machine, stream, item.body, accepted, inner)
            continue
        if item.command.unit and item.command.unit not in accepted:
            units, where = ", ".join(sorted(accepted)), _where(program, item)
            yield _bad(f"{where} is for a unit '{item.command.unit}'; {stream.engine} takes {units}")
        elif not -1 <= item.op < len(program.ops):
            yield _bad(f"{_where(program, item)} belongs to op {item.op}, and there are {len(program.ops)}")
        elif not isinstance(item.command, SYNCHRONISING):
            for wrong in _wrong_operands(program, machine, item.command, ranges):
                yield replace(wrong, message=f"{_where(program, item)}{wrong.message}")


def _wrong_operands(program: Program, machine: Platform, command: Command, ranges: Ranges) -> list[Diagnostic]:
    """What is wrong with a command, as what follows its name."""
    stride = machine.geometry.stride_row
    try:
        regions = [region.flat(stride) for region in command.regions()]
    except CompileError as error:
        return [replace(d, message=f": {d.message}") for d in error.diagnostics]
    except (ValueError, TypeError, KeyError, IndexError) as error:
        return [_bad(f" has impossible operands: {error}")]
    found: list[Diagnostic] = []
    for space, start, length, writes, _ in regions:
        if length < 0:
            found.append(_bad(f" touches {length} bytes of '{space}'"))
            continue
        size = program.extent.get(space, machine.spaces.get(space))
        low, high = _reached(start, ranges)
        beyond = size is not None and length and (low < 0 or high + length > size)
        if beyond and not _in_windows(program, machine, space, (low, high + length)):
            verb = "writes" if writes else "reads"
            found.append(_bad(f" {verb} bytes {low} to {high + length} of '{space}', which has {size}"))
    return found


def _in_windows(program: Program, machine: Platform, space: str, span: tuple[int, int]) -> bool:
    """Whether addresses are those of paged caches: rows of banks that begin in the middle of a window's are, too."""
    if space != "dram" or span[0] < machine.geometry.bytes:
        return False
    row = machine.geometry.stride_row
    at = span[0]
    for start, end in windows_of(program):
        if start // row * row <= at < -(-end // row) * row:
            at = -(-end // row) * row + row  # what is between windows is nobody's
        if at >= span[1]:
            return True
    return at - row >= span[1]


def windows_of(program: Program) -> list[tuple[int, int]]:
    """First and last address of the windows of paged caches, in their order."""
    found = {(w.start, w.end) for e in program.memory if e.blocks is not None for w in (e.blocks.window,)}
    return sorted(found)


def _reach(numbers: tuple[int, ...]) -> tuple[int, int]:
    return (min(numbers), max(numbers)) if numbers else (0, 0)


def _reached(scalar: Scalar, ranges: Ranges) -> tuple[int, int]:
    """Least and greatest value."""
    if isinstance(scalar, int):
        return scalar, scalar
    low = high = scalar.base
    for variable, c in scalar.terms:
        ends = c * ranges[variable][0], c * ranges[variable][1]
        low, high = low + min(ends), high + max(ends)
    return low, high


def _where(program: Program, step: Step) -> str:
    op = f" of op '{program.ops[step.op].name}'" if 0 <= step.op < len(program.ops) else ""
    return f"{step.command.mnemonic}{op} ({step.engine})"


# -- memory map -------------------------------------------------------------------------------------------------------


def _memory(program: Program, machine: Platform) -> Iterator[Diagnostic]:
    for space, used in program.extent.items():
        size = machine.spaces.get(space)
        if size is not None and used > size:
            yield _bad(f"the program uses {used} bytes of '{space}', which has {size}")
    names: dict[str, set[tuple[int, int]]] = {}
    for entry in program.memory:
        rows = entry.rows.rows if entry.rows is not None else (-1,)
        held = {(rank, row) for rank in entry.devices for row in rows}
        if names.get(entry.name, set()) & held:
            yield _bad(f"the memory map has '{entry.name}' twice for one device")
        names.setdefault(entry.name, set()).update(held)
        size = program.extent.get(entry.space)
        low, high = span(entry)
        if size is None:
            yield _bad(f"'{entry.name}' lies in '{entry.space}', of which the program uses nothing")
        elif entry.blocks is not None:
            yield from _few(_wrong_blocks(program, entry, size))
        elif low < 0 or high > size:
            yield _bad(f"'{entry.name}' lies at bytes {low} to {high} of '{entry.space}', of which {size} are used")
        if entry.alias is not None and program.entry(entry.alias) is None:
            yield _bad(f"'{entry.name}' shares the memory of '{entry.alias}', which is not in the memory map")
        if any(not 0 <= rank < program.devices for rank in entry.devices):
            yield _bad(f"'{entry.name}' lies on devices beyond the program's {program.devices}")
    for name in (*program.inputs, *program.outputs):
        if name not in names:
            yield _bad(f"'{name}' is an input or output and has no place in the memory map")
    if not program.no_values:  # operands may lie in each other's place then
        yield from _few(_overlaps(program))


def _wrong_blocks(program: Program, entry: MapEntry, size: int) -> Iterator[Diagnostic]:
    """A paged cache lies in its window, its pool in the memory, and its table is one."""
    assert entry.blocks is not None
    blocks, window = entry.blocks, entry.blocks.window
    low, high = span(entry)
    if entry.layout.elements and not (window.start <= low and high <= window.end):
        yield _bad(f"'{entry.name}' lies at {low} to {high}, outside of its window {window.start} to {window.end}")
    first, length = blocks.pool
    if first < 0 or first + length > size:
        yield _bad(f"the blocks of '{entry.name}' lie at bytes {first} to {first + length}, of which {size} are used")
    table = next((e for e in program.memory if e.role == "table" and e.layout.offset == blocks.table), None)
    if table is None or table.contents is None:
        yield _bad(f"'{entry.name}' has no block table")
        return
    held = table.contents.array().reshape(-1)
    if held.size != window.entries or held.min() < NO_BLOCK or held.max() >= blocks.pool_blocks:
        yield _bad(f"the table '{table.name}' does not name blocks of '{entry.name}'")
        return
    for lane in held.reshape(window.blocks, window.lanes).T:
        own = lane[lane != NO_BLOCK]
        if len(np.unique(own)) < len(own):
            yield _bad(f"the table '{table.name}' gives a block to two")
            return


def span(entry: MapEntry) -> tuple[int, int]:
    return entry.layout.span(max(1, entry.dtype.bits // 8))


def _overlaps(program: Program) -> Iterator[Diagnostic]:
    """Entries that claim the same bytes although both are needed: a sweep over spans finds candidates."""
    rows = [(entry.space, *span(entry), i) for i, entry in enumerate(program.memory) if entry.layout.elements]
    alive: list[tuple[int, MapEntry]] = []
    space = ""
    for here, low, high, index in sorted(rows):
        entry = program.memory[index]
        if here != space:
            space, alive = here, []
        alive = [(end, other) for end, other in alive if end > low]
        for _, other in alive:
            if _exclusive(entry, other) and not _shared(entry, other) and overlaps(entry, other):
                yield _bad(f"{other.role} '{other.name}' and {entry.role} '{entry.name}' overlap in '{space}'")
        alive.append((high, entry))


def _exclusive(first: MapEntry, second: MapEntry) -> bool:
    """Whether both need their memory at the same time, as far as their roles tell."""
    roles = {first.role, second.role}
    return "temporary" not in roles or bool(roles & set(LASTING))


def _shared(first: MapEntry, second: MapEntry) -> bool:
    aliased = first.alias == second.name or second.alias == first.name
    same = first.alias is not None and first.alias == second.alias
    return aliased or same or not set(first.devices) & set(second.devices)


# -- synchronisation --------------------------------------------------------------------------------------------------


def _synchronisation(program: Program, *, timed: bool) -> Iterator[Diagnostic]:
    """Execute signals, waits and meetings alone: a run that stops early is a deadlock. Then count them."""
    executors = representatives(program)
    blocked = [] if timed else list(_deadlocked(program, executors))
    if blocked:
        yield Diagnostic(
            Kind.DEADLOCK,
            f"{len(blocked)} of {len(executors)} streams wait for ever",
            notes=tuple(blocked[:MOST_MISTAKES]),
            help="signals and waits of each semaphore must pair up, and meetings be reached in the same order",
        )
        return
    for count, (rank, number, posted, taken) in enumerate(unbalanced(executors)):
        if count < MOST_MISTAKES:
            yield _bad(f"semaphore {number} of device {rank} is signalled {posted} times and awaited {taken} times")


def _deadlocked(program: Program, executors: Sequence[Executor]) -> Iterator[str]:
    """The streams that wait for ever, with what each waits for; nothing where there are too many tokens."""
    whole = {id(e.items): e.items for e in executors}
    kept = {key: selected(items, lambda c: isinstance(c, Signal | Wait | Exchange)) for key, items in whole.items()}
    alone = [replace(executor, items=kept[id(executor.items)]) for executor in executors]
    if sum(command_count(e.items) for e in alone) <= MOST_TOKENS:
        tokens: Semaphores[None] = Semaphores(alone)
        for executor, step in run_tokens(alone, tokens):
            yield _blocked(program, alone, tokens, executor, step)


def run_tokens(executors: list[Executor], tokens: Semaphores[None]) -> list[tuple[Executor, Step]]:
    """Let every executor go as far as it can, in turn; what is left is blocked, each with the command it is at."""
    walks = {e.index: executed(e.items, e.variables) for e in executors}
    meetings = Meetings(executors)
    waiting: dict[int, Step] = {}
    waiters: dict[tuple[int, int], list[Executor]] = defaultdict(list)
    meeting: dict[int, Step] = {}
    turn = list(executors)
    while turn:
        again: list[Executor] = []
        for executor in turn:
            index, rank, walk = executor.index, executor.rank, walks[executor.index]
            while (step := waiting.pop(index, None) or next(walk, None)) is not None:
                command = step.command
                if isinstance(command, Wait):
                    number = command.semaphore
                    assert isinstance(number, int)
                    if tokens.take(executor, number) is None:
                        waiting[index] = step
                        waiters[rank, number].append(executor)
                        break
                elif isinstance(command, Signal):
                    number = command.semaphore
                    assert isinstance(number, int)
                    tokens.post(executor, number, None)
                    again += waiters.pop((rank, number), ())
                elif isinstance(command, Exchange):
                    met = meetings.arrive(executor, command)
                    if met is None:
                        meeting[index] = step
                        break
                    others = [m for m in met if m != index]
                    again += [executors[m] for m in others]
                    for m in others:
                        del meeting[m]
        turn = list(dict.fromkeys(again))
    left = {**waiting, **meeting}
    return [(e, left[e.index]) for e in executors if e.index in left]


def _blocked(
    program: Program, executors: list[Executor], tokens: Semaphores[None], executor: Executor, step: Step
) -> str:
    if isinstance(step.command, Wait) and isinstance(step.command.semaphore, int):
        number = step.command.semaphore
        givers = sorted({executors[i].engine for i in tokens.signallers(executor, number)})
        who = f"{', '.join(givers)} to signal" if givers else "something that nobody signals:"
        return f"{executor}: {_where(program, step)} waits for {who} semaphore {number}"
    return f"{executor}: {_where(program, step)} waits for other devices"
