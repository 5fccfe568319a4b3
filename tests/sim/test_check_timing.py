"""Distances in time, as the standard tells them: the first cycle that is allowed, and the one before."""

from __future__ import annotations

import pytest

from pimc.sim.check.part import CHANNEL, Distance
from tests.sim.check_traces import Entry, part, spec_of, told

TARGETS = ("aim-pinned", "aim-head", "cent", "neupims", "newton")
START = 1000


def banks_of(target: str, d: Distance, *, same: bool) -> tuple[int | None, int | None]:
    """Banks for the two commands on the same node of the level, or on neighbouring nodes."""
    known = part(target)
    rules = {rule.name: rule for rule in known.commands}
    if d.level == CHANNEL:
        first, second = 0, known.banks - known.levels[rules[d.next].scope]
    else:
        size = known.levels[d.level]
        first, second = (0, 0) if same else (0, size)
    names = (rules[d.previous], first), (rules[d.next], second)
    a, b = (None if rule.scope == CHANNEL else bank for rule, bank in names)
    return a, b


def pair(target: str, d: Distance, apart: int, *, same: bool = True) -> list[Entry]:
    first, second = banks_of(target, d, same=same)
    return [Entry(START, d.previous, first, 5), Entry(START + apart, d.next, second, 5)]


def rule(d: Distance) -> str:
    return f"{d.next} comes {d.clocks} after {d.previous} ({d.level})"


ALL = [(target, d) for target in TARGETS for d in part(target).distances if d.clocks > 1]


@pytest.mark.parametrize(("target", "d"), ALL, ids=[f"{t}-{d.level}-{d.previous}-{d.next}" for t, d in ALL])
def test_every_distance_is_first_allowed_then(target: str, d: Distance) -> None:
    assert told(pair(target, d, d.clocks - 1), target, "timing").get(rule(d)) == 1
    assert rule(d) not in told(pair(target, d, d.clocks), target, "timing")
    if d.level != CHANNEL:
        assert rule(d) not in told(pair(target, d, 1, same=False), target, "timing")


def test_the_tables_are_whole() -> None:
    assert len(part("aim-pinned").distances) == len(spec_of("aim-pinned").pair_constraints()) > 150
    assert min(len(part(target).distances) for target in ("neupims", "newton")) > 45


# -- GDDR6-AiM --------------------------------------------------------------------------------------------------------

AIM = spec_of("aim-pinned").cycles


def test_pre_is_first_allowed_nras_after_act() -> None:
    early, right = AIM["nRAS"] - 1, AIM["nRAS"]
    assert told([Entry(0, "ACT", 3, 7), Entry(early, "PRE", 3)], "aim-pinned") == {"PRE comes 54 after ACT (bank)": 1}
    assert told([Entry(0, "ACT", 3, 7), Entry(right, "PRE", 3)], "aim-pinned") == {}


def test_pre_of_another_bank_of_the_group_waits_for_reads() -> None:
    """In the older version of the simulator the rule holds in the whole group, in the newer one in the bank alone."""
    entries = [Entry(0, "ACT", 0, 7), Entry(6, "ACT", 1, 7), Entry(60, "RD", 0, 7), Entry(71, "PRE", 1)]
    assert told(entries, "aim-pinned") == {"PRE comes 12 after RD (bankgroup)": 1}
    assert told(entries, "aim-head") == {}


def test_act_is_first_allowed_nrrd_after_act() -> None:
    for other, apart in ((1, AIM["nRRDL"]), (4, AIM["nRRDS"])):
        assert told([Entry(0, "ACT", 0, 7), Entry(apart, "ACT", other, 7)], "aim-pinned") == {}
        assert len(told([Entry(0, "ACT", 0, 7), Entry(apart - 1, "ACT", other, 7)], "aim-pinned")) == 1


def test_only_the_nearest_earlier_command_is_told() -> None:
    entries = [Entry(0, "ACT", 0, 7), Entry(36, "RD", 0, 7), Entry(38, "RD", 0, 7), Entry(47, "PREA")]
    assert told(entries, "aim-pinned", "timing") == {
        "PREA comes 12 after RD (channel)": 1,
        "PREA comes 54 after ACT (channel)": 1,
    }


# -- HBM with PIM -----------------------------------------------------------------------------------------------------

HBM = spec_of("neupims").cycles
WINDOW = "at most 4 banks are opened within 30 (rank)"


@pytest.mark.parametrize("target", ["neupims", "newton"])
def test_g_acts_of_a_rank_are_nfaw_apart(target: str) -> None:
    entries = [Entry(0, "G_ACT", 0, 5), Entry(1, "G_ACT", 16, 5)]
    assert told([*entries, Entry(HBM["nFAW"], "G_ACT", 4, 5)], target) == {}
    assert told([*entries, Entry(HBM["nFAW"] - 1, "G_ACT", 4, 5)], target) == {WINDOW: 1}


def test_the_fifth_activation_waits_for_the_window() -> None:
    acts = [Entry(6 * i, "ACTIVATE", 5 * i, 9) for i in range(4)]  # another group each time
    assert told([*acts, Entry(30, "ACTIVATE", 1, 9)], "neupims") == {}
    assert told([*acts, Entry(29, "ACTIVATE", 1, 9)], "neupims") == {WINDOW: 1}
    assert told([*acts, Entry(29, "ACTIVATE", 16, 9)], "neupims") == {}, "another rank"


def test_a_g_act_takes_the_whole_window() -> None:
    assert told([Entry(0, "ACTIVATE", 0, 9), Entry(29, "G_ACT", 4, 5)], "neupims") == {WINDOW: 1}
    assert told([Entry(0, "G_ACT", 4, 5), Entry(29, "ACTIVATE", 0, 9)], "neupims") == {WINDOW: 1}


def work(first: int, comps: int, result: int) -> list[Entry]:
    """All banks open, a vector in the global buffer, COMPs and their result."""
    acts = [Entry(200 + 30 * group + rank, "G_ACT", 16 * rank + 4 * group, 5) for group in range(4) for rank in (0, 1)]
    vector = [Entry(0, "ACTIVATE", 0, 9), Entry(14, "GWRITE", 0, 9), Entry(110, "PRECHARGE", 0)]
    return [*vector, *acts, *(Entry(first + 2 * i, "COMP", None, 5) for i in range(comps)), Entry(result, "READRES")]


def test_a_result_waits_for_the_adder_tree() -> None:
    fill = "READRES comes 6 after the first COMP"
    assert told(work(400, 1, 406), "newton") == {}
    assert told(work(400, 1, 405), "newton") == {fill: 1}
    assert told([*work(400, 1, 406), Entry(408, "COMP", None, 5), Entry(413, "READRES")], "newton") == {fill: 1}
    assert told([*work(400, 1, 406), Entry(408, "COMP", None, 5), Entry(414, "READRES")], "newton") == {}


def test_rows_stay_open_until_the_work_of_a_composite_command_is_done() -> None:
    composite = Entry(400, "COMPS_READRES", None, 5)
    entries = [*work(400, 32, 464), composite]
    entries.sort(key=lambda e: (e.cycle, e.command != "COMPS_READRES"))
    assert told([*entries, Entry(470, "PIM_PRECHARGE", 3)], "neupims") == {}
    assert told([*entries, Entry(469, "PIM_PRECHARGE", 3)], "neupims") == {
        "PIM_PRECHARGE comes 6 after READRES (channel)": 1
    }
