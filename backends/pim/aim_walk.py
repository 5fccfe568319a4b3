"""Items of a stream on an AiM device by itself, without engines beside it: what was seen before is looked up.

A loop that is new is walked turn by turn, and each turn may have been seen before; so may the loop, whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from pimc.backends.isa import Command
from pimc.backends.pim.aim_device import AimDevice
from pimc.backends.pim.aim_isa import Activate
from pimc.backends.pim.aim_line import MARKER, Line
from pimc.backends.pim.aim_lines import ACTIVATION, LineMaker, Plan, shape_of
from pimc.backends.pim.aim_passage import MANY_LINES, pass_through
from pimc.backends.pim.aim_states import States
from pimc.backends.program import Item, Loop
from pimc.ir.diagnostics import InternalError


@dataclass(frozen=True, slots=True)
class TraceRun:
    """What a trace takes on a device that nothing came before."""

    clocks: int
    commands: Counter[str]
    """DRAM commands, over all channels"""
    open_clocks: int
    """clocks in which a channel had a row open, summed up over the channels"""
    lines: int


Part = tuple[Hashable, Callable[[], tuple[Item, ...]]]
"""Items that follow each other: what stands for them, and what gives them where they are needed."""


class TraceWalker:
    """Walks traces on devices of one machine."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._maker = LineMaker(states.rules.channels)
        self._device = AimDevice(states)

    def run(self, parts: Iterable[Part]) -> TraceRun:
        """The trace of parts of a stream, one after the other, with its end."""
        device = self._device = AimDevice(self._states)
        lines = sum(pass_through(device, key, partial(self._part, items))[1] for key, items in parts)
        device.decode(Line(self._maker.everyone, MARKER))
        return TraceRun(device.finish(), device.total(), device.open_clocks(), lines + 1)

    def _part(self, items: Callable[[], tuple[Item, ...]]) -> int:
        return self._items(items(), {})

    def _items(self, items: tuple[Item, ...], variables: Mapping[int, int]) -> int:
        return sum(self._item(item, variables) for item in items)

    def _item(self, item: Item, variables: Mapping[int, int]) -> int:
        if not isinstance(item, Loop):
            return self._command(item.command.resolved(variables))
        lines = 0
        for i in range(item.count):
            inner = {**variables, item.variable: i}
            turn = partial(self._items, item.body, inner)
            if len(item.body) == 1:
                lines += turn()
            else:
                lines += pass_through(self._device, (item.body, tuple(inner.items())), turn)[1]
        return lines

    def _command(self, command: Command) -> int:
        plan = self._maker.plan(command)
        decode = partial(self._decode, command, plan)
        if len(plan.lines) < MANY_LINES:
            return decode()
        return pass_through(self._device, (shape_of(command), getattr(command, "row", None)), decode)[1]

    def _decode(self, command: Command, plan: Plan) -> int:
        if isinstance(command, Activate) and ACTIVATION[command.function] != self._maker.activation:
            raise InternalError("traces with several tables of activations are not walked")
        for line in self._maker.lines(command, plan):
            self._device.decode(line)
        return len(plan.lines)
