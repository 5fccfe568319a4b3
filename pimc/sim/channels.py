"""What each channel of the DRAM is asked for by the PIM engine, counted in the streams without executing them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pimc.backends.affine import Affine, Scalar
from pimc.backends.engines import platform_of
from pimc.backends.isa import Command
from pimc.backends.program import Item, Loop, Program, Stream
from pimc.record import record
from pimc.sim.timing import Timing

PS = 1e-12


@record
class ChannelsReport:
    """The channels of the first device, by number."""

    engine: str
    commands: Sequence[int]
    """of the stream that the channel takes part in"""
    columns: Sequence[int]
    """of open rows that those work on, in all banks at once or in one"""
    busy: Sequence[float]
    """seconds of each channel; empty where one stream is for all of them"""


def channels_of(program: Program, timing: Timing) -> ChannelsReport | None:
    """The load of the channels by the PIM engine; None where there is none."""
    platform = platform_of(program)
    engine = next((e for e in platform.engines.values() if e.kind == "pim"), None)
    streams = [s for s in program.streams if engine is not None and s.engine == engine.name and 0 in s.devices]
    if engine is None or not streams:
        return None
    number = platform.geometry.channels
    commands, columns = [0] * number, [0] * number
    for stream in streams:
        for mask, (times, work) in _loads(stream, engine.instances > 1, number).items():
            for channel in range(number):
                if mask >> channel & 1:
                    commands[channel] += times
                    columns[channel] += work
    busy = [0.0] * number if engine.instances > 1 else []
    for found in timing.engines:
        for channel in found.instances if busy and found.name == engine.name and 0 in found.devices else ():
            busy[channel] = found.busy * PS
    return ChannelsReport(engine.name, tuple(commands), tuple(columns), tuple(busy))


Loads = Mapping[int, Sequence[int]]
"""By mask of channels: how many commands, how many columns."""


def _loads(stream: Stream, by_instance: bool, channels: int) -> Loads:
    everyone = sum(1 << i for i in stream.instances) if by_instance else (1 << channels) - 1
    found: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    _count(stream.items, 1, {}, everyone, by_instance, found)
    return found


def _count(
    items: tuple[Item, ...],
    times: int,
    turns: dict[int, int],
    everyone: int,
    by_instance: bool,
    found: dict[int, list[int]],
) -> None:
    for item in items:
        if isinstance(item, Loop):
            inner = {**turns, item.variable: item.count}
            _count(item.body, times * item.count, inner, everyone, by_instance, found)
        elif item.command.unit:
            mask = everyone if by_instance else _mask(item.command, everyone)
            load = found[mask]
            load[0] += times
            if any(region.space == "row" for region in item.command.regions()):
                load[1] += _total(getattr(item.command, "count", 1), times, turns)


def _mask(command: Command, everyone: int) -> int:
    mask = getattr(command, "mask", None)
    return mask if isinstance(mask, int) else everyone


def _total(count: Scalar, times: int, turns: Mapping[int, int]) -> int:
    """The sum over all turns of the loops around."""
    if not isinstance(count, Affine):
        return count * times
    twice = 2 * count.base + sum(c * (turns.get(v, 1) - 1) for v, c in count.terms)
    return twice * times // 2
