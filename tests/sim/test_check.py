"""Violations planted in traces of the simulator: each is found, and nothing else. Legal traces stay without any."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pimc.backends.isa import Command
from pimc.backends.pim.aim_device import AimDevice
from pimc.backends.pim.aim_states import States
from pimc.backends.pim.aim_trace import TraceReader
from pimc.backends.pim.issues import TRAFFIC, TellsIssues
from pimc.backends.pim.newton_controller import NewtonTimer
from pimc.backends.pim.newton_isa import Comp, CompsReadResult, GlobalWrite, Header, ReadResult
from pimc.backends.pim.timing import make_timer
from pimc.backends.timing import Resource, Timer
from pimc.sim.check import Lane, check
from pimc.sim.check.issued import Issued
from pimc.sim.check.part import RefreshRule
from pimc.sim.check.violation import KINDS
from pimc.sim.issue_trace import IssueLog
from pimc.sim.replay import replay
from tests.sim.aim_traces import controllers, traces
from tests.sim.check_traces import Entry, Issuer, entries_of, issued, part, spec_of, told, verdict

Change = Callable[[list[Entry]], list[Entry]]

AIM_TRACE = """
AiM WR_GB 8 0 0x80000000
AiM WR_BIAS 0 0x80000000
AiM MAC_ABK 8 0x80000000 3
AiM RD_MAC 0 0x80000000
AiM AF 0x80000000
AiM RD_AF 0 0x80000000
AiM COPY_BKGB 2 0x80000000 5 40
AiM COPY_GBBK 2 0x80000000 6 41
AiM MAC_SBK 2 0x80000000 7 40
AiM RD_SBK 0 0x80000000 2 42
AiM RD_SBK 0 0x80000000 10 43
AiM EWMUL 4 0x80000000 43
AiM WR_SBK 0 0x80000000 9 41
AiM EWMUL 4 0x80000000 44
AiM WR_ABK 0 0x80000000 45
AiM MAC_ABK 64 0x80000000 46
AiM EOC
"""


@cache
def aim_trace(target: str) -> tuple[Entry, ...]:
    """What the simulator issues for the lines above."""
    log = IssueLog()
    replay("trace", AIM_TRACE.strip().splitlines(), spec_of(target), issues=log.sink([0]))
    return tuple(entries_of(log.issued()))


def newton_work(target: str) -> Iterator[Command]:
    """Vectors and tiles, enough for some refreshes."""
    for row in range(40):
        if row % 10 == 0:
            yield GlobalWrite(row % 7, row // 10, 32)
        yield Header(100 + row, 64, 2)
        for _ in range(2):
            if target.startswith("neupims"):
                yield CompsReadResult(100 + row, 32)
            else:
                yield Comp(100 + row, 32)
                yield ReadResult(0)


def newton_timer(target: str, *overrides: str) -> tuple[Timer, IssueLog, Resource]:
    """A timer that is recorded, and the data bus of its memory."""
    spec = spec_of(target, *overrides)
    resources = {name: Resource(name) for name in ("dram.bus", "pim")}
    timer = make_timer(spec, next(e for e in spec.engines() if e.name == "pim"), resources)
    assert isinstance(timer, TellsIssues)
    log = IssueLog()
    timer.issues = log.sink([0])
    assert isinstance(timer, NewtonTimer)
    return timer, log, resources["dram.bus"]


@cache
def newton_trace(target: str) -> tuple[Entry, ...]:
    timer, log, _ = newton_timer(target)
    ready = 0
    for command in newton_work(target):
        ready = timer.issue(command, ready).free
    return tuple(entries_of(log.issued()))


def trace(target: str) -> list[Entry]:
    return list(newton_trace(target) if target in ("neupims", "newton") else aim_trace(target))


# -- what the simulator issues is legal -------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["aim-pinned", "aim-head", "cent", "neupims", "newton"])
def test_what_the_simulator_issues_is_legal(target: str) -> None:
    assert len(trace(target)) > 100
    assert told(trace(target), target) == {}


def test_the_published_shortcuts_are_seen() -> None:
    """NeuPIMs' simulator closes rows under the work of a composite command, and opens one too soon after closing it;
    its tRTP is not that of the part."""
    dual = told(newton_trace("neupims-faithful"), "neupims")
    assert {"PIM_PRECHARGE comes 6 after COMP (channel)"} <= dual.keys()
    assert {"COMP while a bank has no row open in its PIM row buffer"} <= dual.keys()
    single = told(newton_trace("newton-faithful"), "newton")
    assert single == {
        "G_ACT comes 14 after PRECHARGE (activation)": 1,
        "PRECHARGE comes 6 after READRES (channel)": 32,
    }


# -- plants -----------------------------------------------------------------------------------------------------------


def place(entries: list[Entry], command: str, number: int = 0) -> int:
    return [i for i, e in enumerate(entries) if e.command == command][number]


def changed(command: str, number: int = 0, **fields: Any) -> Change:
    """One command with another cycle (`by`: earlier or later), bank or row."""

    def apply(entries: list[Entry]) -> list[Entry]:
        at = place(entries, command, number)
        old = entries[at]
        by = fields.pop("by", 0)
        entries[at] = old._replace(cycle=old.cycle + by, **fields)
        return entries

    return apply


def without(command: str, number: int | None = None) -> Change:
    """One command less, or all of a kind."""

    def apply(entries: list[Entry]) -> list[Entry]:
        if number is None:
            return [e for e in entries if e.command != command]
        del entries[place(entries, command, number)]
        return entries

    return apply


def with_copy(command: str, number: int, by: int, **fields: Any) -> Change:
    """One command again, so many cycles later."""

    def apply(entries: list[Entry]) -> list[Entry]:
        old = entries[place(entries, command, number)]
        return [*entries, old._replace(cycle=old.cycle + by, **fields)]

    return apply


def with_entry(
    behind: str, number: int, by: int, command: str, bank: int | None = None, row: int | None = None
) -> Change:
    """Another command, so many cycles after one."""

    def apply(entries: list[Entry]) -> list[Entry]:
        cycle = entries[place(entries, behind, number)].cycle + by
        return [*entries, Entry(cycle, command, bank, row)]

    return apply


def also(first: Change, second: Change) -> Change:
    return lambda entries: second(first(entries))


# target, kind, change, every violation that it brings; a command where it does not belong may also come too soon
PLANTS: list[tuple[str, str, Change, dict[str, int]]] = [
    # GDDR6-AiM: distances
    ("aim-pinned", "timing", changed("MAC16", 0, by=-1), {"MAC16 comes 56 after ACT16 (channel)": 1}),
    ("aim-pinned", "timing", changed("RDCP", 0, by=-1), {"RDCP comes 66 after ACT (bank)": 1}),
    ("aim-pinned", "timing", changed("MAC16", 40, by=1), {"MAC16 comes 2 after MAC16 (channel)": 1}),
    ("aim-pinned", "timing", changed("WRGB", 0, by=-1), {"WRGB comes 32 after TMOD (channel)": 1}),
    # the bus: ACT and PRE of different groups have no distance
    ("aim-pinned", "bus", with_entry("ACT", 0, 0, "PRE", 15), {"PRE in the cycle of another command": 1}),
    # rows
    ("aim-pinned", "row", changed("RD", 0, row=99), {"RD while its bank has another row open": 1}),
    ("aim-pinned", "row", changed("MAC", 1, bank=11), {"MAC while its bank has another row open": 1}),
    ("aim-pinned", "row", changed("MAC16", 3, row=4), {"MAC16 while a bank has another row open": 1}),
    ("aim-pinned", "row", with_copy("ACT", 0, 1), {
        "ACT while its bank has a row open already": 1,
        "ACT comes 5 after ACT (channel)": 1,
        "ACT comes 6 after ACT (bankgroup)": 1,
        "RDCP comes 66 after ACT (bank)": 1,
    }),
    ("aim-pinned", "row", with_entry("ACT16", 0, 71, "ACT16", None, 3),
        {"ACT16 while every bank has the row open already": 1}),
    ("aim-pinned", "row", without("PREA", 0), {"ACT16 while a bank has another row open": 1}),
    ("aim-pinned", "row", with_entry("MAC16", 70, 1, "PRE", 4), {
        "MAC16 while a bank has no row open": 1,
        "PRE comes 12 after MAC16 (channel)": 1,
    }),
    ("aim-pinned", "row", with_entry("EWMUL16", 2, 1, "PRE", 4), {
        "EWMUL16 while a bank has no row open": 1,
        "PRE comes 39 after EWMUL16 (channel)": 1,
        "PRE comes 54 after ACT16 (channel)": 1,
    }),
    ("aim-pinned", "row", changed("AF16", 0, row=3), {"AF16 while a bank has another row open": 1}),
    ("aim-pinned", "row", changed("WRA16", 0, row=3), {"WRA16 while a bank has another row open": 1}),
    ("aim-pinned", "row", with_entry("ACT16", 0, 1, "REFab"), {
        "REFab while a bank has a row open": 1,
        "REFab comes 89 after ACT16 (channel)": 1,
        "ACT16 comes 240 after REFab (channel)": 1,
    }),
    # modes
    ("aim-pinned", "mode", with_entry("MAC16", 3, 1, "RDMAC16"), {
        "RDMAC16 outside of the register mode": 1,
        "RDMAC16 comes 2 after MAC16 (channel)": 1,
        "MAC16 comes 2 after RDMAC16 (channel)": 1,
    }),
    ("aim-pinned", "mode", with_entry("WRGB", 3, 1, "MAC16", None, 3), {
        "MAC16 outside of the array mode": 1,
        "MAC16 while a bank has no row open": 1,
    }),
    ("aim-pinned", "mode", with_entry("WRGB", 3, 1, "WR", 3, 3), {
        "WR outside of the array mode": 1,
        "WR while its bank has no row open": 1,
        "WR comes 2 after WRGB (channel)": 1,
        "WRGB comes 2 after WR (channel)": 1,
    }),
    # contents
    ("aim-pinned", "contents", without("WRGB"), {"MAC16 with nothing in the global buffer": 8}),
    ("aim-pinned", "contents", without("AF16"), {"RDAF16 with nothing in the activation registers": 1}),
    ("aim-pinned", "contents", with_entry("WRGB", 0, -1, "RDMAC16"), {
        "RDMAC16 with nothing in the accumulators": 1,
        "RDMAC16 comes 32 after TMOD (channel)": 1,
        "WRGB comes 5 after RDMAC16 (channel)": 2,
    }),
    # HBM: distances
    ("neupims", "timing", changed("GWRITE", 0, by=-1), {"GWRITE comes 14 after ACTIVATE (bank)": 1}),
    ("neupims", "timing", changed("COMPS_READRES", 3, by=-1), {"COMPS_READRES comes 2 after READRES (channel)": 1}),
    ("newton", "timing", changed("COMP", 0, by=-1), {"COMP comes 14 after G_ACT (channel)": 1}),
    ("newton", "timing", changed("READRES", 0, by=-1), {"READRES comes 2 after COMP (channel)": 1}),
    ("newton", "timing", changed("G_ACT", 7, by=-1), {"at most 4 banks are opened within 30 (rank)": 1}),
    ("neupims", "timing", changed("PIM_PRECHARGE", 0, by=-1), {"PIM_PRECHARGE comes 6 after READRES (channel)": 1}),
    # the bus: the two ranks are independent
    ("neupims", "bus", changed("G_ACT", 1, by=-1), {"G_ACT in the cycle of another command": 1}),
    # rows
    ("neupims", "row", without("G_ACT", 5), {
        "COMPS_READRES while a bank has no row open in its PIM row buffer": 2,
        "COMP while a bank has no row open in its PIM row buffer": 64,
    }),
    ("neupims", "row", without("PIM_PRECHARGE", 3),
        {"G_ACT while a bank has a row open already in its PIM row buffer": 1}),
    ("neupims", "row", changed("COMPS_READRES", 2, row=7),
        {"COMPS_READRES while a bank has another row open in its PIM row buffer": 1}),
    ("neupims", "row", changed("GWRITE", 0, row=7),
        {"GWRITE while its bank has another row open in its row buffer": 1}),
    ("neupims", "row", also(
        with_entry("G_ACT", 0, 10, "ACTIVATE", 1, 100), with_entry("G_ACT", 0, 67, "PRECHARGE", 1)
    ), {
        "ACTIVATE of a row that its bank has open in its PIM row buffer": 1,
        "at most 4 banks are opened within 30 (rank)": 1,
    }),
    ("neupims", "row", with_entry("ACTIVATE", 0, 10, "G_ACT", 0, 0), {
        "G_ACT of a row that a bank has open in its row buffer": 1,
        "G_ACT while a bank has a row open already in its PIM row buffer": 1,
        "at most 4 banks are opened within 30 (rank)": 1,
    }),
    ("newton", "row", without("PRECHARGE", 40), {"G_ACT while a bank has another row open": 1}),
    ("newton", "row", with_entry("COMP", 3, 1, "PRECHARGE", 31), {
        "COMP while a bank has no row open": 60,
        "PRECHARGE comes 6 after COMP (channel)": 1,
        "PRECHARGE comes 34 after G_ACT (activation)": 1,
    }),
    # contents
    ("neupims", "contents", without("GWRITE"), {"COMPS_READRES with nothing in the global buffer": 80}),
    ("newton", "contents", with_entry("READRES", 0, 1, "READRES"), {
        "READRES with nothing in the accumulators": 1,
        "READRES comes 2 after READRES (channel)": 1,
        "COMP comes 2 after READRES (channel)": 1,
    }),
]  # fmt: skip


NAMES = [f"{target}-{kind}-{number}" for number, (target, kind, _, _) in enumerate(PLANTS)]


@pytest.mark.parametrize(("target", "kind", "plant", "expected"), PLANTS, ids=NAMES)
def test_a_planted_violation_is_found(target: str, kind: str, plant: Change, expected: dict[str, int]) -> None:
    changed_trace = plant(trace(target))
    assert told(changed_trace, target) == expected
    assert told(changed_trace, target, kind).items() <= expected.items()
    assert told(changed_trace, target, kind)


def test_a_violation_tells_both_commands() -> None:
    entries = changed("MAC16", 0, by=-1)(trace("aim-pinned"))
    found = verdict(entries, "aim-pinned")
    (violation,) = found.violations
    act, mac = entries[place(entries, "ACT16")], entries[place(entries, "MAC16")]
    assert (violation.command.cycle, violation.command.command, violation.command.row) == (mac.cycle, "MAC16", 3)
    assert violation.earlier is not None
    assert (violation.earlier.cycle, violation.earlier.command) == (act.cycle, "ACT16")
    assert (violation.rule.level, violation.rule.required, violation.found) == ("channel", 56, 55)
    assert violation.reason == f"55 after ACT16 row 3 at {act.cycle}, at least 56 (channel)"
    assert found.by_kind == {"timing": 1}


# -- refresh ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("target", "command", "which"), [("cent", "REFab", ""), ("newton", "REFRESH", " of rank 1")])
def test_a_refresh_that_is_left_out_is_missed_once(target: str, command: str, which: str) -> None:
    interval = spec_of(target).cycles["nREFI"]
    rank = 16 if which else None
    refreshes = [Entry(interval * (k + 1), command, rank, None) for k in range(6)]
    if which:
        refreshes += [Entry(interval * k + interval // 2, command, 0, None) for k in range(7)]
    end = Entry(7 * interval, "PREA" if target == "cent" else "PRECHARGE", 0 if which else None)
    entries = sorted([*refreshes, end])
    assert told(entries, target, "refresh") == {}
    left = [e for e in entries if e.cycle != 3 * interval]
    text = f"no {command}{which} within {interval} of when it was due"
    assert told(left, target, "refresh") == {text: 1}
    (violation,) = verdict(left, target, "refresh").violations
    assert violation.found == 3 * interval
    assert violation.command.cycle == 4 * interval


def test_a_refresh_may_be_late_until_the_next_is_due() -> None:
    interval = spec_of("cent").cycles["nREFI"]
    end = Entry(3 * interval, "PREA")
    assert told([Entry(2 * interval - 1, "REFab"), Entry(2 * interval + 500, "REFab"), end], "cent", "refresh") == {}
    late = told([Entry(2 * interval, "REFab"), Entry(2 * interval + 500, "REFab"), end], "cent", "refresh")
    assert list(late.values()) == [1]


def test_a_part_without_refresh_misses_none() -> None:
    assert told([Entry(10**7, "PREA")], "aim-pinned") == {}
    assert told([Entry(10**7, "PREA")], "cent") == {"no REFab within 3800 of when it was due": 2630}


# -- blocks, lanes, counts --------------------------------------------------------------------------------------------


def test_rows_are_known_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimc.sim.check.rows.BLOCK", 3)
    for target in ("aim-pinned", "neupims", "newton"):
        assert told(trace(target), target, "row") == {}
    test_a_planted_violation_is_found("aim-pinned", "row", *PLANTS[5][2:])
    assert PLANTS[5][1] == "row"


def test_channels_with_the_same_commands_are_checked_once_and_counted_each() -> None:
    known = part("aim-pinned")
    bad = issued(changed("MAC16", 0, by=-1)(trace("aim-pinned")), known)
    good = issued(trace("aim-pinned"), known)
    lanes = [Lane((n,), *(bad if n in (0, 1, 5) else good).lanes[0].columns) for n in range(8)]
    both = Issued.of(known.names, lanes)
    assert [lane.channels for lane in both.lanes] == [(0, 1, 5), (2, 3, 4, 6, 7)]
    found = check(both, known)
    assert found.total == 3
    assert [v.channels for v in found.violations] == [(0, 1, 5)]
    assert found.commands == 8 * len(trace("aim-pinned"))


def test_everything_is_counted_however_few_are_kept() -> None:
    entries = without("WRGB")(trace("aim-pinned"))
    known = part("aim-pinned")
    found = check(issued(entries, known), known, limit=3)
    assert found.total == 8
    assert [v.command.cycle for v in found.violations] == sorted(e.cycle for e in entries if e.command == "MAC16")[:3]


def test_normal_traffic_leaves_rows_closed() -> None:
    first, last = Entry(0, "ACT16", None, 3), Entry(400, "ACT16", None, 4)
    assert told([first, last], "aim-pinned") == {"ACT16 while a bank has another row open": 1}
    assert told([first, Entry(400, TRAFFIC), last], "aim-pinned") == {}
    assert told([Entry(0, "G_ACT", 0, 3), Entry(400, TRAFFIC), Entry(400, "G_ACT", 0, 4)], "newton") == {}


def test_every_kind_is_planted() -> None:
    assert {kind for _, kind, _, _ in PLANTS} | {"refresh"} == set(KINDS)


# -- random legal traces ----------------------------------------------------------------------------------------------

BANKS, ROWS = st.integers(0, 15), st.integers(0, 2)
REQUESTS = st.one_of(
    st.tuples(st.sampled_from(["RD", "WR", "MAC", "RDCP", "WRCP"]), BANKS, ROWS),
    st.tuples(st.sampled_from(["MAC16", "AF16", "EWMUL16", "WRA16"]), st.none(), ROWS),
    st.tuples(st.sampled_from(["WRGB", "WRMAC16", "RDMAC16", "RDAF16"]), st.none(), st.none()),
    st.tuples(st.just("wait"), st.integers(0, 3000), st.none()),
)


@pytest.mark.parametrize("target", ["aim-pinned", "aim-head", "cent"])
@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, max_size=60))
def test_random_legal_traces_are_clean(target: str, requests: list[tuple[str, int | None, int | None]]) -> None:
    issuer = Issuer(target)
    for command, bank, row in requests:
        if command == "wait":
            issuer.wait(bank or 0)
        else:
            issuer.request(command, bank, row)
    assert told(issuer.entries, target, "timing", "bus", "row", "mode", "refresh") == {}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_random_traces_on_any_aim_controller_keep_the_rules(data: st.DataObject) -> None:
    controller = data.draw(controllers())
    log = IssueLog()
    device = AimDevice(States(controller.rules), log.sink([0]))
    reader = TraceReader("trace", controller.channels, controller.rules.banks)
    for line in reader.lines(data.draw(traces(controller.channels))):
        device.decode(line)
    device.finish()
    due = RefreshRule("REFab", "channel", controller.rules.refresh)
    known = replace(part(controller.target), refresh=due if due.interval else None)
    found = check(log.issued(), known, kinds=("timing", "bus", "row", "mode", "refresh"))
    assert {rule.text: count for rule, count in found.counts.items()} == {}


VECTORS = st.builds(GlobalWrite, st.integers(0, 31), st.integers(100, 103), st.just(32))
TILES = st.tuples(st.integers(100, 102), st.integers(1, 4), st.integers(1, 32), st.booleans())
PAUSES = st.sampled_from([0, 0, 0, 7, 300, 5_000, 40_000])
TRAFFICS = st.sampled_from([0, 0, 0, 40, 6_000])


def tile(target: str, row: int, results: int, comps: int, announced: bool) -> Iterator[Command]:
    if announced:
        yield Header(row, results * comps, results)
    for _ in range(results):
        if target == "neupims":
            yield CompsReadResult(row, comps)
        else:
            yield Comp(row, comps)
            yield ReadResult(0)


@pytest.mark.parametrize("target", ["neupims", "newton"])
@settings(max_examples=60, deadline=None)
@given(work=st.lists(st.tuples(st.one_of(VECTORS, TILES), PAUSES, TRAFFICS), max_size=40))
def test_random_streams_on_hbm_keep_the_rules(target: str, work: list[tuple[Any, int, int]]) -> None:
    """Pauses, vectors out of rows that are worked on, work that was not announced, traffic on the data bus."""
    timer, log, bus = newton_timer(target)
    ready = 0
    for each, pause, traffic in work:
        for command in [each] if isinstance(each, Command) else list(tile(target, *each)):
            ready = timer.issue(command, ready + pause * timer.clock_ps).free
        if traffic:
            bus.acquire(ready, traffic * timer.clock_ps)
    found = check(log.issued(), part(target), kinds=("timing", "bus", "row", "refresh"))
    assert {rule.text: count for rule, count in found.counts.items()} == {}


@settings(max_examples=60, deadline=None)
@given(requests=st.lists(REQUESTS, min_size=5, max_size=40), data=st.data())
def test_any_command_that_comes_too_soon_is_found(
    requests: list[tuple[str, int | None, int | None]], data: st.DataObject
) -> None:
    """A command that follows another at the least distance, moved one cycle forward."""
    issuer = Issuer("aim-pinned")
    for command, bank, row in requests:
        if command != "wait":
            issuer.request(command, bank, row)
    tight = [
        (i, k)
        for i, later in enumerate(issuer.entries)
        for k, earlier in enumerate(issuer.entries[:i])
        if 1 < issuer.distance(earlier, later.command, later.bank) == later.cycle - earlier.cycle
        and issuer.entries[i - 1].cycle < later.cycle - 1
    ]
    if not tight:
        return
    at, before = data.draw(st.sampled_from(tight))
    later, earlier = issuer.entries[at], issuer.entries[before]
    issuer.entries[at] = later._replace(cycle=later.cycle - 1)
    required = later.cycle - earlier.cycle
    found = verdict(issuer.entries, "aim-pinned", "timing").violations
    assert any(v.command.cycle == later.cycle - 1 and v.rule.required == required for v in found)


# -- independence -----------------------------------------------------------------------------------------------------


def test_the_checker_loads_none_of_the_controllers() -> None:
    code = (
        "import sys, pimc.sim.check, pimc.sim.issue_reader\n"
        "print([m for m in sys.modules if m.startswith('pimc.backends.pim')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['pimc.backends.pim', 'pimc.backends.pim.issues']"
