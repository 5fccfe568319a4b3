"""When a Newton-style channel issues DRAM commands: 1 ns clocks, HBM of NeuPIMs."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from pimc.backends.isa import Command
from pimc.backends.pim.newton_controller import NewtonTimer
from pimc.backends.pim.newton_isa import Comp, CompsReadResult, GlobalWrite, Header, ReadResult
from pimc.backends.pim.timing import make_timer
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.backends.timing import Issued, Resource
from pimc.ir.diagnostics import CompileError

CLOCK = 1000


@cache
def spec_of(mode: str, profile: str, *overrides: str) -> TargetSpec:
    """Profiles: published (the simulator's shortcuts) and strict."""
    name = "neupims" if mode == "dual" else "newton"
    return load_target(f"{name}-faithful" if profile == "published" else name, overrides)


def machine(mode: str, profile: str, *overrides: str) -> tuple[NewtonTimer, dict[str, Resource]]:
    spec = spec_of(mode, profile, *overrides)
    resources = {name: Resource(name) for name in ("dram.bus", "pim")}
    timer = make_timer(spec, next(e for e in spec.engines() if e.name == "pim"), resources)
    assert isinstance(timer, NewtonTimer)
    return timer, resources


def tile(mode: str, row: int, results: int, comps: int) -> Iterator[Command]:
    yield Header(row, results * comps, results)
    for _ in range(results):
        if mode == "dual":
            yield CompsReadResult(row, comps)
        else:
            yield Comp(row, comps)
            yield ReadResult(0)


def job(mode: str, op: str, sizes: tuple[int, ...]) -> Iterator[Command]:
    """What the published measurements drove: tiles from row 1024 up, every vector from row 0 of bank 0."""
    rows = iter(range(1024, 32768))
    if op == "gemv":
        k, n = sizes
        for start in range(0, k, 512):
            yield GlobalWrite(0, 0, 32)
            for _ in range(-(-n // 32)):
                yield from tile(mode, next(rows), 1, -(-min(512, k - start) // 16))
    elif op == "logit":
        heads, depth, tokens = sizes
        for start in range(0, heads * depth, 512):
            yield GlobalWrite(0, 0, 32)
            for _ in range(-(-tokens // 32)):
                yield from tile(mode, next(rows), -(-min(512, heads * depth - start) // depth), -(-depth // 16))
    else:
        heads, depth, tokens = sizes
        for _ in range(heads):
            for start in range(0, tokens, 512):
                yield GlobalWrite(0, 0, 32)
                for _ in range(-(-depth // 32)):
                    yield from tile(mode, next(rows), 1, -(-min(512, tokens - start) // 16))


def timed(timer: NewtonTimer, commands: Iterator[Command], start: int = 0) -> list[Issued]:
    found: list[Issued] = []
    ready = start
    for command in commands:
        found.append(timer.issue(command, ready))
        ready = found[-1].free
    return found


# cycles of the published simulator (NewtonSim), first transaction offered to last result
PUBLISHED = [
    ("dual", "gemv", (64, 128), 663),
    ("dual", "gemv", (512, 1024), 6260),
    ("dual", "gemv", (1024, 512), 6404),
    ("dual", "gemv", (4096, 1024), 51110),
    ("single", "gemv", (64, 1024), 6268),
    ("single", "gemv", (512, 1024), 8688),
    ("single", "gemv", (4096, 512), 36816),
    ("dual", "logit", (8, 128, 512), 8658),
    ("dual", "logit", (10, 128, 1024), 24472),
    ("single", "logit", (8, 128, 256), 4380),
    ("dual", "attend", (8, 128, 1024), 13440),
    ("single", "attend", (8, 128, 512), 10224),
]


@pytest.mark.parametrize(("mode", "op", "sizes", "cycles"), PUBLISHED)
def test_published_profile_takes_the_published_cycles(mode: str, op: str, sizes: tuple[int, ...], cycles: int) -> None:
    found = timed(machine(mode, "published")[0], job(mode, op, sizes))
    assert max(i.done for i in found) // CLOCK == cycles


@pytest.mark.parametrize(("mode", "op", "sizes", "cycles"), PUBLISHED)
def test_strict_profile_is_never_faster(mode: str, op: str, sizes: tuple[int, ...], cycles: int) -> None:
    found = timed(machine(mode, "strict")[0], job(mode, op, sizes))
    assert max(i.done for i in found) // CLOCK >= cycles


def period(mode: str, profile: str, results: int, comps: int, *overrides: str) -> int:
    """Clocks from a tile to the next."""
    timer, _ = machine(mode, profile, "dram.refresh=false", *overrides)
    found = timed(timer, (c for row in range(1, 4) for c in tile(mode, row, results, comps)))
    size = len(list(tile(mode, 0, results, comps)))
    return (found[2 * size + 1].start - found[size + 1].start) // CLOCK


@pytest.mark.parametrize(("results", "comps"), [(1, 32), (4, 8), (2, 3)])
def test_tile_periods(results: int, comps: int) -> None:
    between, trtp = 143, 6 - 5  # the part's tRTP, and that of the simulator's code
    work = 2 * max(comps, 6)
    assert period("dual", "published", results, comps) == between + (results - 1) * (work + 2)
    assert period("dual", "strict", results, comps) == between + (results - 1) * (work + 2) + work + trtp
    single = max(2 * comps, 6)
    assert period("single", "published", results, comps) == between + single * results + 2 * (results - 1)


def test_precharge_waits_for_the_macs_of_a_composite_command() -> None:
    waits = period("dual", "strict", 1, 32)
    assert waits - period("dual", "strict", 1, 32, "pim.switches.precharge_waits_for_macs=false") == 2 * 32


def test_comp_is_first_allowed_trcd_after_the_last_activation() -> None:
    timer, _ = machine("dual", "strict")
    c = spec_of("dual", "strict").cycles
    header, work = timed(timer, tile("dual", 5, 1, 32))
    last = header.start // CLOCK + 1 + 3 * c["nFAW"] + 1
    assert work.start // CLOCK == last + c["nRCDRD"]
    assert timer.counters["G_ACT"] == 8
    assert work.cause == "row"


def test_gwrite_opens_its_row_and_holds_the_channel() -> None:
    timer, _ = machine("dual", "strict")
    c = spec_of("dual", "strict").cycles
    first, second, header = timed(timer, iter([GlobalWrite(3, 7, 32), GlobalWrite(3, 7, 32), Header(9, 32, 1)]))
    assert first.start // CLOCK == 1 + c["nRCDRD"]
    assert second.start - first.start == c["nGWRITE"] * CLOCK
    assert header.start - second.start == c["nGWRITE"] * CLOCK
    other = timer.issue(GlobalWrite(3, 8, 32), header.free)
    assert other.start // CLOCK >= header.start // CLOCK + c["nRP"] + c["nRCDRD"]
    assert timer.counters == {"ACTIVATE": 2, "GWRITE": 3, "PRECHARGE": 1}


def test_a_tile_that_does_not_fit_waits_for_the_refresh() -> None:
    timer, _ = machine("dual", "strict")
    due = timer.rules.interval
    fits = timer.issue(Header(1, 32, 1), (due - 200) * CLOCK)
    assert fits.start // CLOCK == due - 200, "nothing is open: 90 + 14 + 64 clocks are needed"
    work = timer.issue(CompsReadResult(1, 32), fits.free)
    held = timer.issue(Header(2, 32, 1), work.free)
    assert held.cause == "refresh"
    assert held.start // CLOCK > due
    assert timer.counters["REFRESH"] == 1


def test_ranks_are_refreshed_in_turns() -> None:
    timer, _ = machine("dual", "strict")
    timer.issue(Header(1, 32, 1), 0)
    timer.issue(Header(1, 32, 1), 100 * timer.rules.interval * CLOCK + CLOCK)
    assert timer.counters["REFRESH"] == 100


def test_single_row_buffers_and_normal_traffic_take_turns() -> None:
    timer, resources = machine("single", "strict")
    first = timed(timer, tile("single", 5, 1, 32))
    start = resources["dram.bus"].acquire(0, 300 * CLOCK)
    assert start >= first[-1].start
    again = timed(timer, tile("single", 5, 1, 32), first[-1].free)
    assert again[0].start >= start + 300 * CLOCK
    assert timer.counters["G_ACT"] == 16, "the row is opened again"


def test_two_channels_do_not_wait_for_each_other() -> None:
    timer, resources = machine("single", "strict")
    spec = spec_of("single", "strict")
    other = make_timer(spec, next(e for e in spec.engines() if e.name == "pim"), resources)
    first = timed(timer, tile("single", 5, 1, 32))
    ready = 0
    for command, expected in zip(tile("single", 5, 1, 32), first, strict=True):
        issued = other.issue(command, ready)
        assert issued == expected
        ready = issued.free


def test_commands_of_the_other_row_buffer_are_refused() -> None:
    with pytest.raises(CompileError, match="COMP"):
        machine("dual", "strict")[0].issue(Comp(0, 1), 0)
    with pytest.raises(CompileError, match="COMPS_READRES"):
        machine("single", "strict")[0].issue(CompsReadResult(0, 1), 0)


def random_commands(mode: str, seed: int, count: int) -> Iterator[Command]:
    generator = np.random.default_rng(seed)
    for _ in range(count):
        if generator.integers(4) == 0:
            yield GlobalWrite(int(generator.integers(4)), int(generator.integers(3)), 32)
        else:
            row, results, comps = (int(v) for v in (100 + generator.integers(3), *generator.integers(1, 5, 2)))
            yield from tile(mode, row, results, comps)


@pytest.mark.parametrize("mode", ["dual", "single"])
@pytest.mark.parametrize("seed", range(5))
def test_states_that_look_alike_go_on_alike(mode: str, seed: int) -> None:
    """A state moved by `shift` gives the same times, moved."""
    here, there = machine(mode, "strict")[0], machine(mode, "strict")[0]
    timed(here, random_commands(mode, seed, 30))
    timed(there, random_commands(mode, seed, 30))
    by = 12_345 * CLOCK
    there.shift(by, 0)
    assert here.relative(0) == there.relative(by)
    start = here.channel.now * CLOCK
    first = timed(here, random_commands(mode, seed + 50, 30), start)
    second = timed(there, random_commands(mode, seed + 50, 30), start + by)
    assert {(b.start - a.start, b.done - a.done) for a, b in zip(first, second, strict=True)} == {(by, by)}
