"""Which rows of a bank hold what: the same in every bank of a block's channels (CENT's layout).

Weights: the outputs are dealt to the banks in contiguous groups, and each takes as many rows as its inputs fill. Keys:
token t lies in bank t mod banks, all heads of it. Values: each head in one channel, each of its dimensions a vector
along the tokens. All other vectors are spread over the banks a little each.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from pimc.backends.cent.decoder import BlockSizes
from pimc.backends.cent.split import Split
from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import Kind, fail
from pimc.record import record

LONGEST = 4096
"""Tokens that the published layout has room for. Longer caches go on where theirs began, into what comes behind."""


def ceil(a: int, b: int) -> int:
    return -(-a // b)


@record
class Geometry:
    """What a block's channels have to offer."""

    banks: int
    """of one channel"""
    row: int
    """elements of a row"""
    column: int
    """elements of an access"""
    weight_banks: int
    """banks over which weights and keys are spread, on all devices of a group"""
    block_banks: int
    """banks of a block on the master"""
    channels: int

    @staticmethod
    def of(spec: TargetSpec, split: Split) -> Geometry:
        own = spec.dram.banks * split.channels
        size = spec.element_bytes
        return Geometry(
            spec.dram.banks, spec.dram.row_bytes // size, spec.dram.access_bytes // size, own * split.ranks, own,
            split.channels,
        )  # fmt: skip

    def bursts(self, elements: int, per: int) -> int:
        """Accesses of each of `per` places that a vector is spread over."""
        return ceil(ceil(elements, per), self.column)

    def last(self, elements: int) -> int:
        """Accesses in the last row of a vector."""
        return ceil((elements - 1) % self.row + 1, self.column)


@record
class Rows:
    """The first row of everything, in the published order."""

    x: int
    x_copy: int
    norm: int
    query_weight: int
    key_weight: int
    value_weight: int
    query: int
    key: int
    keys: int
    scores: int
    values: int
    context: int
    output_weight: int
    sum: int
    sum_copy: int
    ffn_norm: int
    gate_weight: int
    up_weight: int
    gate: int
    up: int
    activated: int
    ffn_vector: int
    down_weight: int
    result: int
    end: int

    def named(self) -> Iterator[tuple[str, int, int]]:
        """Name, first row and number of rows of each."""
        names = list(self.__dataclass_fields__)
        for name, following in pairwise(names):
            first = getattr(self, name)
            yield name, first, getattr(self, following) - first


def rows_of(sizes: BlockSizes, at: Geometry) -> Rows:
    """The layout of one block."""

    def weight(inputs: int, outputs: int) -> int:
        return ceil(outputs, at.weight_banks) * ceil(inputs, at.row)

    heads_of_group = ceil(sizes.heads, 4 * at.channels)
    per_channel = ceil(sizes.kv_heads, at.channels)
    vector = max(1, ceil(sizes.ffn // at.column, at.row))
    hidden, wide = sizes.hidden, weight(sizes.hidden, sizes.ffn)
    key_value = weight(hidden, sizes.key_width)
    counts = (
        1, 1, 1, weight(hidden, sizes.query_width), key_value, key_value, 1, 1,
        ceil(LONGEST, at.weight_banks) * ceil(sizes.key_width, at.row), LONGEST // at.row * heads_of_group,
        LONGEST // at.row * per_channel * ceil(sizes.head_size, at.banks), 1,
        weight(sizes.query_width, hidden), 1, 1, 1,
        wide, wide, 1, 1, 1, vector, weight(sizes.ffn, hidden), 1,
    )  # fmt: skip
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return Rows(*starts)


def check_capacity(spec: TargetSpec, split: Split, rows: Rows, blocks: int, name: str) -> None:
    """Raise CompileError (CAPACITY) where the blocks of a device need more rows than a bank has."""
    each = ceil(blocks, split.stages)
    need = rows.end * each
    if need > spec.dram.rows:
        raise fail(
            Kind.CAPACITY,
            f"'{name}' needs {need} rows of every bank ({each} blocks of {rows.end} rows on {split.channels} "
            f"channels), but a bank of '{spec.name}' has {spec.dram.rows}",
            help="spread it over more devices: --set system.devices=N --parallel pp=P,tp=T",
        )
