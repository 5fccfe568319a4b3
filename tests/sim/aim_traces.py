"""Random traces of GDDR6-AiM, of every kind of line, and the controllers that they are timed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache

from hypothesis import strategies as st

from pimc.backends.pim.aim_rules import AimRules
from pimc.backends.target import AimSwitches
from pimc.backends.target_registry import load_target

Draw = st.DrawFn
counts = st.sampled_from([1, 2, 3, 8, 32, 33, 34, 64, 70, 150])
"""of columns; a queue takes 33 requests, a row has 64 columns"""
banks = st.sampled_from([0, 1, 3, 4, 15])
rows = st.sampled_from([0, 0, 0, 1, 2])
"""few, so that commands meet open rows as often as others"""

switches = st.builds(
    AimSwitches,
    source=st.just("random"),
    lines_per_clock=st.sampled_from([1, 1, 1, 2, 4]),
    stall=st.sampled_from(["device", "channel"]),
    forwards_any_address=st.booleans(),
    drains_activated=st.booleans(),
)


@cache
def _rules(target: str) -> AimRules:
    return AimRules.of(load_target(target, ()))


@dataclass(frozen=True)
class Controller:
    """A target whose controller has other switches, and fewer channels."""

    target: str
    channels: int
    switches: AimSwitches | None = None
    refresh: int = 0
    """clocks between refreshes; 0: never"""

    @property
    def rules(self) -> AimRules:
        rules = replace(_rules(self.target), channels=self.channels)
        return rules if self.switches is None else replace(rules, switches=self.switches, refresh=self.refresh)


@st.composite
def controllers(draw: Draw) -> Controller:
    """Either of the published ones, that of `cent`, or any mixture, with or without refresh."""
    target = draw(st.sampled_from(["aim-pinned", "aim-head", "cent"]))
    channels = draw(st.sampled_from([1, 1, 2, 3, 4, 32]))
    if draw(st.booleans()):
        return Controller(target, channels)
    return Controller(target, channels, draw(switches), draw(st.sampled_from([0, 0, 450, 511, 1000, 3334])))


@st.composite
def traces(draw: Draw, channels: int) -> list[str]:
    """Lines of the text format, with EOC at the end."""
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 6))):
        lines += draw(st.one_of([phrase(channels) for phrase in PHRASES]))
    return [*lines, "AiM EOC"]


def masks(channels: int) -> st.SearchStrategy[int]:
    return st.one_of(st.just((1 << channels) - 1), st.integers(1, (1 << channels) - 1))


@st.composite
def _product(draw: Draw, channels: int) -> list[str]:
    """A product of a vector with matrices."""
    mask, count, row = draw(masks(channels)), draw(counts), draw(rows)
    times = draw(st.integers(1, 3))
    lines = [f"AiM WR_GB {count} 0 {mask}"] if draw(st.booleans()) else []
    lines += [f"AiM WR_BIAS 0 {mask}"] * times if draw(st.booleans()) else []
    lines += [f"AiM MAC_ABK {count} {mask} {row + turn}" for turn in range(times)]
    if draw(st.booleans()):
        lines += [f"W CFR 2 {draw(rows)}", f"AiM AF {mask}", f"AiM RD_AF 0 {mask}"]
    return lines + [f"AiM RD_MAC 0 {mask}"] * times if draw(st.booleans()) else lines


@st.composite
def _burst(draw: Draw, channels: int) -> list[str]:
    """Plain traffic, some of it to all banks one after the other, or so much that queues are full."""
    length = draw(st.sampled_from([1, 3, 10, 40, 80]))
    turns = draw(st.integers(1, 4))
    touched = [
        (draw(st.sampled_from("WRR")), draw(st.integers(0, channels - 1)), draw(banks), draw(rows))
        for _ in range(turns)
    ]
    stride = draw(st.sampled_from([0, 0, 1, 5]))
    return [
        f"{kind} MEM {channel} {(bank + stride * i) % 16} {row}"
        for i in range(length)
        for kind, channel, bank, row in [touched[i % turns]]
    ]


@st.composite
def _single(draw: Draw, channels: int) -> list[str]:
    mask, count, bank, row = draw(masks(channels)), draw(counts), draw(banks), draw(rows)
    one = 1 << draw(st.integers(0, channels - 1))
    kinds = [
        f"AiM WR_SBK 0 {mask} {bank} {row}",
        f"AiM RD_SBK 0 {mask} {bank} {row}",
        f"AiM WR_ABK 0 {one} {row}",
        f"AiM WR_GB {count} 0 {mask}",
        f"AiM WR_BIAS 0 {mask}",
        f"AiM RD_MAC 0 {mask}",
        f"AiM RD_AF 0 {mask}",
        f"AiM COPY_BKGB {count} {mask} {bank} {row}",
        f"AiM COPY_GBBK {count} {mask} {bank} {row}",
        f"AiM MAC_SBK {count} {mask} {bank} {row}",
        f"AiM MAC_ABK {count} {mask} {row}",
        f"AiM AF {mask}",
        f"AiM EWMUL {count} {mask} {row}",
        f"AiM EWADD {count} 0 1",
        "AiM SYNC",
        f"W CFR 2 {row}",
        "R GPR 3",
    ]
    line = draw(st.sampled_from(kinds))
    return [line] * draw(st.sampled_from([1, 1, 1, 2, 7]))


@st.composite
def _pause(draw: Draw, channels: int) -> list[str]:
    """Clocks in which nothing comes."""
    return [f"AiM EWADD {channels} 0 1"] * draw(st.sampled_from([1, 5, 50, 200]))


PHRASES: list[Callable[[int], st.SearchStrategy[list[str]]]] = [_product, _burst, _single, _single, _pause]
