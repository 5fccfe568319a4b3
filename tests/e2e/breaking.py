"""Commands broken on purpose: in place of what a command does it does nothing, half of it, or it is slightly off."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import numpy as np

from pimc.backends.isa import Command
from pimc.backends.link.isa import Exchange, Party, meet
from pimc.backends.state import WIDE_SCALE, DeviceState
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.sim import values

Taker = tuple[Command, DeviceState]
"""A command, and the memories of the device that executes it."""
Effect = Callable[[Sequence[Taker], Callable[[], None]], None]
"""What a command does instead (several take part in an exchange between devices), given what it should do."""

SLIGHTLY = 0.01
"""The largest relative error that is put on a float."""


def nothing(takers: Sequence[Taker], proper: Callable[[], None]) -> None:
    """All stays as it was."""


def slightly_off(takers: Sequence[Taker], proper: Callable[[], None]) -> None:
    """Each float that changes is off by up to 1%, by differing factors, and no longer zero; each integer by one."""
    for cells, _, chosen in _changes(takers, proper):
        if cells.dtype.kind == "f":
            factors = (chosen * 7919 % 13 - 6) / 6 * SLIGHTLY
            cells[chosen] += (factors * np.where(cells[chosen], cells[chosen], 1)).astype(np.float32)
        else:
            cells[chosen] ^= np.ones((), cells.dtype)


def half_done(takers: Sequence[Taker], proper: Callable[[], None]) -> None:
    """Every second element that should change stays as it was."""
    for cells, before, chosen in _changes(takers, proper):
        cells[chosen[::2]] = before[chosen[::2]]


@contextmanager
def broken(command: type[Command], effect: Effect) -> Iterator[None]:
    """While this lasts, the command has that effect; so has every exchange between devices that it has a part in."""
    with ExitStack() as stack:
        if issubclass(command, Exchange):
            stack.enter_context(mock.patch.object(values, "meet", _broken_meeting(command, effect)))
        else:
            stack.enter_context(mock.patch.object(command, "execute", _broken_execution(command, effect)))
        yield


def _broken_execution(command: type[Command], effect: Effect) -> Callable[[Command, DeviceState], None]:
    proper = command.execute

    def execute(self: Command, state: DeviceState) -> None:
        effect([(self, state)], lambda: proper(self, state))

    return execute


def _broken_meeting(command: type[Command], effect: Effect) -> Callable[[Sequence[Party]], None]:
    def meet_broken(parties: Sequence[Party]) -> None:
        if any(isinstance(p.command, command) for p in parties):
            effect([(p.command, p.state) for p in parties], lambda: meet(parties))
        else:
            meet(parties)

    return meet_broken


def _changes(takers: Sequence[Taker], proper: Callable[[], None]) -> Iterator[tuple[Array, Array, Array]]:
    """Do what is proper; the flat cells it may write, what they held before, and the indices of those that changed."""
    windows = [window for taker in takers for window in _written(*taker)]
    before = [window.copy() for window in windows]
    registers = [{name: array.copy() for name, array in state.registers.items()} for _, state in takers]
    proper()
    for (_, state), held in zip(takers, registers, strict=True):
        for name, array in state.registers.items():
            old = held.get(name)
            windows.append(array.reshape(-1))
            fresh = old is None or old.size != array.size
            before.append(np.zeros(array.size, array.dtype) if fresh or old is None else old.reshape(-1))
    for cells, old in zip(windows, before, strict=True):
        chosen = np.flatnonzero(cells.view(f"u{cells.itemsize}") != old.view(f"u{cells.itemsize}"))
        if chosen.size:
            yield cells, old, chosen


def _written(command: Command, state: DeviceState) -> Iterator[Array]:
    """The cells of the memories that a command may write, in the wide format."""
    for region in (r.flat(state.geometry.stride_row) for r in command.regions()):
        if region.write and region.space in state.spaces:
            assert isinstance(region.start, int)
            held = state.spaces[region.space]._bytes
            assert held.size == state.spaces[region.space].size * WIDE_SCALE
            window = held[region.start * WIDE_SCALE : (region.start + region.length) * WIDE_SCALE]
            yield window.view(_cell(region.space, command))


def _cell(space: str, command: Command) -> np.dtype[Any]:
    """The type of the cells that a command writes to a memory."""
    fields: Any = command
    dtype: DType = getattr(fields, "dst_type", getattr(fields, "dtype", DType.F32))
    if dtype.is_float or space == "acc":
        return np.dtype(np.float32)
    return np.dtype(np.uint8) if dtype is DType.BOOL else dtype.numpy
