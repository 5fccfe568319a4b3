"""How the operands that stay in PIM banks lie there, and how lowering finds its way in such layouts.

A bank matrix puts row n of [N, K] into one bank and one group of DRAM rows, so that all banks multiply at the same row
index: n counts (group, channel, bank), k counts (row of the group, element). Dimensions are padded to whole digits: a
layout may have more elements than the value, of which the first are meant. Padding belongs to the value alone and
stays zero.

Keys and values of a cache [B, KV, T, D]:

    AiM, keys      (b, kv) pairs over channels, tokens over (rows, slots of a row, spare channels, banks), D in a row
    AiM, values    the same pairs over channels, dims over (rows, slots, spare channels, banks), tokens along rows
    CENT, keys     tokens over (rows, channels, banks), kv heads side by side in as many rows as they need
    CENT, values   pairs over channels, dims over (rows, banks), tokens along rows
    Newton, keys   b over channels, tokens over (rows, banks), kv heads packed side by side in rows
    Newton, values b over channels, dims over (rows, banks), tokens along rows   (both as NeuPIMs lays them out; where
                   that does not fit, b and groups of heads over channels)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from pimc.backends.pim.cells import CELL_BYTES, LANES
from pimc.backends.pim.mapping import MAPPINGS, PimMapping, mapping_of
from pimc.backends.state import DramGeometry
from pimc.backends.target import TargetSpec
from pimc.ir.layout import Digit, Layout
from pimc.record import record

MOST_SLOTS = 8
"""Groups of dims of a value cache that may share a row; each keeps an accumulator busy."""
STAGING_SLOTS = 2
"""Vectors on their way into global buffers take turns in so many stretches of staging rows."""
STAGING_ROWS = 4
"""Row indices of one stretch: each bank row of it holds one filling of a global buffer."""
STAGED_WAVES = 16
"""Waves of requests whose vectors have stretches of their own, so that all are on their way at once."""


def up(count: int, size: int) -> int:
    """How many pieces of `size` cover `count`; at least one."""
    return max(1, -(-count // size))


@record
class Banks:
    """Where in the banks of a device an operand goes, and by which of the target's strategies."""

    geometry: DramGeometry
    channels: range
    """those that may take part"""
    first_row: int
    mapping: PimMapping = MAPPINGS["default"]
    tokens_first: bool = False
    """rows of a cache's first tokens come before those of later ones, for all heads and dims: so lie blocks"""
    heads_apart: bool = False
    """kv heads of a request may lie in several channels, if there are more of those than requests (Newton)"""

    @property
    def start(self) -> int:
        return self.geometry.address(self.channels.start, 0, self.first_row)

    def steps(self, outer: int, inner: int) -> tuple[int, int]:
        """Row strides of two digits of `outer` and `inner` values; work goes through the inner one's values outside."""
        row = self.geometry.stride_row
        return (row, outer * row) if self.mapping.follows_work else (inner * row, row)


def bank_matrix(banks: Banks, n: int, k: int, element_bytes: int, slots: int = 1) -> Layout:
    """[N, K] with n over (groups, slots of a row, channels, banks) and k over (rows of a group, elements of a slot).

    No more channels take part than the groups need. slots: outputs that share a row of a bank, in equal parts.
    """
    geometry, usable = banks.geometry, banks.channels
    elements = geometry.row_bytes // element_bytes // slots
    chunks = up(k, elements)
    filled = min(slots, up(n, len(usable) * geometry.banks))
    groups = up(n, filled * len(usable) * geometry.banks)
    used = up(n, groups * filled * geometry.banks)
    group_step, chunk_step = banks.steps(groups, chunks)
    rows: tuple[Digit, ...] = (
        (groups, group_step),
        (filled, elements * element_bytes),
        (used, geometry.stride_channel),
        (geometry.banks, geometry.stride_bank),
    )
    within = min(elements, up(k, LANES) * LANES) if chunks == 1 else elements
    along: tuple[Digit, ...] = ((chunks, chunk_step), (within, element_bytes))
    return Layout(banks.start, (rows, along))


def bank_matrices(banks: Banks, shape: Sequence[int]) -> Layout:
    """[E, N, K]: bank matrices that follow each other, all alike."""
    experts, n, k = shape
    one = bank_matrix(banks, n, k, CELL_BYTES)
    _, end = one.span(CELL_BYTES)
    rows = up(end, banks.geometry.stride_row) - banks.first_row
    return Layout(one.offset, (((experts, rows * banks.geometry.stride_row),), *one.dims))


@record
class Pairs:
    """How the (b, kv) pairs of a cache share the channels: `turns` of each over rows, `spread` over channels."""

    batch: Digit
    """(turns, spread)"""
    heads: Digit
    spare: int
    """channels of one pair"""

    @staticmethod
    def of(batch: int, heads: int, channels: int) -> Pairs:
        head_turns = up(heads, channels)
        spread = up(heads, head_turns)
        batch_turns = up(batch, channels // spread)
        together = up(batch, batch_turns)
        return Pairs((batch_turns, together), (head_turns, spread), channels // (spread * together))

    def dims(
        self, geometry: DramGeometry, pair_rows: int, head_rows: int = 0
    ) -> tuple[tuple[Digit, ...], tuple[Digit, ...]]:
        """The digits of B and of KV, where a pair takes `pair_rows` rows.

        head_rows: from head to head, if not those.
        """
        (batch_turns, together), (head_turns, spread) = self.batch, self.heads
        row, channel = geometry.stride_row, geometry.stride_channel * self.spare
        return (
            ((batch_turns, head_turns * pair_rows * row), (together, spread * channel)),
            ((head_turns, (head_rows or pair_rows) * row), (spread, channel)),
        )


def aim_keys(space: Banks, shape: Sequence[int]) -> Layout:
    """[B, KV, T, D]: a token's D elements lie in one bank; neighbouring tokens in neighbouring banks."""
    geometry = space.geometry
    batch, heads, tokens, depth = shape
    slot = up(depth, LANES) * LANES * CELL_BYTES
    slots = geometry.row_bytes // slot
    pairs = Pairs.of(batch, heads, len(space.channels))
    at_once = pairs.spare * geometry.banks
    slots = min(slots, up(tokens, at_once))
    rows = up(tokens, slots * at_once)
    step = pairs.heads[0] if space.tokens_first else 1
    token: tuple[Digit, ...] = (
        (rows, step * geometry.stride_row),
        (slots, slot),
        (pairs.spare, geometry.stride_channel),
        (geometry.banks, geometry.stride_bank),
    )
    outer = pairs.dims(geometry, rows, 1 if space.tokens_first else 0)
    return Layout(space.start, (*outer, token, ((depth, CELL_BYTES),)))


def aim_values(space: Banks, shape: Sequence[int]) -> Layout:
    """[B, KV, T, D]: a dim's tokens lie along the rows of one bank; neighbouring dims in neighbouring banks.

    A row has the same tokens of as many dims as possible: what is brought into the global buffer for some tokens then
    meets all of their values in few rows.
    """
    geometry = space.geometry
    batch, heads, tokens, depth = shape
    elements = geometry.row_bytes // CELL_BYTES
    pairs = Pairs.of(batch, heads, len(space.channels))
    parts = up(depth, geometry.banks)
    spare = up(parts, up(parts, pairs.spare))
    slots = min(up(parts, spare), MOST_SLOTS)
    most = elements // (1 << (slots - 1).bit_length()) // LANES * LANES
    along = min(most, up(tokens, LANES) * LANES)
    rows = up(tokens, along)
    turns = up(parts, spare * slots)
    turn_step, row_step = (1, pairs.heads[0] * turns) if space.tokens_first else (rows, 1)
    dim: tuple[Digit, ...] = (
        (turns, turn_step * geometry.stride_row),
        (slots, along * CELL_BYTES),
        (spare, geometry.stride_channel),
        (geometry.banks, geometry.stride_bank),
    )
    token: tuple[Digit, ...] = ((rows, row_step * geometry.stride_row), (along, CELL_BYTES))
    outer = pairs.dims(geometry, turns * rows, turns if space.tokens_first else 0)
    return Layout(space.start, (*outer, token, dim))


SCORE_BANKS = 4
"""Banks of a group: scores lie in the group, factors and products beside them."""
FACTOR_BANK, PRODUCT_BANK = 1, 2
"""Where in a bank group EWMUL takes the second factor, and where its results are."""


def score_width(geometry: DramGeometry, tokens: int) -> int:
    """Tokens in a row of scores and of values: whole rounds of all banks, where a row has room for one."""
    elements, round_tokens = geometry.row_bytes // CELL_BYTES, geometry.channels * geometry.banks
    most = elements // round_tokens * round_tokens or elements
    return min(most, up(tokens, LANES) * LANES)


def cent_keys(banks: Banks, shape: Sequence[int]) -> Layout:
    """[B, KV, T, D]: token t in bank t mod banks, counted over all channels, with all its kv heads."""
    batch, heads, tokens, depth = shape
    geometry = banks.geometry
    packed, slot = packing(banks, depth)
    packed = min(heads, packed)
    chunks = up(heads, packed)
    channels = len(banks.channels)
    rounds = up(tokens, channels * geometry.banks)
    row = geometry.stride_row
    return Layout(
        banks.start,
        (
            ((batch, rounds * chunks * row),),
            ((chunks, row), (packed, slot)),
            ((rounds, chunks * row), (channels, geometry.stride_channel), (geometry.banks, geometry.stride_bank)),
            ((depth, CELL_BYTES),),
        ),
    )


def cent_values(banks: Banks, shape: Sequence[int]) -> Layout:
    """[B, KV, T, D]: a pair in one channel, a dim's tokens along the rows of one bank."""
    batch, heads, tokens, depth = shape
    geometry = banks.geometry
    along = score_width(geometry, tokens)
    rows, parts = up(tokens, along), up(depth, geometry.banks)
    turns, spread = _over(heads, len(banks.channels))
    row = geometry.stride_row
    head_step, row_step, part_step = (
        (parts, turns * parts, 1) if banks.tokens_first else (parts * rows, 1, rows)
    )
    return Layout(
        banks.start,
        (
            ((batch, turns * parts * rows * row),),
            ((turns, head_step * row), (spread, geometry.stride_channel)),
            ((rows, row_step * row), (along, CELL_BYTES)),
            ((parts, part_step * row), (geometry.banks, geometry.stride_bank)),
        ),
    )


def cent_scores(banks: Banks, shape: Sequence[int], kv: int) -> Layout:
    """[B, H, S, T] in bank 2 of bank groups: groups of heads over channels, heads of a group over bank groups."""
    batch, heads, steps, tokens = shape
    geometry = banks.geometry
    width = score_width(geometry, tokens)
    rows, group = up(tokens, width), heads // kv
    turns, spread = _over(kv, len(banks.channels))
    blocks, beside = _over(group, geometry.banks // SCORE_BANKS)
    row = geometry.stride_row
    of_head = steps * rows * row
    return Layout(
        banks.start + PRODUCT_BANK * geometry.stride_bank,
        (
            ((batch, turns * blocks * of_head),),
            (
                (turns, blocks * of_head),
                (spread, geometry.stride_channel),
                (blocks, of_head),
                (beside, SCORE_BANKS * geometry.stride_bank),
            ),
            ((steps, rows * row),),
            ((rows, row), (width, CELL_BYTES)),
        ),
    )


def _over(count: int, places: int) -> tuple[int, int]:
    """Turns, and how many side by side in each, for `count` things in so many places."""
    turns = up(count, places)
    return turns, up(count, turns)


def spread_of(heads: int, channels: int) -> int:
    """Over how many channels CENT's values and scores spread heads of keys."""
    return _over(heads, channels)[1]


def scores_layout(spec: TargetSpec, first_row: int, shape: Sequence[int], kv: int) -> tuple[Layout, int]:
    """The layout of scores [B, H, S, T] that EWMUL scales, from a row index on, and how many row indices it takes."""
    geometry = spec.dram.geometry
    layout = cent_scores(Banks(geometry, range(geometry.channels), first_row, mapping_of(spec)), shape, kv)
    _, end = layout.span(CELL_BYTES)
    return layout, up(end, geometry.stride_row) - first_row


def newton_keys(banks: Banks, shape: Sequence[int]) -> Layout:
    """[B, KV, T, D]: token t in bank t mod banks; its kv heads side by side in as many rows as they need."""
    batch, heads, tokens, depth = shape
    geometry = banks.geometry
    packed, slot = packing(banks, depth)
    apart = heads_apart(banks, batch, heads, packed)
    heads //= apart
    packed = min(heads, packed)
    chunks = up(heads, packed)
    rows = up(tokens, geometry.banks)
    row_step, chunk_step = banks.steps(rows, chunks)
    return Layout(
        banks.start,
        (
            _over_channels(banks, batch, rows * chunks, apart),
            (*_apart(banks, apart), (chunks, chunk_step), (packed, slot)),
            ((rows, row_step), (geometry.banks, geometry.stride_bank)),
            ((depth, CELL_BYTES),),
        ),
    )


def packing(banks: Banks, depth: int) -> tuple[int, int]:
    """How many keys of `depth` elements share a row, and the bytes from one to the next."""
    row, slot = banks.geometry.row_bytes, up(depth, LANES) * LANES * CELL_BYTES
    packed = row // (depth * CELL_BYTES) if banks.mapping.packs_by_size else row // slot
    return packed, slot if packed * slot <= row else depth * CELL_BYTES


def newton_values(banks: Banks, shape: Sequence[int]) -> Layout:
    """[B, KV, T, D]: dim d in bank d mod banks; its tokens along rows."""
    batch, heads, tokens, depth = shape
    geometry = banks.geometry
    apart = heads_apart(banks, batch, heads, 1)
    heads //= apart
    elements = geometry.row_bytes // CELL_BYTES
    rows = up(tokens, elements)
    parts = up(depth, geometry.banks)
    along = elements if rows > 1 else up(tokens, LANES) * LANES
    part_step, row_step = banks.steps(parts, rows)
    head_step = parts * rows * geometry.stride_row
    if banks.tokens_first:  # a shorter request needs fewer rows then
        part_step, row_step, head_step = (n * geometry.stride_row for n in (1, heads * parts, parts))
    return Layout(
        banks.start,
        (
            _over_channels(banks, batch, heads * parts * rows, apart),
            (*_apart(banks, apart), (heads, head_step)),
            ((rows, row_step), (along, CELL_BYTES)),
            ((parts, part_step), (geometry.banks, geometry.stride_bank)),
        ),
    )


def _over_channels(banks: Banks, batch: int, request_rows: int, apart: int) -> tuple[Digit, ...]:
    """Requests over channels in turns (round robin), each in one channel, or in neighbouring ones."""
    turns = up(batch, len(banks.channels))
    together = min(batch, len(banks.channels))
    return ((turns, request_rows * banks.geometry.stride_row), (together, apart * banks.geometry.stride_channel))


def heads_apart(banks: Banks, batch: int, heads: int, packed: int) -> int:
    """Over how many channels the kv heads of a request are spread: as many as are spare, each with as many heads,
    which fill rows of `packed`."""
    if not banks.heads_apart:
        return 1
    spare = max(1, len(banks.channels) // batch)
    return max(n for n in range(1, min(spare, heads) + 1) if not heads % n and not heads // n % min(packed, heads // n))


def _apart(banks: Banks, apart: int) -> tuple[Digit, ...]:
    return ((apart, banks.geometry.stride_channel),) if apart > 1 else ()


def one_head_group_a_channel(layout: Layout, geometry: DramGeometry) -> tuple[Layout, int]:
    """A Newton cache as one of more requests with fewer heads, each in one channel, and into how many of these each
    request is cut."""
    requests, heads = layout.dims[:2]
    kept = [d for d in heads if d[0] > 1]
    if len(kept) < 2 or kept[0][1] != geometry.stride_channel:
        return layout, 1
    apart = kept[0][0]
    together = prod(count for count, _ in requests)
    over = ((together * apart, geometry.stride_channel),)
    return Layout(layout.offset, (over, tuple(kept[1:]), *layout.dims[2:])), apart


def bank_layout(
    spec: TargetSpec, kind: str, first_row: int, shape: Sequence[int], channels: Sequence[int] = (), *,
    tokens_first: bool = False, heads_apart: bool = False, slots: int = 1,
) -> tuple[Layout, int]:  # fmt: skip
    """The layout of a PIM operand from a row index on, and how many row indices it takes.

    kind: weight ([K, N]), experts ([E, N, K]), key or value ([B, KV, T, D]). channels: neighbours; none: all.
    tokens_first, heads_apart: as `Banks` has them. slots: of a weight, outputs that share a row.
    """
    assert spec.pim is not None
    geometry = spec.dram.geometry
    usable = range(channels[0], channels[-1] + 1) if channels else range(geometry.channels)
    banks = Banks(geometry, usable, first_row, mapping_of(spec), tokens_first, heads_apart)
    if kind == "weight":
        k, n = shape
        layout = bank_matrix(banks, n, k, CELL_BYTES, slots).permuted((1, 0))
    elif kind == "experts":
        layout = bank_matrices(banks, shape)
    else:
        make = {
            ("aim", "key"): aim_keys,
            ("aim", "value"): aim_values,
            ("newton", "key"): newton_keys,
            ("newton", "value"): newton_values,
            ("cent", "key"): cent_keys,
            ("cent", "value"): cent_values,
        }["cent" if banks.mapping.tokens_in_banks else spec.pim.style, kind]
        layout = make(banks, shape)
    _, end = layout.span(CELL_BYTES)
    return layout, up(end, geometry.stride_row) - first_row


def row_tokens(spec: TargetSpec, kind: str, shape: Sequence[int]) -> int:
    """Tokens of keys or values [B, KV, T, D] that lie in one row index, where there are enough of them."""
    batch, heads, _, depth = shape
    many = spec.dram.geometry.bytes
    layout, _ = bank_layout(spec, kind, 0, (batch, heads, many, depth), tokens_first=True)
    digits = digits_of(layout, 2, spec.dram.geometry)
    assert digits is not None
    return prod(count for count, _ in layout.dims[2]) // digits.row[0]


def request_rows(spec: TargetSpec, kind: str, shape: Sequence[int]) -> int:
    """Row indices that one request with keys or values [KV, T, D] takes in its channel."""
    heads, tokens, depth = shape
    geometry = spec.dram.geometry
    if kind == "key":
        packed = min(heads, geometry.row_bytes // (up(depth, LANES) * LANES * CELL_BYTES))
        return up(tokens, geometry.banks) * up(heads, packed)
    return up(tokens, geometry.row_bytes // CELL_BYTES) * heads * up(depth, geometry.banks)


def requests_layout(spec: TargetSpec, kind: str, first_row: int, shape: Sequence[int], channels: range) -> Layout:
    """Keys or values of requests in neighbouring channels, from a row index on."""
    banks = Banks(spec.dram.geometry, channels, first_row, mapping_of(spec), tokens_first=True)
    return newton_keys(banks, shape) if kind == "key" else newton_values(banks, shape)


def staging_rows(spec: TargetSpec, waves: int = 1) -> int:
    """Row indices that lowering needs for vectors on their way into global buffers. waves: of requests."""
    is_newton = spec.pim is not None and spec.pim.style == "newton"
    if not is_newton or mapping_of(spec).one_vector_row:
        return 0
    return STAGING_SLOTS * STAGING_ROWS * min(STAGED_WAVES, waves)


def vector_layout(
    spec: TargetSpec, kind: str, shape: Sequence[int], operand: Sequence[int], channels: Sequence[int] = ()
) -> Layout:
    """The vectors of a product, all in row 0 of bank 0 (of the first channel), part by part as GWRITE takes them.

    kind, operand and channels: what the vectors are multiplied with, its shape and channels.
    """
    geometry = spec.dram.geometry
    row = geometry.row_bytes // CELL_BYTES
    parts = up(shape[-1], row)
    vector: tuple[Digit, ...] = ((parts, 0), (row, CELL_BYTES)) if parts > 1 else ((shape[-1], CELL_BYTES),)
    outer: list[tuple[Digit, ...]] = [((extent, 0),) for extent in shape[:-1]]
    if kind == "key":  # queries [B, H, S, D]: those of the keys in a row lie side by side
        banks = Banks(geometry, range(geometry.channels), 0, mapping_of(spec))
        packed, slot = packing(banks, shape[-1])
        heads = min(packed, operand[1])
        outer[1] = ((up(operand[1], heads), 0), (heads, slot), (shape[1] // operand[1], heads * slot))
    return Layout(geometry.address(channels[0] if channels else 0, 0, 0), (*outer, vector))


# -- reading layouts --------------------------------------------------------------------------------------------------


@record
class Digits:
    """One dimension, by what its digits move: each is (count, stride), strides in rows, bytes, channels and banks.

    The index counts rows outermost, then bytes (within a row), channels, banks.
    """

    row: Digit = (1, 0)
    byte: Digit = (1, 0)
    channel: Digit = (1, 0)
    bank: Digit = (1, 0)


def digits_of(layout: Layout, dim: int, geometry: DramGeometry) -> Digits | None:
    """Sort the digits of a dimension; None where they are not as in the patterns above."""
    sizes = {"row": geometry.stride_row, "bank": geometry.stride_bank, "channel": geometry.stride_channel, "byte": 1}
    order = ("row", "byte", "channel", "bank")
    found: dict[str, Digit] = {}
    last = -1
    for count, stride in layout.dims[dim]:
        if count == 1:
            continue
        name, unit = next((name, unit) for name, unit in sizes.items() if stride % unit == 0)
        position = order.index(name)
        if position <= last:
            return None
        last = position
        found[name] = (count, stride // unit)
    return Digits(**found)


@record
class BankPattern:
    """A layout that PIM can work on: where it begins and the digits of every dimension."""

    row: int
    channel: int
    dims: tuple[Digits, ...]


def pattern_of(layout: Layout, geometry: DramGeometry) -> BankPattern | None:
    """The pattern of a layout; None where it does not begin a row of bank 0 or its digits do not fit."""
    row, rest = divmod(layout.offset, geometry.stride_row)
    channel, byte = divmod(rest, geometry.stride_channel)
    dims = [digits_of(layout, i, geometry) for i in range(len(layout.dims))]
    if byte or channel >= geometry.channels or any(d is None for d in dims):
        return None
    return BankPattern(row, channel, tuple(d for d in dims if d is not None))


def padded_extent(layout: Layout, dim: int) -> int:
    """Indices that the digits of a dimension count, padding included."""
    return prod(count for count, _ in layout.dims[dim])
