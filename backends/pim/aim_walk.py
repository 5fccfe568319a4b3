"""Items of a stream on an AiM device by itself, without engines beside it: what was seen before is looked up.

A loop that is new is walked turn by turn, and each turn may have been seen before. After its first turn a loop is often
where it was before, whatever came before it: so the turns after the first one are looked up together.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from pimc.backends.affine import Affine
from pimc.backends.isa import Command
from pimc.backends.pim.aim_device import AimDevice
from pimc.backends.pim.aim_isa import Activate
from pimc.backends.pim.aim_line import MARKER, Line
from pimc.backends.pim.aim_lines import ACTIVATION, LineMaker
from pimc.backends.pim.aim_passage import command_through, pass_through
from pimc.backends.pim.aim_states import States
from pimc.backends.program import Item, Loop
from pimc.ir.diagnostics import InternalError
from pimc.record import record

CHANNELS = ("mask", "channel", "channels", "groups", "pitch")
"""Operands that say which channels a command is for."""


@record
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


@dataclass(frozen=True, slots=True, eq=False)
class _Loop:
    """What is known of a loop, which is kept. To tell whether a large one is equal to another takes long: one that was
    met before is known by its identity."""

    loop: Loop
    mask: int
    """all channels that it is for"""
    code: int

    @staticmethod
    def of(loop: Loop, mask: int) -> _Loop:
        return _Loop(loop, mask, hash((loop.count, loop.body)))

    def __hash__(self) -> int:
        return self.code

    def __eq__(self, other: object) -> bool:
        if self is other or not isinstance(other, _Loop) or self.code != other.code:
            return self is other
        return self.loop.count == other.loop.count and self.loop.body == other.loop.body


class TraceWalker:
    """Walks traces on devices of one machine."""

    def __init__(self, states: States) -> None:
        self._states = states
        self._maker = LineMaker(states.rules.channels)
        self._device = AimDevice(states)
        self._masks: dict[Hashable, int] = {}
        """of parts"""
        self._equal: dict[_Loop, _Loop] = {}
        """one of those that are equal, by each"""
        self._loops: dict[int, _Loop] = {}
        """by their identities"""
        self._kept: list[Loop] = []
        """those whose identities are used"""

    def run(self, parts: Iterable[Part]) -> TraceRun:
        """The trace of parts of a stream, one after the other, with its end."""
        device = self._device = AimDevice(self._states)
        lines = sum(self._part(key, items) for key, items in parts)
        device.decode(Line(self._maker.everyone, MARKER))
        return TraceRun(device.finish(), device.total(), device.open_clocks(), lines + 1)

    def _part(self, key: Hashable, written: Callable[[], tuple[Item, ...]]) -> int:
        mask = self._masks.get(key)
        if mask is None:
            mask = self._masks[key] = self._mask(written())
        return pass_through(self._device, key, lambda: self._items(written(), {}), mask)[1]

    def _mask(self, items: tuple[Item, ...]) -> int:
        """All channels that items are for."""
        mask = 0
        for item in items:
            if isinstance(item, Loop):
                mask |= self._loop(item).mask
            else:
                moves = any(isinstance(getattr(item.command, name, 0), Affine) for name in CHANNELS)
                somewhere = item.command.resolved(defaultdict(int))
                mask |= self._maker.everyone if moves else self._maker.plan(somewhere).mask
        return mask

    def _items(self, items: tuple[Item, ...], variables: Mapping[int, int]) -> int:
        return sum(self._item(item, variables) for item in items)

    def _item(self, item: Item, variables: Mapping[int, int]) -> int:
        if not isinstance(item, Loop):
            return self._command(item.command.resolved(variables))
        lines = self._turn(item, variables, 0)
        if item.count > 1:
            lines += self._known(item, variables, 0, partial(self._turns, item, variables, range(1, item.count)))
        return lines

    def _turns(self, loop: Loop, variables: Mapping[int, int], numbers: Iterable[int]) -> int:
        if len(loop.body) == 1:
            return sum([self._turn(loop, variables, i) for i in numbers])
        return sum([self._known(loop, variables, i, partial(self._turn, loop, variables, i)) for i in numbers])

    def _turn(self, loop: Loop, variables: Mapping[int, int], number: int) -> int:
        return self._items(loop.body, {**variables, loop.variable: number})

    def _known(self, loop: Loop, variables: Mapping[int, int], number: int, walk: Callable[[], int]) -> int:
        """A turn of a loop, or those after the first, for which 0 stands."""
        own = self._loop(loop)
        return pass_through(self._device, (own, number, tuple(variables.items())), walk, own.mask)[1]

    def _loop(self, loop: Loop) -> _Loop:
        found = self._loops.get(id(loop))
        if found is None:
            own = _Loop.of(loop, self._mask(loop.body))
            found = self._loops[id(loop)] = self._equal.setdefault(own, own)
            self._kept.append(loop)
        return found

    def _command(self, command: Command) -> int:
        if isinstance(command, Activate) and ACTIVATION[command.function] != self._maker.activation:
            raise InternalError("traces with several tables of activations are not walked")
        return command_through(self._device, self._maker, command)[1]
