"""Sequences of lines that an AiM device has seen before: what they make of it is looked up, not decoded again.

What becomes of the channels that lines are for depends on their states as seen from now, on the rows that are open, and
on the lines. Where all of these are known the result is too: when the next line may be decoded, the states of the
channels, and the commands that were issued. Refresh comes at fixed times, which no state tells: with refresh nothing is
remembered.

Of a row only matters which other rows it is equal to. Where lines name a single one, what becomes of them is known for
all rows at once; of a long command it is put together from what becomes of its columns.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, replace
from functools import partial

from pimc.backends.isa import Command
from pimc.backends.pim.aim_channel import NEVER
from pimc.backends.pim.aim_device import AimDevice, Lane
from pimc.backends.pim.aim_isa import Stripe
from pimc.backends.pim.aim_lines import LineMaker, Plan, shape_of
from pimc.backends.pim.aim_states import State
from pimc.backends.pim.cells import channels_of
from pimc.backends.vector import plain

MOST_PASSAGES = 1 << 15
MANY_LINES = 16
"""Commands of so many lines are worth remembering what they make of a device."""


@dataclass(frozen=True, eq=False, slots=True)
class Passage:
    """What lines make of the channels that they are for. Clocks count from the one at which the device took up the
    first of them."""

    clock: int
    """at which the next line may be decoded"""
    decoded: int
    lanes: tuple[tuple[int, State, int, tuple[int, ...], int], ...]
    """of each: mask, state, clock of the last offer, rows, the last clock at which its channels held lines up. Rows are
    numbers of those that are open at first and the lines' own, where that is one"""
    last: tuple[tuple[int, int], ...]
    """channels that issued commands, with the clock of the last one"""
    used: tuple[tuple[int, Counter[str]], ...]
    """masks, and the DRAM commands of each of their channels"""
    open: int
    """clocks in which one of the channels had a row open, summed up over them"""
    lines: int


def pass_through(
    device: AimDevice, key: Hashable, decode: Callable[[], int], mask: int, at: int = 0, row: int | None = None
) -> tuple[int, int]:
    """Decode lines one after the other from a clock on. Returns the clock at which the first of them is decoded, and
    how many there are.

    key: stands for the lines, whatever the device; mask: all channels that they are for; row: the only one that they
    name, for which the key does not stand. decode: has the device decode them, if that is needed, and says how many
    there are; it may do so by passages of its own.
    """
    begun = device.begin(at)
    if not _is_told_by_state(device):
        return begun, decode()
    lanes = device.lanes_of(mask)
    rows, names = tuple([row for lane in lanes for row in lane.rows]), None
    if row is not None:
        names = tuple(dict.fromkeys((*rows, row)))
        rows = (*map(names.index, rows), names.index(row))
    known, state = device.states.passages, (key, rows, device.relative_of(lanes))
    found = known.get(state)
    if found is None:
        if len(known) >= MOST_PASSAGES:
            known.clear()
        found = known[state] = _recorded(device, lanes, decode, mask, names)
    else:
        _taken_up(device, lanes, found, names)
    return begun, found.lines


def _is_told_by_state(device: AimDevice) -> bool:
    """Whether what becomes of a device depends on what can be looked up."""
    return not (device.states.rules.refresh or device.issues is not None or device.stalls_channels)


def _recorded(
    device: AimDevice, lanes: list[Lane], decode: Callable[[], int], mask: int, names: tuple[int, ...] | None
) -> Passage:
    """Decode lines, and keep what comes of them. names: the rows, if they are to be numbers in it."""
    begun, before = device.clock, device.last_issued()
    opened = device.open + device.open_clocks_of(lanes)
    used, device.used = device.used, defaultdict(Counter)
    lines = decode()
    lanes = device.lanes_of(mask)
    own, device.used = _grouped(device.used), used
    _count(device, own)
    after = device.last_issued()

    def named(rows: tuple[int, ...]) -> tuple[int, ...]:
        return rows if names is None else tuple(map(names.index, rows))

    return Passage(
        device.clock - begun,
        device.decoded,
        tuple((x.mask, x.state, x.base - begun, named(x.rows), x.blocked - begun) for x in lanes),
        tuple((c, b - begun) for c, (a, b) in enumerate(zip(before, after, strict=True)) if b != a),
        own,
        device.open + device.open_clocks_of(lanes) - opened,
        lines,
    )


def _taken_up(device: AimDevice, lanes: list[Lane], passage: Passage, names: tuple[int, ...] | None) -> None:
    """Bring a device to where the lines bring it."""
    begun, opened = device.clock, device.open_clocks_of(lanes)
    for lane in lanes:
        for channel in channels_of(lane.mask):
            device.last[channel] = max(device.last[channel], lane.last)
    for channel, clock in passage.last:
        device.last[channel] = begun + clock
    made: list[Lane] = []
    for mask, state, base, numbers, blocked in passage.lanes:
        rows = numbers if names is None else tuple([names[i] for i in numbers])
        lane = Lane(mask, state, begun + base, NEVER, rows, blocked=begun + blocked)
        if base < 0:  # it was offered nothing: for how long it has been at rest is its own business
            own = device.of_channel[mask.bit_length() - 1]
            lane.base, lane.blocked = own.base, own.blocked
        for channel in channels_of(mask):
            device.of_channel[channel] = lane
        made.append(lane)
    device.come_to(begun + passage.clock, passage.decoded)
    _count(device, passage.used)
    device.open += passage.open + opened - device.open_clocks_of(made)


def _grouped(used: dict[int, Counter[str]]) -> tuple[tuple[int, Counter[str]], ...]:
    """Channels that issued the same, together."""
    found: list[tuple[int, Counter[str]]] = []
    places: dict[tuple[tuple[str, int], ...], int] = {}
    for mask, counts in used.items():
        place = places.setdefault(tuple(counts.items()), len(found))
        if place < len(found) and not found[place][0] & mask:
            found[place] = found[place][0] | mask, counts
        else:
            found.append((mask, counts))
    return tuple(found)


def _count(device: AimDevice, used: Iterable[tuple[int, Counter[str]]]) -> None:
    for mask, counts in used:
        sums = device.used[mask]
        for name, number in counts.items():
            sums[name] += number


# -- commands ----------------------------------------------------------------------------------------------------------


def command_through(device: AimDevice, maker: LineMaker, command: Command, at: int = 0) -> tuple[int, int]:
    """Decode the lines of a command from a clock on. Returns the clock at which the first of them is decoded, and how
    many there are."""
    plan = maker.plan(command)
    if len(plan.lines) < MANY_LINES or not _is_told_by_state(device):
        return device.begin(at), _decoded(device, maker, command, plan)
    decode = partial(_in_parts, device, maker, command, plan)
    return pass_through(device, shape_of(command), decode, plan.mask, at, getattr(command, "row", None))


def _in_parts(device: AimDevice, maker: LineMaker, command: Command, plan: Plan) -> int:
    """Columns of a stripe follow each other: as many as a power of two, which other stripes have too, and the rest."""
    count = plain(command.count) if isinstance(command, Stripe) else 1
    if not isinstance(command, Stripe) or count == 1 or len(plan.lines) // count < MANY_LINES:
        return _decoded(device, maker, command, plan)
    first = 1 << (count - 1).bit_length() - 1
    parts = [replace(command, count=n) for n in (first, count - first)]
    return sum([command_through(device, maker, part)[1] for part in parts])


def _decoded(device: AimDevice, maker: LineMaker, command: Command, plan: Plan) -> int:
    for line in maker.lines(command, plan):
        device.decode(line)
    return len(plan.lines)
