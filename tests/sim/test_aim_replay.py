"""Replayed traces take the cycles and the DRAM commands that the AiM simulator reports for them, exactly."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.sim.replay import replay

DATA = Path(__file__).parents[1] / "data/aim"
FEW_CYCLES = 500
"""Traces with at most so many are stepped through, too."""


class Expected(NamedTuple):
    trace: str
    target: str
    lines: int
    cycles: int
    commands: dict[str, int] | None
    """None: not measured"""


def expectations() -> Iterable[Expected]:
    with (DATA / "expected.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            for version in ("pinned", "head"):
                if row[f"cycles_{version}"]:
                    pairs = [pair.split("=") for pair in row[f"commands_{version}"].split()]
                    measured = version == "pinned" or row["trace"].startswith("micro")
                    commands = {name: int(count) for name, count in pairs} if measured else None
                    cycles = int(row[f"cycles_{version}"])
                    yield Expected(row["trace"], f"aim-{version}", int(row["lines"]), cycles, commands)


EXPECTED = list(expectations())


@cache
def target(name: str, *overrides: str) -> TargetSpec:
    return load_target(name, overrides)


def lines_of(trace: str) -> list[str]:
    data = (DATA / trace).read_bytes()
    return (gzip.decompress(data) if trace.endswith(".gz") else data).decode().splitlines()


def check(expected: Expected, engine: Literal["fast", "plain"]) -> None:
    seen = replay(expected.trace, lines_of(expected.trace), target(expected.target), engine=engine)
    assert (seen.cycles, seen.lines) == (expected.cycles, expected.lines)
    if expected.commands is not None:
        assert dict(seen.commands) == expected.commands
    assert seen.seconds == pytest.approx(expected.cycles * 0.5e-9, rel=1e-12)


@pytest.mark.parametrize("expected", EXPECTED, ids=lambda e: f"{e.target}-{Path(e.trace).name}")
def test_cycles_and_commands(expected: Expected) -> None:
    check(expected, "fast")


SHORT = [e for e in EXPECTED if e.cycles <= FEW_CYCLES]
LONGER = [e for e in EXPECTED if FEW_CYCLES < e.cycles <= 50_000]


@pytest.mark.parametrize("expected", SHORT, ids=lambda e: f"{e.target}-{Path(e.trace).name}")
def test_stepping_through_every_clock(expected: Expected) -> None:
    check(expected, "plain")


@pytest.mark.slow
@pytest.mark.parametrize("expected", LONGER, ids=lambda e: f"{e.target}-{Path(e.trace).name}")
def test_stepping_through_every_clock_of_longer_ones(expected: Expected) -> None:
    check(expected, "plain")


# -- closed forms ----------------------------------------------------------------------------------------------------

ALL, ONE = 0xFFFFFFFF, 0x80000000
MASKS = pytest.mark.parametrize("mask", [ONE, 0x1, 0x00FF00F0, ALL], ids=hex)
COLUMNS = pytest.mark.parametrize("n", [1, 2, 33, 34, 64, 65, 500])
TIMES = pytest.mark.parametrize("k", [1, 2, 7, 33, 40, 100])


def cycles(*lines: str, version: str = "pinned") -> int:
    return replay("trace", [*lines, "AiM EOC"], target(f"aim-{version}")).cycles


def test_markers_and_lines_without_requests() -> None:
    assert cycles() == 2
    assert cycles("AiM SYNC") == 4
    for other in ("AiM EWADD 256 0 1", "W GPR 3", "R GPR 3", "W CFR 0 1", "R CFR 2 0"):
        assert cycles(other) == 3
        assert cycles(*[other] * 9) == 11


@MASKS
@COLUMNS
def test_one_line_of_many_columns(mask: int, n: int) -> None:
    """From a closed row: a change of mode or an activation, then one column every two cycles."""
    assert cycles(f"AiM WR_GB {n} 0 {mask}") == 35 + 2 * n
    assert cycles(f"AiM MAC_ABK {n} {mask} 3") == 57 + 2 * n
    assert cycles(f"AiM EWMUL {n} {mask} 3") == 26 + 2 * n
    assert cycles(f"AiM COPY_BKGB {n} {mask} 5 3") == 67 + 2 * n
    assert cycles(f"AiM COPY_GBBK {n} {mask} 5 3") == 49 + 2 * n


@MASKS
@COLUMNS
def test_another_row_costs(mask: int, n: int) -> None:
    """Precharge and activation between the last column of a row and the first of the next."""
    assert cycles(*[f"AiM MAC_ABK {n} {mask} {row}" for row in range(4)]) == 57 + 2 * n + 3 * (98 + 2 * n)
    assert cycles(*[f"AiM EWMUL {n} {mask} {row}" for row in range(4)]) == 26 + 2 * n + 3 * (94 + 2 * n)


@MASKS
@TIMES
def test_registers(mask: int, k: int) -> None:
    """A blocking read costs three cycles: its issue, its completion and the decoding of the next line."""
    assert cycles(*[f"AiM WR_BIAS 0 {mask}"] * k) == 35 + 2 * k
    assert cycles(*[f"AiM RD_MAC 0 {mask}"] * k) == 34 + 3 * k
    assert cycles(*[f"AiM RD_AF 0 {mask}"] * k) == 34 + 3 * k


@TIMES
def test_rows_written_in_all_banks(k: int) -> None:
    assert cycles(*[f"AiM WR_ABK 0 {ONE} {row}" for row in range(k)]) == 70 + 101 * (k - 1)


@MASKS
def test_activation_function(mask: int) -> None:
    assert cycles(f"AiM AF {mask}") == 89


@MASKS
@pytest.mark.parametrize("n", [1, 16, 64])
@pytest.mark.parametrize("k", [1, 2, 8, 32])
def test_a_tile_of_a_product(mask: int, n: int, k: int) -> None:
    """k rows of n columns, each into an accumulator of its own."""
    tile = [
        f"AiM WR_GB {n} 0 {mask}",
        *[f"AiM WR_BIAS 0 {mask}"] * k,
        *[f"AiM MAC_ABK {n} {mask} {row}" for row in range(k)],
        *[f"AiM RD_MAC 0 {mask}"] * k,
    ]
    assert cycles(*tile) == 158 + 4 * n + (k - 1) * (103 + 2 * n)


def test_channels_do_not_slow_each_other_down() -> None:
    lines = [f"AiM MAC_ABK 64 {{}} {row}" for row in range(5)]
    assert cycles(*[line.format(ALL) for line in lines]) == cycles(*[line.format(0x10) for line in lines])


def test_a_lone_write_is_not_waited_for() -> None:
    """The end does not wait for requests whose row has been activated, unless the controller drains them."""
    alone = ["W MEM 3 2 559", "AiM EOC"]
    quirky, right = (replay("trace", alone, target(name)) for name in ("aim-pinned", "cent"))
    assert (quirky.cycles, dict(quirky.commands)) == (3, {"ACT": 1})
    assert dict(right.commands) == {"ACT": 1, "WR": 1}
    assert right.cycles == 1 + 28 + 8 + 1  # activation, write, its latency; the marker's completion


def test_a_read_is_answered_by_any_write() -> None:
    """The published controller answers a read from any write that waits in its channel."""
    mixed = ["W MEM 0 0 1", "W MEM 0 4 1", "W MEM 0 8 1", "R MEM 0 5 2", "AiM EOC"]
    quirky, right = (replay("trace", mixed, target(name)) for name in ("aim-pinned", "cent"))
    assert "RD" not in quirky.commands
    assert right.commands["RD"] == 1


@pytest.mark.parametrize("base", ["aim-pinned", "aim-head", "cent"])
def test_refresh_comes_every_interval(base: str) -> None:
    """Refreshes follow each other at the interval of the target, whatever runs."""
    lines = [*[f"AiM MAC_ABK 64 {ALL} {row}" for row in range(200)], "AiM EOC"]
    spec = target(base, "dram.refresh=true")
    refreshed, without = (replay("trace", lines, s) for s in (spec, target(base, "dram.refresh=false")))
    assert refreshed.commands["REFab"] == 32 * (refreshed.cycles // spec.cycles["nREFI"])
    assert "REFab" not in without.commands
    least = spec.cycles["nRFC"] * refreshed.commands["REFab"] // 32
    assert least < refreshed.cycles - without.cycles < 2 * least
