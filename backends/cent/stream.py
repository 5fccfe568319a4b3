"""The AiM commands of each op of a block, as CENT's trace generator writes them.

What the published streams do that a part could not use is kept, since it takes their time: rotary writes to bank 2 what
it should read from there, and multiplies more columns than a row has; every query head of a group opens the rows of its
values anew; scores go out and come back access by access for each of softmax's two products.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pimc.backends.affine import Scalar
from pimc.backends.cent.decoder import BlockSizes
from pimc.backends.cent.rows import Geometry, Rows, ceil
from pimc.backends.cent.split import Split
from pimc.backends.emitter import Emitter
from pimc.backends.isa import Command
from pimc.backends.pim import aim_isa as aim
from pimc.backends.target import AimPim, TargetSpec
from pimc.record import record

GROUP = 4
"""Banks of a bank group: in each, EWMUL multiplies bank 0 with bank 1 into bank 2."""
PAIR = 2


@record
class Writer:
    """Writes the commands of one block, or of what its group's other devices do for it."""

    spec: TargetSpec
    split: Split
    sizes: BlockSizes
    at: Geometry
    rows: Rows
    emit: Emitter
    engine: str = "pim"

    @property
    def mask(self) -> int:
        """The channels of all blocks that run in lock step."""
        return (1 << self.split.together * self.split.channels) - 1

    @property
    def accumulators(self) -> int:
        assert isinstance(self.spec.pim, AimPim)
        return self.spec.pim.accumulators

    def issue(self, command: Command) -> None:
        self.emit.issue(self.engine, command)

    def times(self, count: int, make: Callable[[Scalar], Command]) -> None:
        with self.emit.loop(count) as i:
            self.issue(make(i))

    # -- products with weights ------------------------------------------------------------------------------------

    def gemv(self, inputs: int, outputs: int, row: int, function: str = "") -> None:
        """A matrix times a vector. function: looked up for each sum at the end."""
        columns, full = ceil(outputs, self.at.weight_banks), inputs // self.at.row
        parts = ceil(columns, self.accumulators // (2 if function else 1))
        at_once, depth = ceil(columns, parts), ceil(inputs, self.at.row)
        last = depth - 1

        def inputs_row(i: Scalar, count: int, activated: str) -> None:
            self.issue(aim.WriteGlobalBuffer(count, 0, self.mask))
            whole, rest = divmod(columns, at_once)
            with self.emit.loop(whole) as part:
                self._sums(at_once, row + part * (at_once * depth) + i, depth, count, activated)
            if rest:
                self._sums(rest, row + whole * at_once * depth + i, depth, count, activated)

        alike = full if not function or full < depth else last
        with self.emit.loop(alike) as i:
            inputs_row(i, self.at.row // self.at.column, "")
        for i in range(alike, depth):
            count = self.at.last(inputs) if i == last else self.at.row // self.at.column
            inputs_row(i, count, function if i == last else "")

    def _sums(self, count: int, row: Scalar, step: int, columns: int, function: str) -> None:
        """One row of inputs for as many outputs of each bank as there are accumulators for."""
        mask = self.mask
        self.times(count, lambda i: aim.WriteBias(i, mask, "yes"))
        self.times(count, lambda i: aim.MacAllBanks(columns, mask, row + i * step, i))
        if function:
            with self.emit.loop(count) as i:
                self.issue(aim.Activate(function, mask, i))
                self.issue(aim.ReadActivated(mask, 0))
        self.times(count, lambda i: aim.ReadMac(i, mask, 0))

    # -- vectors --------------------------------------------------------------------------------------------------

    def write(self, row: Scalar, count: int, bank: int, step: int, channels: int | None = None) -> None:
        self.issue(aim.StripeWrite(count, row, bank, *self._stripe(step, channels)))

    def read(self, row: Scalar, count: int, bank: int, step: int, channels: int | None = None) -> None:
        self.issue(aim.StripeRead(count, row, bank, *self._stripe(step, channels)))

    def _stripe(self, step: int, channels: int | None) -> tuple[int, int, int, int, int, int]:
        split = self.split
        return self.at.banks // step, step, 0, channels or split.channels, split.together, split.channels

    def norm(self, row: int, products: int, to: int, banks: tuple[int, ...], *, is_written: bool = True) -> None:
        """An RMSNorm: the sum of squares, then x times its scale, and that times the norm's weight.

        row: of x; products: the row of the first product; to: that of the second. banks: where the operands of the
        first product are written to, in order. is_written: x is written to the banks before, twice.
        """
        squares = self.at.bursts(self.sizes.hidden, self.at.block_banks // PAIR)
        size = self.at.bursts(self.sizes.hidden, self.at.block_banks // GROUP)
        if is_written:
            for bank in range(PAIR):
                self.write(row, squares, bank, PAIR)
        self.issue(aim.WriteBias(0, self.mask, "yes"))
        self.issue(aim.MacAllBanks(squares, self.mask, row, 0, other="bank"))
        self.issue(aim.ReadMac(0, self.mask, 0))
        for bank in banks:
            self.write(products, size, bank, GROUP)
        self._multiply(size, products)
        self._carry(size, products, to)
        self._multiply(size, to)
        self.read(to, size, 2, GROUP)
        self.issue(aim.Sync())

    def _multiply(self, count: int, row: Scalar) -> None:
        self.issue(aim.MultiplyBanks(count, self.mask, row))

    def _carry(self, count: int, row: int, to: int) -> None:
        """Products from the third bank of each group to its second, as an operand of the next product."""
        with self.emit.loop(self.at.banks // GROUP) as group:
            self.issue(aim.CopyBankToBuffer(count, self.mask, group * GROUP + 2, row))
            self.issue(aim.CopyBufferToBank(count, self.mask, group * GROUP + 1, to))

    def add(self) -> None:
        """A residual sum, by the controller's adder."""
        self.issue(aim.AddBuffers(self.sizes.hidden // self.at.column, 0, 0))

    def rotary(self, op_of_query: int, op_of_key: int) -> None:
        """The products of queries and keys with the table, and what is done with them after PNM has rearranged them."""
        both = (
            (op_of_query, self.rows.query, self.sizes.query_width),
            (op_of_key, self.rows.key, self.sizes.key_width),
        )

        def written(bank: int) -> None:
            for op, row, width in both:
                self.emit.op = op
                self.write(row, self.at.bursts(2 * width, self.at.block_banks // GROUP), bank, GROUP)

        written(1)
        for op, row, width in both:
            self.emit.op = op
            self._multiply(width // self.at.column, row)
        written(2)

    # -- attention ------------------------------------------------------------------------------------------------

    def append_key(self, keys: int) -> None:
        """The newest token's key, of all heads, into its bank; for each block in lock step."""
        token, depth, split = keys - 1, ceil(self.sizes.key_width, self.at.row), self.split
        turn, place = divmod(token, self.at.weight_banks)
        channel, bank = place // self.at.banks % split.channels, place % self.at.banks
        for part in range(depth):
            row = self.rows.keys + turn * depth + part
            for block in range(split.together):
                columns = self.at.row // self.at.column
                self.issue(aim.StripeWrite(columns, row, bank, 1, 1, channel + block * split.channels))

    def append_value(self, keys: int) -> None:
        """The newest token's value, one dimension of a head in each bank; for the first block alone."""
        per_channel = ceil(self.sizes.kv_heads, self.split.channels)
        groups, height = ceil(self.sizes.head_size, self.at.banks), self._value_height
        row, element = divmod(keys - 1, self.at.row)
        for head in range(per_channel):
            channels = range(head, self.sizes.kv_heads, per_channel)
            mask = (1 << len(channels)) - 1
            with self.emit.loop(groups) as group:
                first = self.rows.values + head * groups * height + row
                self.issue(aim.WriteAllBanks(mask, first + group * height, element, 0))

    @property
    def _value_height(self) -> int:
        """Rows of one dimension."""
        return 4096 // self.at.row

    def scores(self, keys: int) -> None:
        """Queries times keys, a token in each bank at a time. The last round takes channels as far as they hold keys,
        and as often as they fit the devices of the group."""
        depth = ceil(self.sizes.key_width, self.at.row)
        rounds = ceil(keys, self.at.weight_banks)
        left = ceil(keys - (rounds - 1) * self.at.weight_banks, self.at.banks)
        width = self.spec.dram.channels * self.split.ranks
        is_full = left * self.at.banks == self.at.weight_banks
        last = self.mask if is_full else (1 << min(width // left * left, self.spec.dram.channels)) - 1
        with self.emit.loop(depth) as part:
            with self.emit.loop(rounds - 1) as turn:
                self._scores_round(self.rows.keys + turn * depth + part, self.mask)
            self._scores_round(self.rows.keys + (rounds - 1) * depth + part, last)

    def _scores_round(self, row: Scalar, mask: int) -> None:
        heads, columns = self.at.row // self.sizes.head_size, ceil(self.sizes.head_size, self.at.column)
        with self.emit.loop(self.sizes.queries):
            self.issue(aim.WriteGlobalBuffer(self.at.row // self.at.column, 0, mask))
            with self.emit.loop(heads) as head:
                self._sum(columns, row, mask, head * columns)

    def _sum(self, count: int, row: Scalar, mask: int, column: Scalar = 0) -> None:
        self.issue(aim.WriteBias(0, mask, "yes"))
        self.issue(aim.MacAllBanks(count, mask, row, 0, column, column))
        self.issue(aim.ReadMac(0, mask, 0))

    def softmax(self, keys: int) -> None:
        """Scores times 1/sqrt(d), and exponentials times the reciprocal of their sum: two products of the same form."""
        of_group = ceil(self.sizes.heads, GROUP * self.split.channels)
        channels = ceil(self.sizes.heads, GROUP * of_group)

        def moved(move: Callable[..., None], bank: int) -> Callable[[Scalar, int], None]:
            return lambda row, count: move(row, count, bank, GROUP, channels)

        for _ in range(2):
            for bank in range(2):
                self._score_rows(keys, of_group, moved(self.write, bank))
            height = ceil(keys, self.at.row)
            for head in range(of_group):
                for part, count in enumerate(self._row_counts(keys)):
                    self._multiply(count, self.rows.scores + head * height + part)
            self._score_rows(keys, of_group, moved(self.read, 2))
            self.issue(aim.Sync())

    def _score_rows(self, keys: int, of_group: int, move: Callable[[Scalar, int], None]) -> None:
        height = ceil(keys, self.at.row)
        for part, count in enumerate(self._row_counts(keys)):
            with self.emit.loop(of_group) as head:
                move(self.rows.scores + head * height + part, count)

    def _row_counts(self, keys: int) -> Iterable[int]:
        """Accesses of each row of scores."""
        height = ceil(keys, self.at.row)
        return [self.at.row // self.at.column] * (height - 1) + [self.at.last(keys)]

    def context(self, keys: int) -> None:
        """Scores times values, for each query head by itself."""
        per_channel = ceil(self.sizes.kv_heads, self.split.channels)
        groups, height = ceil(self.sizes.head_size, self.at.banks), self._value_height
        with self.emit.loop(per_channel) as head, self.emit.loop(self.sizes.queries):
            for part, count in enumerate(self._row_counts(keys)):
                self.issue(aim.WriteGlobalBuffer(count, 0, self.mask))
                with self.emit.loop(groups) as group:
                    self._sum(count, self.rows.values + head * (groups * height) + group * height + part, self.mask)

    # -- feed forward ---------------------------------------------------------------------------------------------

    def gated(self, op_of_activation: int, op_of_product: int) -> None:
        """gate * sigmoid(gate), which is the activation, and that times up. A vector that a row of the banks does not
        hold goes in as many parts as it fills."""
        size, most = self.at.bursts(self.sizes.ffn, self.at.block_banks // GROUP), self.at.row // self.at.column
        parts, row = ceil(size, most), self.rows.activated
        for count in [ceil(size, parts)] * (parts - 1) + [size - ceil(size, parts) * (parts - 1)]:
            self.emit.op = op_of_activation
            for bank in range(2):
                self.write(row, count, bank, GROUP)
            self._multiply(count, row)
            self._carry(count, row, row)
            self.emit.op = op_of_product
            self.write(row, count, 0, GROUP)
            self._multiply(count, row)
            self.read(row, count, 2, GROUP)
            self.issue(aim.Sync())
