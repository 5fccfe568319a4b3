"""GDDR6-AiM's commands, as one in-order stream for all channels of a device.

Bit k of a mask stands for channel k. A column is one access: 16 elements. Where a command moves data of several
channels, channel number j of the mask (counted from the lowest bit) has its data in the on-chip buffer at
`address + j // share * stride + j % share * 32`; for vectors, which are equal for a share, the last term is absent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command, Region, address, choice, command, element_type, operand, row_number
from pimc.backends.pim.cells import (
    CELL_BYTES,
    COLUMN_BYTES,
    LANES,
    accumulated,
    accumulator,
    activated,
    bank_rows,
    channels_of,
    kept,
    vector_of,
)
from pimc.backends.state import DeviceState
from pimc.backends.vector import plain
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.record import record

GROUP = 4
"""Banks of a bank group."""


@record
class AimCommand(Command):
    """The base of all commands of this file."""

    unit: ClassVar[str] = "pim"


def groups_of(mask: Scalar, share: Scalar) -> int:
    """How many shares the channels of a mask make up."""
    channels, size = plain(mask).bit_count(), plain(share)
    if size < 1 or channels % size:
        raise fail(Kind.PROGRAM_BAD, f"{channels} channels do not make up whole shares of {size}")
    return channels // size


def _values_region(start: Scalar, mask: Scalar, stride: Scalar, share: Scalar, *, write: bool) -> Region:
    """The buffer bytes of one column for every masked channel."""
    length = (groups_of(mask, share) - 1) * plain(stride) + plain(share) * COLUMN_BYTES
    return Region("buffer", start, length, write)


def _values(state: DeviceState, at: AimCommand, dtype: DType) -> Array:
    """A writable window [shares, share, 16] on the buffer, for a command with address, mask, stride and share."""
    fields: Any = at
    digits = (
        (groups_of(fields.mask, fields.share), plain(fields.stride)),
        (plain(fields.share), COLUMN_BYTES),
        (LANES, CELL_BYTES),
    )
    return state.spaces["buffer"].view(plain(fields.address), digits, dtype)


def _row(row: Scalar, mask: Scalar, *, write: bool = False) -> Region:
    return Region("row", row, 1, write, plain(mask))


def _vector(column: Scalar, count: Scalar, mask: Scalar, *, write: bool = False) -> Region:
    return Region("gb", column * COLUMN_BYTES, plain(count) * COLUMN_BYTES, write, plain(mask))


def _register(register: Scalar, mask: Scalar, *, write: bool = False) -> Region:
    return Region("mac", register, 1, write, plain(mask))


@command
@record
class WriteGlobalBuffer(AimCommand):
    """Columns of a vector from the on-chip buffer into the global buffers of the channels."""

    mnemonic: ClassVar[str] = "WR_GB"
    count: Scalar = operand("columns")
    address: Scalar = address("the vector of the first share of channels")
    mask: Scalar = operand("channels", hexadecimal=True)
    column: Scalar = operand("first column written", 0)
    stride: Scalar = operand("bytes from a share's vector to the next; 0: all get the same", 0)
    share: Scalar = operand("channels that get the same vector", 1)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        length = (groups_of(self.mask, self.share) - 1) * plain(self.stride) + plain(self.count) * COLUMN_BYTES
        yield Region("buffer", self.address, length, write=False)
        yield _vector(self.column, self.count, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        count, share = plain(self.count), plain(self.share)
        digits = ((groups_of(self.mask, share), plain(self.stride)), (count * LANES, CELL_BYTES))
        vectors = state.spaces["buffer"].read(plain(self.address), digits, self.dtype)
        target = vector_of(state, plain(self.column), count)
        target[list(channels_of(plain(self.mask)))] = np.repeat(vectors, share, axis=0)


@command
@record
class WriteBias(AimCommand):
    """One value for every bank of the channels, into an accumulator."""

    mnemonic: ClassVar[str] = "WR_BIAS"
    register: Scalar = operand("the accumulator")
    mask: Scalar = operand("channels", hexadecimal=True)
    zero: str = choice("yes: zeros instead of values from the buffer", ("yes", "no"), "no")
    address: Scalar = address("values of the first channel", 0)
    stride: Scalar = operand("bytes from share to share", COLUMN_BYTES)
    share: Scalar = operand("channels whose values are neighbours", 1)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        if self.zero == "no":
            yield _values_region(self.address, self.mask, self.stride, self.share, write=False)
        yield _register(self.register, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        target = accumulator(state, plain(self.register))
        chosen = list(channels_of(plain(self.mask)))
        if self.zero == "yes":
            target[chosen] = 0
        else:
            target[chosen] = _values(state, self, self.dtype).reshape(len(chosen), LANES).astype(np.float32)


@command
@record
class MacAllBanks(AimCommand):
    """Every bank multiplies columns of a row with the global buffer (or with its neighbour bank) and adds the sum."""

    mnemonic: ClassVar[str] = "MAC_ABK"
    count: Scalar = operand("columns")
    mask: Scalar = operand("channels", hexadecimal=True)
    row: Scalar = row_number("the row")
    register: Scalar = operand("the accumulator", 0)
    column: Scalar = operand("first column of the row", 0)
    vector: Scalar = operand("first column of the global buffer", 0)
    other: str = choice("the other factor: the global buffer, or the same row of bank b xor 1", ("gb", "bank"), "gb")
    dtype: DType = element_type("element type of the banks", DType.BF16)
    sums: DType = element_type("element type of the accumulators", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _row(self.row, self.mask)
        if self.other == "gb":
            yield _vector(self.vector, self.count, self.mask)
        yield _register(self.register, self.mask)
        yield _register(self.register, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        count = plain(self.count)
        chosen = list(channels_of(plain(self.mask)))
        cells = bank_rows(state, plain(self.row), plain(self.column) * COLUMN_BYTES, count * LANES, self.dtype)
        factors = cells[chosen].astype(np.float32)
        if self.other == "gb":
            others = vector_of(state, plain(self.vector), count)[chosen, None, :]
        else:
            others = factors[:, np.arange(factors.shape[1]) ^ 1]
        target = accumulator(state, plain(self.register))
        target[chosen] = accumulated(state, target[chosen], factors * others, self.sums)


@command
@record
class MacOneBank(AimCommand):
    """One bank multiplies columns of a row with the global buffer and adds the sum to its accumulator."""

    mnemonic: ClassVar[str] = "MAC_SBK"
    count: Scalar = operand("columns")
    mask: Scalar = operand("channels", hexadecimal=True)
    bank: Scalar = operand("the bank")
    row: Scalar = row_number("the row")
    register: Scalar = operand("the accumulator", 0)
    column: Scalar = operand("first column of the row", 0)
    vector: Scalar = operand("first column of the global buffer", 0)
    dtype: DType = element_type("element type of the banks", DType.BF16)
    sums: DType = element_type("element type of the accumulators", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _row(self.row, self.mask)
        yield _vector(self.vector, self.count, self.mask)
        yield _register(self.register, self.mask)
        yield _register(self.register, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        count, bank = plain(self.count), plain(self.bank)
        chosen = list(channels_of(plain(self.mask)))
        cells = bank_rows(state, plain(self.row), plain(self.column) * COLUMN_BYTES, count * LANES, self.dtype)
        products = cells[chosen, bank].astype(np.float32) * vector_of(state, plain(self.vector), count)[chosen]
        target = accumulator(state, plain(self.register))
        target[chosen, bank] = accumulated(state, target[chosen, bank], products, self.sums)


@command
@record
class ReadMac(AimCommand):
    """An accumulator of every bank of the channels, to the on-chip buffer."""

    mnemonic: ClassVar[str] = "RD_MAC"
    register: Scalar = operand("the accumulator")
    mask: Scalar = operand("channels", hexadecimal=True)
    address: Scalar = address("values of the first channel")
    stride: Scalar = operand("bytes from share to share", COLUMN_BYTES)
    share: Scalar = operand("channels whose values are neighbours", 1)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _register(self.register, self.mask)
        yield _values_region(self.address, self.mask, self.stride, self.share, write=True)

    def execute(self, state: DeviceState) -> None:
        _store(state, self, self.dtype, accumulator(state, plain(self.register)), plain(self.mask))


@command
@record
class ReadActivated(AimCommand):
    """The activation register of every bank of the channels, to the on-chip buffer."""

    mnemonic: ClassVar[str] = "RD_AF"
    mask: Scalar = operand("channels", hexadecimal=True)
    address: Scalar = address("values of the first channel")
    stride: Scalar = operand("bytes from share to share", COLUMN_BYTES)
    share: Scalar = operand("channels whose values are neighbours", 1)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield Region("af", 0, 1, write=False, channels=plain(self.mask))
        yield _values_region(self.address, self.mask, self.stride, self.share, write=True)

    def execute(self, state: DeviceState) -> None:
        _store(state, self, self.dtype, activated(state), plain(self.mask))


def _store(state: DeviceState, at: AimCommand, dtype: DType, held: Array, mask: int) -> None:
    target = _values(state, at, dtype)
    target[...] = kept(state, held[list(channels_of(mask))], dtype).reshape(target.shape).astype(target.dtype)


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "exp": np.exp,
}
"""Tables that AF can look up, in the order of their table rows. GELU is the approximation by tanh."""


@command
@record
class Activate(AimCommand):
    """Look a function of an accumulator up in every bank; the result is exact to the element type."""

    mnemonic: ClassVar[str] = "AF"
    function: str = choice("the table", tuple(ACTIVATIONS))
    mask: Scalar = operand("channels", hexadecimal=True)
    register: Scalar = operand("the accumulator", 0)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _register(self.register, self.mask)
        yield Region("af", 0, 1, write=True, channels=plain(self.mask))

    def execute(self, state: DeviceState) -> None:
        chosen = list(channels_of(plain(self.mask)))
        with np.errstate(all="ignore"):
            values = ACTIVATIONS[self.function](accumulator(state, plain(self.register))[chosen])
        activated(state)[chosen] = kept(state, values, self.dtype)


@record
class OneBank(AimCommand):
    """Columns of a row of one bank of each channel."""

    count: Scalar = operand("columns")
    mask: Scalar = operand("channels", hexadecimal=True)
    bank: Scalar = operand("the bank")
    row: Scalar = row_number("the row")
    column: Scalar = operand("first column of the row", 0)

    def cells(self, state: DeviceState, dtype: DType) -> Array:
        """A writable window [all channels, elements]."""
        byte, elements = plain(self.column) * COLUMN_BYTES, plain(self.count) * LANES
        window: Array = bank_rows(state, plain(self.row), byte, elements, dtype)[:, plain(self.bank)]
        return window


@record
class BankTransfer(OneBank):
    """Between a bank and the on-chip buffer; the masked channels' stretches follow each other by `stride`."""

    address: Scalar = address("elements of the first channel", 0)
    stride: Scalar = operand("bytes from channel to channel", COLUMN_BYTES)
    dtype: DType = element_type("element type", DType.BF16)

    def buffer_region(self, *, write: bool) -> Region:
        length = (groups_of(self.mask, 1) - 1) * plain(self.stride) + plain(self.count) * COLUMN_BYTES
        return Region("buffer", self.address, length, write)

    def buffered(self, state: DeviceState) -> Array:
        digits = ((groups_of(self.mask, 1), plain(self.stride)), (plain(self.count) * LANES, CELL_BYTES))
        return state.spaces["buffer"].view(plain(self.address), digits, self.dtype)


@command
@record
class ReadBank(BankTransfer):
    """Columns of a row of one bank of each channel, to the on-chip buffer."""

    mnemonic: ClassVar[str] = "RD_SBK"

    def regions(self) -> Iterator[Region]:
        yield _row(self.row, self.mask)
        yield self.buffer_region(write=True)

    def execute(self, state: DeviceState) -> None:
        self.buffered(state)[...] = self.cells(state, self.dtype)[list(channels_of(plain(self.mask)))]


@command
@record
class WriteBank(BankTransfer):
    """Columns from the on-chip buffer into a row of one bank of each channel."""

    mnemonic: ClassVar[str] = "WR_SBK"

    def regions(self) -> Iterator[Region]:
        yield self.buffer_region(write=False)
        yield _row(self.row, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        self.cells(state, self.dtype)[list(channels_of(plain(self.mask)))] = self.buffered(state)


@command
@record
class WriteAllBanks(AimCommand):
    """One value into the same element of a row in every bank; closes the rows of the channels."""

    mnemonic: ClassVar[str] = "WR_ABK"
    mask: Scalar = operand("channels", hexadecimal=True)
    row: Scalar = row_number("the row")
    element: Scalar = operand("the element of the row")
    address: Scalar = address("values of the first channel")
    stride: Scalar = operand("bytes from share to share", COLUMN_BYTES)
    share: Scalar = operand("channels whose values are neighbours", 1)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _values_region(self.address, self.mask, self.stride, self.share, write=False)
        yield _row(self.row, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        chosen = list(channels_of(plain(self.mask)))
        cells = bank_rows(state, plain(self.row), plain(self.element) * CELL_BYTES, 1, self.dtype)
        cells[chosen, :, 0] = _values(state, self, self.dtype).reshape(len(chosen), LANES)


@command
@record
class CopyBankToBuffer(OneBank):
    """Columns of one bank of each channel into its channel's global buffer."""

    mnemonic: ClassVar[str] = "COPY_BKGB"
    vector: Scalar = operand("first column of the global buffer", 0)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _row(self.row, self.mask)
        yield _vector(self.vector, self.count, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        chosen = list(channels_of(plain(self.mask)))
        cells = self.cells(state, self.dtype)[chosen].astype(np.float32)
        vector_of(state, plain(self.vector), plain(self.count))[chosen] = cells


@command
@record
class CopyBufferToBank(OneBank):
    """Columns of each channel's global buffer into one of its banks."""

    mnemonic: ClassVar[str] = "COPY_GBBK"
    vector: Scalar = operand("first column of the global buffer", 0)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _vector(self.vector, self.count, self.mask)
        yield _row(self.row, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        chosen = list(channels_of(plain(self.mask)))
        cells = self.cells(state, self.dtype)
        cells[chosen] = vector_of(state, plain(self.vector), plain(self.count))[chosen].astype(cells.dtype)


@command
@record
class MultiplyBanks(AimCommand):
    """In every bank group, columns of bank 0 times those of bank 1, element by element, into bank 2."""

    mnemonic: ClassVar[str] = "EWMUL"
    count: Scalar = operand("columns")
    mask: Scalar = operand("channels", hexadecimal=True)
    row: Scalar = row_number("the row")
    column: Scalar = operand("first column of the row", 0)
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        yield _row(self.row, self.mask)
        yield _row(self.row, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        chosen = list(channels_of(plain(self.mask)))
        byte, elements = plain(self.column) * COLUMN_BYTES, plain(self.count) * LANES
        cells = bank_rows(state, plain(self.row), byte, elements, self.dtype)
        first, second = (cells[:, bank::GROUP][chosen].astype(np.float32) for bank in (0, 1))
        cells[:, 2::GROUP][chosen] = kept(state, first * second, self.dtype).astype(cells.dtype)


@command
@record
class AddBuffers(AimCommand):
    """Columns of the on-chip buffer added to others, by the controller's adder."""

    mnemonic: ClassVar[str] = "EWADD"
    count: Scalar = operand("columns")
    dst: Scalar = address("first operand and result")
    src: Scalar = address("second operand")
    dtype: DType = element_type("element type", DType.BF16)

    def regions(self) -> Iterator[Region]:
        length = plain(self.count) * COLUMN_BYTES
        yield Region("buffer", self.dst, length, write=False)
        yield Region("buffer", self.src, length, write=False)
        yield Region("buffer", self.dst, length, write=True)

    def execute(self, state: DeviceState) -> None:
        digits = ((plain(self.count) * LANES, CELL_BYTES),)
        first, second = (state.spaces["buffer"].read(plain(a), digits, self.dtype) for a in (self.dst, self.src))
        state.spaces["buffer"].write(plain(self.dst), digits, self.dtype, first + second)


@record
class Stripe(AimCommand):
    """Single accesses of the same row in several banks of several channels, a line each.

    Accesses come column by column; in a column channel by channel, in a channel bank by bank; and each of them for
    every group of channels, `pitch` channels apart. Their elements lie in the buffer in that order.
    """

    count: Scalar = operand("columns")
    row: Scalar = row_number("the row")
    bank: Scalar = operand("first bank")
    banks: Scalar = operand("banks of a channel")
    step: Scalar = operand("from bank to bank", 1)
    channel: Scalar = operand("first channel of the first group", 0)
    channels: Scalar = operand("channels of a group", 1)
    groups: Scalar = operand("groups of channels", 1)
    pitch: Scalar = operand("channels from group to group", 0)
    column: Scalar = operand("first column of the row", 0)
    address: Scalar = address("elements of the first access", 0)
    dtype: DType = element_type("element type", DType.BF16)

    @property
    def chosen(self) -> tuple[tuple[int, ...], ...]:
        """The channels, one tuple for each channel of a group, with that of every group."""
        first, pitch = plain(self.channel), plain(self.pitch)
        groups = range(plain(self.groups))
        return tuple(tuple(first + c + g * pitch for g in groups) for c in range(plain(self.channels)))

    @property
    def mask(self) -> int:
        return sum(1 << channel for members in self.chosen for channel in members)

    def buffer_region(self, *, write: bool) -> Region:
        accesses = plain(self.count) * plain(self.channels) * plain(self.banks) * plain(self.groups)
        return Region("buffer", self.address, accesses * COLUMN_BYTES, write)

    def pairs(self, state: DeviceState) -> Iterator[tuple[Array, Array]]:
        """Writable windows [count, banks, 16] on the buffer and on the banks, channel by channel."""
        count, banks, groups = plain(self.count), plain(self.banks), plain(self.groups)
        shape = (count, plain(self.channels), banks, groups)
        strides = [groups * banks * plain(self.channels), groups * banks, groups, 1]
        digits = tuple((n, stride * COLUMN_BYTES) for n, stride in zip(shape, strides, strict=True))
        buffered = state.spaces["buffer"].view(plain(self.address), (*digits, (LANES, CELL_BYTES)), self.dtype)
        byte = plain(self.column) * COLUMN_BYTES
        cells = bank_rows(state, plain(self.row), byte, count * LANES, self.dtype)
        first, step = plain(self.bank), plain(self.step)
        for c, members in enumerate(self.chosen):
            for g, channel in enumerate(members):
                window = cells[channel, first : first + banks * step : step].reshape(banks, count, LANES)
                yield buffered[:, c, :, g], window.swapaxes(0, 1)


@command
@record
class StripeWrite(Stripe):
    """Columns from the on-chip buffer into several banks of several channels, access by access."""

    mnemonic: ClassVar[str] = "W_MEM"

    def regions(self) -> Iterator[Region]:
        yield self.buffer_region(write=False)
        yield _row(self.row, self.mask, write=True)

    def execute(self, state: DeviceState) -> None:
        for buffered, cells in self.pairs(state):
            cells[...] = buffered


@command
@record
class StripeRead(Stripe):
    """Columns of several banks of several channels to the on-chip buffer, access by access."""

    mnemonic: ClassVar[str] = "R_MEM"

    def regions(self) -> Iterator[Region]:
        yield _row(self.row, self.mask)
        yield self.buffer_region(write=True)

    def execute(self, state: DeviceState) -> None:
        for buffered, cells in self.pairs(state):
            buffered[...] = cells


@command
@record
class Sync(AimCommand):
    """Hold the front end until every channel is done."""

    mnemonic: ClassVar[str] = "SYNC"

    def execute(self, state: DeviceState) -> None:
        """Waiting changes no values."""


@command
@record
class BeginTrace(AimCommand):
    """A trace begins, timed by itself: the memory is as it is when a simulator of traces starts."""

    mnemonic: ClassVar[str] = "TRACE"
    number: Scalar = operand("which of the program's traces")

    def execute(self, state: DeviceState) -> None:
        """Only the controller's state is another one."""


@command
@record
class EndTrace(AimCommand):
    """A trace ends when every channel is done."""

    mnemonic: ClassVar[str] = "EOC"

    def execute(self, state: DeviceState) -> None:
        """Waiting changes no values."""


COMMANDS: tuple[type[Command], ...] = (
    WriteGlobalBuffer,
    WriteBias,
    MacAllBanks,
    MacOneBank,
    ReadMac,
    ReadActivated,
    Activate,
    ReadBank,
    WriteBank,
    WriteAllBanks,
    CopyBankToBuffer,
    CopyBufferToBank,
    MultiplyBanks,
    AddBuffers,
    StripeWrite,
    StripeRead,
    Sync,
    BeginTrace,
    EndTrace,
)
