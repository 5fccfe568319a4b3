"""`--dim past=0:4095`: a table of times."""

from __future__ import annotations

import json
import re

import pytest

from tests.cli.harness import TINY, CommandLine


@pytest.mark.parametrize("text", ["past=4:1", "past=1:2:0", "past=0:x", "past=1:2:3:4", "past=:3"])
def test_ranges_that_are_none_are_refused(run: CommandLine, text: str) -> None:
    assert run("compile", TINY, "-t", "npu", "--dim", text).status == 2


def test_points_are_printed(run: CommandLine) -> None:
    found = json.loads(run.done("compile", TINY, "-t", "npu", "--dim", "past=0:4:2", "--json"))
    assert [p["dims"]["past"] for p in found["points"]] == [0, 2, 4]
    assert all(p["cycles"] > 0 and p["seconds"] > 0 for p in found["points"])
    table = run.done("compile", TINY, "-t", "npu", "--dim", "past=0:4:2")
    assert "past" in table
    assert "cycles" in table


@pytest.mark.parametrize(
    "more", [("-o", "x.pimprog"), ("--values", "random"), ("--generate", "2"), ("--phase", "both")]
)
def test_a_range_does_not_go_with_what_needs_one_program(run: CommandLine, more: tuple[str, ...]) -> None:
    outcome = run("compile", TINY, "-t", "npu", "--dim", "past=0:4", *more)
    assert outcome.status == 2
    assert "a range of a dimension" in outcome.err


def test_show_lists_commands_with_their_clocks(run: CommandLine) -> None:
    run.done("compile", TINY, "-t", "cent", "--dim", "past=7", "-o", "t.pimprog", "-q")
    text = run.done("show", "t.pimprog", "--engine", "pim", "--times", "--limit", "5")
    clocks = [int(re.sub(r"\D", "", re.split(r"[A-Z]", line)[0])) for line in text.splitlines()[1:6]]
    assert clocks == sorted(clocks)
    one = run.done("show", "t.pimprog", "--engine", "pim", "--channel", "31", "--limit", "0")
    assert "more commands" not in one
    assert "WAIT" not in one
