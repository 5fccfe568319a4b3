"""When an AiM controller issues DRAM commands. Clocks of 0.5 ns; every number here follows from the part's timing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pytest

from pimc.backends.pim import aim_isa as aim
from pimc.backends.pim.aim_controller import AimTimer
from pimc.backends.pim.timing import make_timer
from pimc.backends.target import TargetSpec
from pimc.backends.target_registry import load_target
from pimc.backends.timing import Issued, Resource
from pimc.ir.diagnostics import CompileError

ALL = 0xFFFFFFFF
CLOCK = 500


def machine(*overrides: str) -> tuple[TargetSpec, AimTimer, dict[str, Resource]]:
    spec = load_target("cent", ["dram.refresh=false", *overrides])
    engine = next(e for e in spec.engines() if e.name == "pim")
    resources = {name: Resource(name) for name in ("dram.bus", "pim")}
    timer = make_timer(spec, engine, resources)
    assert isinstance(timer, AimTimer)
    return spec, timer, resources


def timed(timer: AimTimer, commands: Sequence[aim.AimCommand], start: int = 0) -> list[Issued]:
    found: list[Issued] = []
    ready = start
    for command in commands:
        found.append(timer.issue(command, ready))
        ready = found[-1].free
    return found


def clocks(issued: Issued) -> int:
    return issued.start // CLOCK


def test_mac_is_first_allowed_trcd_after_act() -> None:
    spec, timer, _ = machine()
    assert clocks(timer.issue(aim.MacAllBanks(1, ALL, 3), 0)) == spec.cycles["nRCDRDMAC"]


def test_another_row_waits_for_precharge_and_activation() -> None:
    spec, timer, _ = machine()
    first, second = timed(timer, [aim.MacAllBanks(64, ALL, 3), aim.MacAllBanks(64, ALL, 4)])
    last = clocks(first) + 2 * 63
    c = spec.cycles
    assert clocks(second) == last + c["nRTP"] + c["nRP"] + c["nRCDRDMAC"]
    assert second.cause == "row"
    timer.finish(second.done)
    assert timer.counters == {"ACT16": 2 * 32, "PREA": 32, "MAC16": 2 * 64 * 32}


def test_pre_is_first_allowed_nras_after_act() -> None:
    spec, timer, _ = machine("timing.tRAS=200clk", "timing.tRC=232clk")
    first, second = timed(timer, [aim.MacAllBanks(1, ALL, 3), aim.MacAllBanks(1, ALL, 4)])
    act = clocks(first) - spec.cycles["nRCDRDMAC"]
    assert clocks(second) == act + 200 + spec.cycles["nRP"] + spec.cycles["nRCDRDMAC"]


def test_registers_are_reached_after_a_mode_switch() -> None:
    spec, timer, _ = machine()
    mac, read, again = timed(timer, [aim.MacAllBanks(4, ALL, 3), aim.ReadMac(0, ALL, 0), aim.MacAllBanks(4, ALL, 3)])
    assert clocks(read) == clocks(mac) + 2 * 3 + 2 + spec.cycles["nMODCH"]
    assert again.cause == "mode"
    timer.finish(again.done)
    assert timer.counters["TMOD"] == 2 * 32


def test_a_read_of_registers_holds_the_stream_until_it_is_answered() -> None:
    _, timer, _ = machine()
    found = timed(timer, [aim.ReadMac(i, ALL, 0) for i in range(4)])
    assert [b.start - a.start for a, b in itertools.pairwise(found)] == [3 * CLOCK] * 3


def test_a_bank_is_opened_while_another_is_open() -> None:
    spec, timer, _ = machine()
    found = timed(timer, [aim.ReadBank(1, 1, 0, 5), aim.ReadBank(1, 1, 4, 5), aim.ReadBank(1, 1, 4, 6)])
    assert clocks(found[1]) == clocks(found[0]) + spec.cycles["nRRDS"], "the first request does not hold up the second"
    assert clocks(found[2]) >= clocks(found[1]) + spec.cycles["nRTP"] + spec.cycles["nRP"] + spec.cycles["nRCDRD"]
    timer.finish(found[2].done)
    assert timer.counters == {"ACT": 3, "RD": 3, "PRE": 1}


def test_element_wise_and_activation_need_their_rows() -> None:
    spec, timer, _ = machine()
    product, table = timed(timer, [aim.MultiplyBanks(4, ALL, 3), aim.Activate("gelu", ALL)])
    assert clocks(product) == spec.cycles["nRCDEWMUL"]
    assert clocks(table) - clocks(product) >= spec.cycles["nRP"] + spec.cycles["nRCDRDAF"]
    after = timer.issue(aim.WriteAllBanks(ALL, 9, 0, 0), table.free)
    again = timer.issue(aim.WriteAllBanks(ALL, 9, 0, 0), after.free)
    timer.finish(again.done)
    assert timer.counters["ACT16"] == 4 * 32, "an auto-precharge closes all banks"
    assert again.cause == "row"
    assert timer.issue(aim.AddBuffers(4, 0, 64), 0).busy == CLOCK


# k accumulators, n columns: WR_GB, k WR_BIAS, k MAC_ABK of k rows, k RD_MAC (measured on the published simulator)
TILES = [(8, 1, 190), (32, 1, 286), (64, 1, 414), (64, 2, 645), (64, 8, 2031), (64, 32, 7575)]


@pytest.mark.parametrize(("n", "k", "cycles"), TILES)
@pytest.mark.parametrize("mask", [1, ALL])
def test_a_tile_takes_what_the_published_simulator_takes(n: int, k: int, cycles: int, mask: int) -> None:
    _, timer, _ = machine()
    commands: list[aim.AimCommand] = [aim.WriteGlobalBuffer(n, 0, mask)]
    commands += [aim.WriteBias(i, mask, "yes") for i in range(k)]
    commands += [aim.MacAllBanks(n, mask, i, i) for i in range(k)]
    commands += [aim.ReadMac(i, mask, 0) for i in range(k)]
    found = timed(timer, commands)
    assert timer.finish(found[-1].free) // CLOCK == cycles


def test_channels_keep_their_own_time_and_come_together_again() -> None:
    _, timer, _ = machine()
    apart = timed(timer, [aim.MacAllBanks(16, 1, 3), aim.MacAllBanks(16, 2, 3)])
    assert apart[1].start - apart[0].start == CLOCK
    assert len(timer.skipping.lanes()) == 3
    for pause in (5000, 10000):  # first the row that only some have open is closed, then all are alike
        timer.issue(aim.MacAllBanks(1, ALL, 4), apart[1].done + pause * CLOCK)
    assert len(timer.skipping.lanes()) == 1
    timer.finish(0)
    assert timer.counters["MAC16"] == 2 * 16 + 2 * 32


def test_the_queue_holds_the_stream() -> None:
    spec, timer, _ = machine()
    assert spec.pim is not None
    first, second, third = timed(timer, [aim.MacAllBanks(64, ALL, row) for row in range(3)])
    assert first.free > first.start, "64 requests do not fit a queue of 33"
    assert third.start > second.free


def test_refresh_closes_rows_and_takes_nrfc() -> None:
    spec, timer, _ = machine("dram.refresh=true")
    c = spec.cycles
    due = c["nREFI"]
    start = (due - 41) * CLOCK  # the clock `due` begins at the time due - 1
    timer.issue(aim.MacAllBanks(1, ALL, 3), start - 500 * CLOCK)
    run = timer.issue(aim.MacAllBanks(64, ALL, 3), start)
    last = due - 2
    refresh = last + c["nRTP"] + c["nRP"]
    rest = 64 - 20
    assert run.done // CLOCK == refresh + c["nRFC"] + c["nRCDRDMAC"] + 2 * (rest - 1) + 1
    timer.finish(run.done)
    assert timer.counters["REFab"] == 32


def test_refreshes_of_an_idle_time_are_counted() -> None:
    spec, timer, _ = machine("dram.refresh=true")
    timer.issue(aim.MacAllBanks(1, ALL, 3), 0)
    last = timer.issue(aim.MacAllBanks(1, ALL, 3), (10 * spec.cycles["nREFI"] + 2000) * CLOCK)
    timer.finish(last.done)
    assert timer.counters["REFab"] == 10 * 32
    assert timer.counters["ACT16"] == 2 * 32


def test_normal_traffic_and_pim_take_turns() -> None:
    _, timer, resources = machine()
    resources["dram.bus"].acquire(0, 100 * CLOCK)
    first = timer.issue(aim.MacAllBanks(64, ALL, 3), 0)
    assert clocks(first) >= 100
    start = resources["dram.bus"].acquire(0, 50 * CLOCK)
    assert start >= first.start + first.busy
    second = timer.issue(aim.MacAllBanks(64, ALL, 3), first.free)
    assert second.start >= start + 50 * CLOCK
    assert second.cause == "row", "the traffic has closed the row"


def random_commands(seed: int, count: int) -> list[aim.AimCommand]:
    generator = np.random.default_rng(seed)
    found: list[aim.AimCommand] = []
    for _ in range(count):
        mask = [ALL, 0xF, 0xF0, 1][generator.integers(4)]
        n, row, bank = (int(v) for v in (generator.integers(1, 64), generator.integers(3), generator.integers(16)))
        found.append(
            [
                aim.MacAllBanks(n, mask, row),
                aim.WriteGlobalBuffer(n, 0, mask),
                aim.WriteBias(0, mask, "yes"),
                aim.ReadMac(0, mask, 0),
                aim.ReadBank(1, mask, bank, row),
                aim.WriteBank(1, mask, bank, row),
                aim.MultiplyBanks(n, mask, row),
                aim.CopyBankToBuffer(n, mask, bank, row),
                aim.WriteAllBanks(mask, row, 0, 0),
            ][generator.integers(9)]
        )
    return found


@pytest.mark.parametrize("seed", range(10))
def test_states_that_look_alike_go_on_alike(seed: int) -> None:
    """A state moved by `shift` gives the same times, moved."""
    here, there = machine()[1], machine()[1]
    before, after = random_commands(seed, 30), random_commands(seed + 100, 30)
    timed(here, before)
    timed(there, before)
    there.shift(12_345 * CLOCK, 0)
    assert here.relative(0) == there.relative(12_345 * CLOCK)
    first, second = timed(here, after, 10**7), timed(there, after, 10**7 + 12_345 * CLOCK)
    assert [(b.start - a.start, b.done - a.done) for a, b in zip(first, second, strict=True)] == [
        (12_345 * CLOCK,) * 2
    ] * 30


def test_channels_that_do_not_exist_are_refused() -> None:
    _, timer, _ = machine("dram.channels=4")
    with pytest.raises(CompileError, match="do not exist"):
        timer.issue(aim.MacAllBanks(1, 0x1F, 0), 0)
