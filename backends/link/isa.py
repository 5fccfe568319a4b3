"""Commands between devices: reductions, gathers and transfers of values that lie in the on-chip buffers.

Devices of one machine meet: a command takes effect once every device that has a part in it has come to its own command.
Whoever runs programs matches commands by `meeting`: the k-th command of each party with the same meeting belong
together. `meet` then does the work for all of them. Groups are ranks in a row: those from (rank // group) * group on.
What goes to another machine (EXPORT) waits in `sent` until that takes it (IMPORT), in the order in which it was sent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command, Region, address, command, element_type, operand
from pimc.backends.state import DeviceState
from pimc.ir.diagnostics import InternalError, Kind, fail
from pimc.ir.layout import Digit
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.record import record

BUFFER = "buffer"


@record
class Meeting:
    """Who meets: the name of the exchange and the ranks that have a part in it, in order."""

    name: str
    ranks: tuple[int, ...]


@record
class Exchange(Command):
    """The base of all commands of the link."""

    unit: ClassVar[str] = "link"

    def meeting(self, rank: int) -> Meeting:
        """The devices that this command of device `rank` waits for, itself included."""
        raise NotImplementedError(self.mnemonic)

    def payload(self) -> int:
        """Bytes that one device puts on the link in one step."""
        raise NotImplementedError(self.mnemonic)

    def exchange(self, parties: Sequence[Party]) -> None:
        """The effect on all parties, which come in order of rank; called on the first one's command."""
        raise NotImplementedError(self.mnemonic)

    def execute(self, state: DeviceState) -> None:
        """The effect where a device meets nobody else; anything more is for `meet`."""
        others = len(self.meeting(state.rank).ranks) - 1
        if others:
            raise InternalError(f"{self.mnemonic} was executed without the {others} devices that it meets")
        self.exchange([Party(self, state)])


@record
class Party:
    """One device's part in an exchange."""

    command: Exchange
    state: DeviceState


def meet(parties: Sequence[Party]) -> None:
    """Carry out an exchange once all its devices have come to it; operands are plain numbers."""
    ordered = sorted(parties, key=lambda p: p.state.rank)
    ordered[0].command.exchange(ordered)


def group_of(rank: int, group: int) -> tuple[int, ...]:
    """The ranks of the group that `rank` belongs to."""
    first = rank // group * group
    return tuple(range(first, first + group))


def _grid(rows: int, stride: int, columns: int, dtype: DType) -> tuple[Digit, Digit]:
    """Rows of adjacent elements."""
    return ((rows, stride), (columns, dtype.bits // 8))


def _grid_region(start: Scalar, rows: int, stride: int, columns: int, dtype: DType, *, write: bool) -> Region:
    return Region(BUFFER, start, (rows - 1) * stride + columns * dtype.bits // 8, write)


def _summed(arrays: Sequence[Array]) -> Array:
    """The sum in order of rank; floats are float32."""
    total = arrays[0].copy()
    for array in arrays[1:]:
        total = total + array
    return np.asarray(total)


@command
@record
class AllReduce(Exchange):
    """Sum the elements of all devices of a group, in place and on each of them."""

    mnemonic: ClassVar[str] = "ALLREDUCE"
    address: Scalar = address("first element, in the buffer")
    count: int = operand("elements")
    dtype: DType = element_type("element type")
    group: int = operand("devices of a group")

    def regions(self) -> Iterator[Region]:
        for write in (False, True):
            yield _grid_region(self.address, 1, 0, self.count, self.dtype, write=write)

    def meeting(self, rank: int) -> Meeting:
        return Meeting(self.mnemonic, group_of(rank, self.group))

    def payload(self) -> int:
        return -(-self.count // self.group) * self.dtype.bits // 8

    def exchange(self, parties: Sequence[Party]) -> None:
        digits = _grid(1, 0, self.count, self.dtype)
        total = _summed([p.state.spaces[BUFFER].read(_at(_all_reduce(p).address), digits, self.dtype) for p in parties])
        for p in parties:
            p.state.spaces[BUFFER].write(_at(_all_reduce(p).address), digits, self.dtype, total)


@record
class Regroup(Exchange):
    """Between a part [rows, columns] on each device and the whole [rows, group * columns] that the parts make."""

    src: Scalar = address("first element read, in the buffer")
    dst: Scalar = address("first element written, in the buffer")
    rows: int = operand("rows")
    columns: int = operand("columns of one part")
    src_row: int = operand("bytes from row to row of what is read")
    dst_row: int = operand("bytes from row to row of what is written")
    dtype: DType = element_type("element type")
    group: int = operand("devices of a group")

    def meeting(self, rank: int) -> Meeting:
        return Meeting(self.mnemonic, group_of(rank, self.group))

    def payload(self) -> int:
        return self.rows * self.columns * self.dtype.bits // 8

    def moved(self, src_columns: int, dst_columns: int) -> Iterator[Region]:
        yield _grid_region(self.src, self.rows, self.src_row, src_columns, self.dtype, write=False)
        yield _grid_region(self.dst, self.rows, self.dst_row, dst_columns, self.dtype, write=True)

    def read(self, state: DeviceState, columns: int) -> Array:
        return state.spaces[BUFFER].read(_at(self.src), _grid(self.rows, self.src_row, columns, self.dtype), self.dtype)

    def write(self, state: DeviceState, values: Array) -> None:
        digits = _grid(self.rows, self.dst_row, values.shape[1], self.dtype)
        state.spaces[BUFFER].write(_at(self.dst), digits, self.dtype, values)


@command
@record
class AllGather(Regroup):
    """Join the parts of all devices of a group side by side in order of rank, on each of them."""

    mnemonic: ClassVar[str] = "ALLGATHER"

    def regions(self) -> Iterator[Region]:
        return self.moved(self.columns, self.columns * self.group)

    def exchange(self, parties: Sequence[Party]) -> None:
        commands = [_regroup(p) for p in parties]
        whole = np.concatenate([c.read(p.state, c.columns) for c, p in zip(commands, parties, strict=True)], axis=1)
        for c, p in zip(commands, parties, strict=True):
            c.write(p.state, whole)


@command
@record
class ReduceScatter(Regroup):
    """Sum the wholes of all devices of a group; each device keeps the part of its rank."""

    mnemonic: ClassVar[str] = "REDUCESCATTER"

    def regions(self) -> Iterator[Region]:
        return self.moved(self.columns * self.group, self.columns)

    def exchange(self, parties: Sequence[Party]) -> None:
        commands = [_regroup(p) for p in parties]
        wide = self.columns * self.group
        total = _summed([c.read(p.state, wide) for c, p in zip(commands, parties, strict=True)])
        for i, (c, p) in enumerate(zip(commands, parties, strict=True)):
            c.write(p.state, total[:, i * c.columns : (i + 1) * c.columns])


@command
@record
class Send(Exchange):
    """Send elements to another device, which takes them by a RECEIVE of the same size."""

    mnemonic: ClassVar[str] = "SEND"
    src: Scalar = address("first element, in the buffer")
    count: int = operand("elements")
    dtype: DType = element_type("element type")
    to: Scalar = operand("rank of the device that receives")

    def regions(self) -> Iterator[Region]:
        yield _grid_region(self.src, 1, 0, self.count, self.dtype, write=False)

    def meeting(self, rank: int) -> Meeting:
        return _pair(rank, _at(self.to))

    def payload(self) -> int:
        return self.count * self.dtype.bits // 8

    def exchange(self, parties: Sequence[Party]) -> None:
        _transfer(parties)


@command
@record
class Receive(Exchange):
    """Take the elements that another device sends here."""

    mnemonic: ClassVar[str] = "RECEIVE"
    dst: Scalar = address("first element, in the buffer")
    count: int = operand("elements")
    dtype: DType = element_type("element type")
    origin: Scalar = operand("rank of the device that sends")

    def regions(self) -> Iterator[Region]:
        yield _grid_region(self.dst, 1, 0, self.count, self.dtype, write=True)

    def meeting(self, rank: int) -> Meeting:
        return _pair(_at(self.origin), rank)

    def payload(self) -> int:
        return self.count * self.dtype.bits // 8

    def exchange(self, parties: Sequence[Party]) -> None:
        _transfer(parties)


@command
@record
class Export(Command):
    """Send elements to a device of another machine, which takes them by an IMPORT of the same size."""

    mnemonic: ClassVar[str] = "EXPORT"
    unit: ClassVar[str] = "link"
    src: Scalar = address("first element, in the buffer")
    count: int = operand("elements")
    dtype: DType = element_type("element type")
    to: Scalar = operand("rank of the device in the other machine")

    def regions(self) -> Iterator[Region]:
        yield _grid_region(self.src, 1, 0, self.count, self.dtype, write=False)

    def payload(self) -> int:
        return self.count * self.dtype.bits // 8

    def execute(self, state: DeviceState) -> None:
        values = state.spaces[BUFFER].read(_at(self.src), _grid(1, 0, self.count, self.dtype), self.dtype)
        state.sent.setdefault(_at(self.to), []).append(values)


@command
@record
class Import(Command):
    """Take the elements that a device of another machine has sent here."""

    mnemonic: ClassVar[str] = "IMPORT"
    unit: ClassVar[str] = "link"
    dst: Scalar = address("first element, in the buffer")
    count: int = operand("elements")
    dtype: DType = element_type("element type")
    origin: Scalar = operand("rank of the device in the other machine")

    def regions(self) -> Iterator[Region]:
        yield _grid_region(self.dst, 1, 0, self.count, self.dtype, write=True)

    def payload(self) -> int:
        return self.count * self.dtype.bits // 8

    def execute(self, state: DeviceState) -> None:
        arrived = state.received.get(_at(self.origin), [])
        if not arrived or arrived[0].size != self.count:
            found = f"{arrived[0].size} elements" if arrived else "nothing"
            raise fail(
                Kind.INPUT_BAD,
                f"device {_at(self.origin)} of the other machine sent {found}, where {self.count} are taken",
                help="run it after the program that sends",
            )
        digits = _grid(1, 0, self.count, self.dtype)
        state.spaces[BUFFER].write(_at(self.dst), digits, self.dtype, arrived.pop(0).reshape(1, self.count))


def _pair(sender: int, receiver: int) -> Meeting:
    return Meeting(f"{sender}>{receiver}", tuple(sorted((sender, receiver))))


def _transfer(parties: Sequence[Party]) -> None:
    sends = [(p.command, p.state) for p in parties if isinstance(p.command, Send)]
    receives = [(p.command, p.state) for p in parties if isinstance(p.command, Receive)]
    if len(sends) != 1 or len(receives) != 1:
        raise InternalError("a transfer needs one SEND and one RECEIVE")
    (send, source), (receive, target) = sends[0], receives[0]
    if (send.count, send.dtype) != (receive.count, receive.dtype):
        raise InternalError(f"a SEND of {send.count} elements meets a RECEIVE of {receive.count}")
    digits = _grid(1, 0, send.count, send.dtype)
    values = source.spaces[BUFFER].read(_at(send.src), digits, send.dtype)
    target.spaces[BUFFER].write(_at(receive.dst), digits, receive.dtype, values)


def _all_reduce(party: Party) -> AllReduce:
    if not isinstance(party.command, AllReduce):
        raise InternalError(f"ALLREDUCE meets {party.command.mnemonic}")
    return party.command


def _regroup(party: Party) -> Regroup:
    if not isinstance(party.command, Regroup):
        raise InternalError(f"a collective meets {party.command.mnemonic}")
    return party.command


def _at(scalar: Scalar) -> int:
    if not isinstance(scalar, int):
        raise InternalError(f"operand {scalar} was not resolved")
    return scalar
