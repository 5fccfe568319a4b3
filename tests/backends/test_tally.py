"""Counts of commands that are summed up when somebody asks."""

from pimc.backends.tally import Tally


def test_sums_are_those_of_all_commands_whenever_they_are_asked_for() -> None:
    tally = Tally()
    read, both = (("RD", 3),), (("RD", 1), ("WR", 2))
    assert not tally.sums()
    for counted in (read, both, read):
        tally.noted[counted] += 1
    assert tally.sums() == {"RD": 7, "WR": 2}
    assert tally.sums() == {"RD": 7, "WR": 2}
    tally.noted[both] += 1
    assert tally.sums() == {"RD": 8, "WR": 4}
