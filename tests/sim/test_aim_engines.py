"""The fast engine of AiM devices equals the plain one, which steps through every clock, on random traces."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pimc.backends.pim.aim_device import AimDevice
from pimc.backends.pim.aim_line import MARKER, Line
from pimc.backends.pim.aim_rules import AimRules
from pimc.backends.pim.aim_states import States
from pimc.backends.pim.aim_steps import SteppedDevice
from pimc.backends.pim.aim_trace import TraceReader
from pimc.backends.pim.issues import IssueSink
from pimc.backends.target import AimPim, AimSwitches
from pimc.backends.target_registry import load_target
from tests.sim.aim_traces import Controller, controllers, traces

Device = AimDevice | SteppedDevice
Issued = tuple[int, int, str, int | None, int | None]
Gaps = list[int]
"""Clocks for which nothing comes before each of the first lines."""


class Run(NamedTuple):
    """All that can be seen of a device."""

    decoded: list[int]
    free: list[int]
    replies: list[tuple[object, ...]]
    cycles: int
    last: list[int]
    counts: list[dict[str, int]]
    issued: list[Issued]


def run(make: Callable[[IssueSink], Device], lines: list[Line], gaps: Gaps, *, asks: bool) -> Run:
    """Time lines; `asks` for what becomes of them on the way, as streams do."""
    issued: list[Issued] = []

    def sink(
        cycle: int,
        channel: int,
        command: str,
        bank: int | None = None,
        row: int | None = None,
        count: int = 1,
        period: int = 1,
        /,
    ) -> None:
        issued.extend((cycle + turn * period, channel, command, bank, row) for turn in range(count))

    device = make(sink)
    decoded, free, replies = [], [], []
    for number, line in enumerate(lines):
        decoded.append(device.decode(line, device.clock + (gaps[number] if number < len(gaps) else 0)))
        free.append(device.clock)
        if asks and line.mask and line.command != MARKER:
            replies.append(tuple(device.outlook(line.mask)))
    cycles = device.finish()
    counts = [dict(c) for c in device.counts()]
    return Run(decoded, free, replies, cycles, device.last_issued(), counts, sorted(issued, key=lambda i: i[:2]))


def check(rules: AimRules, texts: list[str], gaps: Gaps, *, asks: bool) -> None:
    lines = list(TraceReader("trace", rules.channels, rules.banks).lines(texts))
    plain = run(lambda sink: SteppedDevice(rules, sink), lines, gaps, asks=asks)
    fast = run(lambda sink: AimDevice(States(rules), sink), lines, gaps, asks=asks)
    for one, other, what in zip(fast, plain, Run._fields, strict=True):
        assert one == other, what


gaps: st.SearchStrategy[Gaps] = st.one_of(
    st.just([]), st.lists(st.sampled_from([0, 0, 0, 1, 7, 60, 300, 2000]), min_size=1, max_size=12)
)


def compare(data: st.DataObject) -> None:
    controller = data.draw(controllers(), "controller")
    texts = data.draw(traces(controller.channels), "trace")
    check(controller.rules, texts, data.draw(gaps, "gaps"), asks=data.draw(st.booleans(), "asks"))


PHASED = """AiM WR_BIAS 0 1
AiM WR_GB 40 0 1
AiM MAC_ABK 64 1 3
AiM MAC_ABK 24 1 3
AiM AF 1
AiM RD_MAC 0 1
AiM RD_AF 0 1
AiM WR_SBK 0 1 2 5
AiM RD_SBK 0 1 2 3
AiM WR_GB 8 0 1
AiM EWMUL 6 1 5
AiM WR_ABK 0 1 5
AiM WR_BIAS 0 1
AiM EOC""".splitlines()


def test_a_refresh_may_be_due_at_any_clock() -> None:
    """What is known of a state where a refresh comes is kept for all clocks at which it comes to the same."""
    pim = load_target("cent", ()).pim
    assert isinstance(pim, AimPim)
    rules = Controller("cent", 1, pim.switches, refresh=907).rules
    states, lines = States(rules), list(TraceReader("trace", rules.channels, rules.banks).lines(PHASED))
    for wait in range(0, rules.refresh, 9):
        plain = run(lambda sink: SteppedDevice(rules, sink), lines, [wait], asks=True)
        assert run(lambda sink: AimDevice(states, sink), lines, [wait], asks=True) == plain, wait


def test_of_writes_that_come_in_one_clock_the_first_is_served_first() -> None:
    """Also where their rows are opened in another order: the first one's bank was in use when they came."""
    switches = AimSwitches(
        source="a test", lines_per_clock=2, stall="device", forwards_any_address=False, drains_activated=False
    )
    texts = [*(f"W MEM 0 {bank} 0" for bank in (0, 0, 1, 4)), "AiM WR_ABK 0 1 0", "AiM EOC"]
    check(Controller("aim-pinned", 1, switches, refresh=0).rules, texts, [], asks=False)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_fast_equals_plain(data: st.DataObject) -> None:
    compare(data)


@pytest.mark.slow
@settings(
    max_examples=1000, deadline=None, derandomize=False, suppress_health_check=[HealthCheck.too_slow]
)  # fmt: skip
@given(st.data())
def test_fast_equals_plain_often(data: st.DataObject) -> None:
    compare(data)
