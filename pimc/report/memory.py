"""What lies in the memories of a device: by role, by address, the largest tensors, and by bank and channel."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import partial

from pimc.amounts import grouped, memory_text, percent, size_text, time_text
from pimc.report import palette
from pimc.report.html import NONE, Column, Html, Table, cell, join, section, tag, text
from pimc.report.scales import Linear
from pimc.report.svg import WIDE, both, label, legend, line, number, path, rect, svg
from pimc.report.view import View
from pimc.sim.channels import ChannelsReport
from pimc.sim.paging import BlocksReport
from pimc.sim.residence import BanksReport, MemoryReport

PLURAL = {"temporary": "temporaries"}
SHADES = 9


def memory_section(view: View) -> Html:
    spaces = view.report.memory
    if not spaces:
        return NONE
    roles = [r for r in palette.ROLES if any(r in m.roles for m in spaces)]
    shown = legend([*((palette.role(r), _plural(r)) for r in roles), ("m-rest", "intermediate results, padding, room")])
    note = "Memories of one device, each from address 0 to the peak of what the program uses of it."
    several = " The first device is shown; others may hold other layers." if view.report.devices > 1 else ""
    paged = join(_paged(b) for b in view.report.paging)
    return section("Memory map", "memory", shown, join(_space(m) for m in spaces), paged, note=note + several)


def _paged(b: BlocksReport) -> Html:
    said = (
        f"{b.caches} caches are paged: {grouped(b.blocks)} blocks of {grouped(b.block_tokens)} tokens in each, "
        f"{percent(b.filled)} filled, out of pools of {grouped(b.pool_blocks)}; block tables of "
        f"{memory_text(b.table_bytes)}"
    )
    return tag("p", text(said), class_="said")


def _plural(role: str) -> str:
    return PLURAL.get(role, f"{role}s")


def _space(m: MemoryReport) -> Html:
    of = f" of {memory_text(m.capacity)} ({percent(m.peak / m.capacity)})" if m.capacity else ""
    title = tag("h3", text(f"{m.space}: peak {memory_text(m.peak)}{of}"))
    sizes = [f"{_plural(role)} {memory_text(size)}" for role, size in sorted(m.roles.items(), key=lambda r: -r[1])]
    said = tag("p", text(", ".join(sizes) or "Only what ops hold in passing."), class_="said")
    drawn = both(partial(_addresses, m)) if m.peak and m.stretches else NONE
    largest = _largest(m).html() if m.largest else NONE
    return Html(f"{title}{said}{drawn}{largest}")


def _addresses(m: MemoryReport, width: int) -> Html:
    axis = Linear(m.peak, 1, width - 1)
    parts = [rect(1, 2, width - 2, 26, "m-rest")]
    for s in m.stretches:
        tip = f"{s.role}: {memory_text(s.start)} to {memory_text(s.end)}"
        parts.append(
            rect(axis.at(s.start), 2, max(0.6, axis.at(s.end) - axis.at(s.start)), 26, palette.role(s.role), tip)
        )
    parts.append(label(1, 44, "0", "tick"))
    parts.append(label(width - 1, 44, memory_text(m.peak), "tick", "end"))
    return svg(width, 50, parts, f"addresses of {m.space}")


def _largest(m: MemoryReport) -> Table:
    columns = [Column(f"most of {m.tensors} tensors"), Column("number", True), Column("role"), Column("size", True)]
    rows = [[cell(t.name), cell(str(t.count)), cell(t.role), cell(memory_text(t.bytes), t.bytes)] for t in m.largest]
    return Table(f"memory-{m.space}", columns, rows, kind="small")


# -- banks ------------------------------------------------------------------------------------------------------------


def banks_section(view: View) -> Html:
    banks, channels = view.report.banks, view.report.channels
    if banks is None:
        return NONE
    parts: list[Html] = [tag("h3", text("Bytes that lie in each bank of each channel")), _scale(banks)]
    parts.append(both(partial(_grid, banks)))
    if channels is not None and any(channels.commands):
        parts += _load(channels)
    note = (
        "How evenly the first device's channels (left to right) and banks (top to bottom) are used: weights, caches, "
        "inputs and outputs by their place in the memory map"
        + (f", and the work that {channels.engine} is given in each channel." if channels is not None else ".")
    )
    return section("Channels and banks", "banks", *parts, note=note)


def _scale(banks: BanksReport) -> Html:
    sizes = [size for row in banks.resident for size in row]
    mean = sum(sizes) / len(sizes)
    spread = max(sizes) / mean if mean else 1.0
    said = f"{memory_text(min(sizes))} to {memory_text(max(sizes))}; the fullest has {spread:.2f} times the mean"
    steps = join(Html(f'<i class="h{i}"></i>') for i in range(SHADES + 1))
    return tag("p", text("least "), tag("span", steps, class_="steps"), text(f" most · {said}"), class_="said")


def _shade(value: float, most: float) -> str:
    return f"h{0 if not value else max(1, min(SHADES, round(value / most * SHADES)))}" if most else "h0"


def _grid(banks: BanksReport, width: int) -> Html:
    left, bottom = 34, 20
    wide = (width - left - 2) / banks.channels
    tall = min(14.0, max(6.0, 320 / banks.banks))
    most = max(size for row in banks.resident for size in row)
    gap = 0.8 if wide > 6 else 0.3
    parts: list[Html] = []
    same: dict[str, list[str]] = defaultdict(list)
    for bank, row in enumerate(banks.resident):
        for channel, size in enumerate(row):
            x, y, shade = left + channel * wide, bank * tall, _shade(size, most)
            if width == WIDE:  # a telephone shows no tips
                tip = f"channel {channel}, bank {bank}: {memory_text(size)}"
                parts.append(rect(x, y, wide - gap, tall - gap, shade, tip))
            else:
                same[shade].append(
                    f"M{number(x)} {number(y)}h{number(wide - gap)}v{number(tall - gap)}h-{number(wide - gap)}z"
                )
    parts += [path("".join(cells), shade) for shade, cells in sorted(same.items())]
    every = max(1, -(-14 // int(tall)))
    parts += [label(left - 6, b * tall + tall / 2 + 4, str(b), "tick", "end") for b in range(0, banks.banks, every)]
    parts += _channel_numbers(banks.channels, left, wide, banks.banks * tall + 14)
    return svg(width, banks.banks * tall + bottom, parts, "bytes in each bank of each channel")


def _channel_numbers(channels: int, left: float, wide: float, y: float) -> Iterator[Html]:
    every = max(1, -(-18 // max(1, int(wide))))
    for channel in range(0, channels, every):
        yield label(left + (channel + 0.5) * wide, y, str(channel), "tick", "middle")


def _load(channels: ChannelsReport) -> Iterator[Html]:
    yield tag("h3", text(f"Column accesses of {channels.engine} in each channel"))
    yield both(partial(_columns, channels.columns, "column accesses"))
    if channels.busy and any(channels.busy):
        yield tag("h3", text(f"Time for which each channel of {channels.engine} is at work"))
        yield both(partial(_columns, channels.busy, ""))


def _columns(values: Sequence[float], unit: str, width: int) -> Html:
    left, height = 34, 70
    wide = (width - left - 2) / len(values)
    most = max(values) or 1
    parts = [line(left, height, width - 2, height, "base"), label(left, 11, _said(most, unit), "tick halo")]
    for channel, value in enumerate(values):
        tall = (height - 16) * value / most
        tip = f"channel {channel}: {_said(value, unit)}"
        parts.append(rect(left + channel * wide, height - tall, wide - 0.8, tall, "e-pim", tip))
    parts += _channel_numbers(len(values), left, wide, height + 14)
    return svg(width, height + 20, parts, "load of channels")


def _said(value: float, unit: str) -> str:
    return f"{grouped(int(value))} {unit}" if unit else time_text(value)


# -- moves ------------------------------------------------------------------------------------------------------------


def moves_section(view: View) -> Html:
    moves = view.report.moves
    if not moves:
        return NONE
    whole = view.report.seconds or 1.0
    most = max(m.bytes for m in moves)
    columns = [Column("from"), Column("to"), Column("moved by"), Column("bytes", True), Column("mean rate", True)]
    rows = [
        [
            cell(m.source),
            cell(m.destination),
            cell(m.engine),
            cell(size_text(m.bytes), m.bytes, f"--share:{m.bytes / most:.3f}"),
            cell(f"{size_text(m.bytes / whole)}/s", m.bytes / whole),
        ]
        for m in moves
    ]
    note = (
        "Counted by the engines as they execute, over all devices. What units move between a buffer and themselves "
        "is not counted."
    )
    return section("Bytes moved", "moves", Table("moves", columns, rows, sortable=True, kind="small").html(), note=note)
