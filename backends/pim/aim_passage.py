"""Sequences of lines that an AiM device has seen before: what they make of it is looked up, not decoded again.

What becomes of a device depends on its state as seen from now (`AimDevice.relative`), on the rows that are open, and
on the lines. Where all of these are known the result is too: when the next line may be decoded, the states of all
channels, and the commands that were issued. Refresh comes at fixed times, which no state tells: with refresh nothing is
remembered.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from pimc.backends.pim.aim_channel import NEVER
from pimc.backends.pim.aim_device import AimDevice, Lane
from pimc.backends.pim.aim_states import State
from pimc.backends.pim.cells import channels_of

MOST_PASSAGES = 1 << 17
MANY_LINES = 16
"""Commands of so many lines are worth remembering what they make of a device."""


@dataclass(frozen=True, eq=False, slots=True)
class Passage:
    """What lines make of a device. Clocks count from the one at which it took up the first of them."""

    clock: int
    """at which the next line may be decoded"""
    decoded: int
    lanes: tuple[tuple[int, State, int, tuple[int, ...], int], ...]
    """of each: mask, state, clock of the last offer, rows, the last clock at which its channels held lines up"""
    last: tuple[tuple[int, int], ...]
    """channels that issued commands, with the clock of the last one"""
    used: dict[int, Counter[str]]
    """DRAM commands of each channel of a mask"""
    open: int
    """clocks in which a channel had a row open, summed up over the channels"""
    lines: int


def pass_through(device: AimDevice, key: Hashable, decode: Callable[[], int], at: int = 0) -> tuple[int, int]:
    """Decode lines one after the other from a clock on. Returns the clock at which the first of them is decoded, and
    how many there are.

    key: stands for the lines, whatever the device; rows are as they are. decode: has the device decode them, if that is
    needed, and says how many there are; it may do so by passages of its own.
    """
    begun = device.begin(at)
    if device.states.rules.refresh or device.issues is not None or device.stalls_channels:
        return begun, decode()
    known, state = device.states.passages, (key, device.rows(), device.relative(begun))
    found = known.get(state)
    if found is None:
        if len(known) >= MOST_PASSAGES:
            known.clear()
        found = known[state] = _recorded(device, decode, begun)
    else:
        _taken_up(device, found, begun)
    return begun, found.lines


def _recorded(device: AimDevice, decode: Callable[[], int], begun: int) -> Passage:
    """Decode lines, and keep what comes of them."""
    used, opened = device.taken_counts(), device.open_clocks()
    before = device.last_issued()
    lines = decode()
    after = device.last_issued()
    own_used, device.used = device.taken_counts(), used
    _count(device, own_used)
    return Passage(
        device.clock - begun,
        device.decoded,
        tuple((x.mask, x.state, x.base - begun, x.rows, x.blocked - begun) for x in device.lanes()),
        tuple((c, b - begun) for c, (a, b) in enumerate(zip(before, after, strict=True)) if b != a),
        dict(own_used),
        device.open_clocks() - opened,
        lines,
    )


def _taken_up(device: AimDevice, passage: Passage, begun: int) -> None:
    """Bring a device to where the lines bring it."""
    opened = device.open_clocks()
    device.last = device.last_issued()
    for channel, clock in passage.last:
        device.last[channel] = begun + clock
    for mask, state, base, rows, blocked in passage.lanes:
        lane = Lane(mask, state, begun + base, NEVER, rows, blocked=begun + blocked)
        if base < 0:  # it was offered nothing: for how long it has been at rest is its own business
            own = device.of_channel[mask.bit_length() - 1]
            lane.base, lane.blocked = own.base, own.blocked
        for channel in channels_of(mask):
            device.of_channel[channel] = lane
    device.come_to(begun + passage.clock, passage.decoded)
    _count(device, passage.used)
    device.put_open_clocks(opened + passage.open)


def _count(device: AimDevice, used: dict[int, Counter[str]]) -> None:
    for mask, counts in used.items():
        sums = device.used[mask]
        for name, number in counts.items():
            sums[name] += number
