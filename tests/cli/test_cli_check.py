"""`pimc check`, and the files of issued commands that `pimc sim` and `pimc replay` write."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pimc.cli.check import KINDS
from pimc.sim.check import violation
from tests.cli.harness import TINY, CommandLine

HEADER = "cycle,channel,command,bank,row\n"
LEGAL = f"{HEADER}0,3,ACT,2,7\n36,3,RD,2,7\n54,3,PRE,2,\n"
EARLY = f"{HEADER}0,3,ACT,2,7\n36,3,RD,2,7\n40,3,RD,2,8\n53,3,PRE,2,\n"


def compiled(run: CommandLine, target: str, *options: str) -> str:
    run.done("compile", TINY, "-t", target, "--dim", "past=63", "-q", "-o", "p.pimprog", *options)
    return "p.pimprog"


def test_kinds_are_those_of_the_checker() -> None:
    assert tuple(violation.KINDS) == KINDS


@pytest.mark.parametrize("target", ["cent", "neupims", "newton"])
def test_compiled_programs_keep_the_rules(run: CommandLine, target: str) -> None:
    program = compiled(run, target)
    out = run.done("check", program)
    assert out.startswith(f"p.pimprog · {target}\n")
    assert out.endswith("no violations\n")
    run.done("sim", program, "-q", "--issue-trace", "issued.csv")
    assert run.done("check", "issued.csv", "-t", target) == out.replace("p.pimprog", "issued.csv")


@pytest.mark.parametrize("target", ["cent", "neupims"])
def test_recording_changes_no_times(run: CommandLine, target: str) -> None:
    program = compiled(run, target)
    reports = [
        json.loads(run.done("sim", program, "--json", *options.split()))
        for options in ("", "--issue-trace a.csv", "--sim-engine plain --issue-trace b.csv")
    ]
    assert reports[0] == reports[1] == reports[2]
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()


def test_every_counted_command_is_in_the_file(run: CommandLine) -> None:
    """One row for each of the DRAM commands that the report counts."""
    out = run.done("sim", compiled(run, "newton", "--pass-config", "place.only=pim"), "-v", "--issue-trace", "a.csv.gz")
    assert "written    a.csv.gz" in out
    rows = gzip.decompress(Path("a.csv.gz").read_bytes()).decode().splitlines()[1:]
    seen = Counter(row.split(",")[2] for row in rows)
    del seen["TRAFFIC"]
    (counters,) = re.findall(r"^ {4}pim: (.*)$", out, re.MULTILINE)
    words = counters.split()
    assert dict(zip(words[::2], map(int, words[1::2]), strict=True)) == seen
    assert seen["G_ACT"] > 100


def test_channels_of_several_devices_count_on(run: CommandLine) -> None:
    program = compiled(run, "cent", "--set", "system.devices=2", "--parallel", "tp=2")
    text = run.done("sim", program, "--issue-trace", "-")
    Path("two.csv").write_text(text)
    channels = {int(line.split(",")[1]) for line in text.splitlines()[1:]}
    assert max(channels) >= 32
    assert run("check", "two.csv", "-t", "cent").status == 1
    assert run.done("check", "two.csv", "-t", "cent", "--set", "system.devices=2").endswith("no violations\n")


def test_violations_are_a_failure(run: CommandLine) -> None:
    Path("early.csv").write_text(EARLY)
    outcome = run("check", "early.csv", "-t", "aim-pinned")
    assert (outcome.status, outcome.err) == (1, "")
    assert outcome.out == (
        "early.csv · aim-pinned\n"
        "  4 commands in 1 channel, the last at cycle 53: 2 violations\n"
        "\n"
        "  kind    rule that was broken                    times\n"
        "  timing  PRE comes 54 after ACT (bank)               1\n"
        "  row     RD while its bank has another row open      1\n"
        "\n"
        "  cycle  channels  command          what is wrong\n"
        "     40  3         RD bank 2 row 8  while its bank has another row open (row 7)\n"
        "     53  3         PRE bank 2       53 after ACT bank 2 row 7 at 0, at least 54 (bank)\n"
    )
    assert run("check", "early.csv", "-t", "aim-pinned", "-q").out == ""


def test_violations_as_json(run: CommandLine) -> None:
    Path("early.csv").write_text(EARLY)
    outcome = run("check", "early.csv", "-t", "aim-pinned", "--json")
    assert outcome.status == 1
    found = json.loads(outcome.out)
    assert {k: found[k] for k in ("file", "target", "commands", "channels", "last_cycle", "ok", "count", "kinds")} == {
        "file": "early.csv",
        "target": "aim-pinned",
        "commands": 4,
        "channels": 1,
        "last_cycle": 53,
        "ok": False,
        "count": 2,
        "kinds": {"timing": 1, "row": 1},
    }
    assert [rule["count"] for rule in found["rules"]] == [1, 1]
    assert found["violations"][1] == {
        "kind": "timing",
        "rule": "PRE comes 54 after ACT (bank)",
        "command": "PRE",
        "level": "bank",
        "previous": "ACT",
        "required": 54,
        "channels": [3],
        "at": {"cycle": 53, "command": "PRE", "bank": 2, "row": None},
        "earlier": {"cycle": 0, "command": "ACT", "bank": 2, "row": 7},
        "distance": 53,
    }


def test_few_are_printed_and_all_are_counted(run: CommandLine) -> None:
    Path("many.csv").write_text(HEADER + "".join(f"{100 * n},{n % 2},RD,1,5\n" for n in range(50)))
    out = run("check", "many.csv", "-t", "aim-pinned", "--limit", "3").out
    assert "50 violations" in out
    assert out.endswith("  and 47 more\n")
    assert "what is wrong" not in run("check", "many.csv", "-t", "aim-pinned", "--limit", "0").out
    found = json.loads(run("check", "many.csv", "-t", "aim-pinned", "--limit", "3", "--json").out)
    assert (found["count"], len(found["violations"])) == (50, 3)


def test_one_kind_alone(run: CommandLine) -> None:
    Path("early.csv").write_text(EARLY)
    found = json.loads(run("check", "early.csv", "-t", "aim-pinned", "--kind", "row", "--json").out)
    assert found["kinds"] == {"row": 1}
    run.done("check", "early.csv", "-t", "aim-pinned", "--kind", "refresh", "--kind", "bus")


def test_numbers_of_the_machine_count(run: CommandLine) -> None:
    Path("legal.csv").write_text(LEGAL)
    run.done("check", "legal.csv", "-t", "aim-pinned")
    found = json.loads(run("check", "legal.csv", "-t", "aim-pinned", "--set", "timing.tRAS=60clk", "--json").out)
    assert [rule["rule"] for rule in found["rules"]] == ["PRE comes 60 after ACT (bank)"]


def test_a_file_from_stdin(run: CommandLine) -> None:
    outcome = run("check", "-", "-t", "aim-pinned", stdin=gzip.compress(LEGAL.encode()))
    assert outcome.status == 0
    outcome = run("check", "-", "-t", "aim-pinned", stdin=f"{HEADER}0,3,ACTT,2,7\n".encode())
    assert outcome.status == 1
    assert "error[P0302]: 'aim-pinned' has no command 'ACTT'" in outcome.err
    assert "--> <stdin>:2:5" in outcome.err
    assert "did you mean 'ACT'?" in outcome.err


def test_what_replay_writes_is_checked(run: CommandLine) -> None:
    lines = ["WR_GB 8 0 0x80000000", "MAC_ABK 8 0x80000000 3", "RD_MAC 0 0x80000000", "EOC"]
    Path("t.trace").write_text("".join(f"AiM {line}\n" for line in lines))
    run.done("replay", "t.trace", "-t", "aim-pinned", "-q", "--issue-trace", "t.csv")
    assert run.done("check", "t.csv", "-t", "aim-pinned").endswith(
        "21 commands in 1 channel, the last at cycle 184: no violations\n"
    )


@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("check nowhere.pimprog", 1, "P0101"),
        ("check nowhere.csv -t cent", 1, "P0101"),
        ("check legal.csv", 2, "give -t TARGET"),
        ("check legal.csv.gz", 2, "give -t TARGET"),
        ("check legal.csv -t npu", 1, "P1001"),
        ("check legal.csv -t cnet", 1, "did you mean 'cent'?"),
        ("check legal.csv --set timing.tRP=1ns", 2, "--set"),
        ("check p.pimprog -t neupims", 2, "leave out -t"),
        ("check legal.csv -t cent --kind times", 2, "timing"),
        ("sim p.pimprog --issue-trace - --json", 2, "both write to stdout"),
        ("sim p.pimprog --issue-trace nowhere/a.csv", 1, "P0102"),
        ("check broken.csv.gz -t cent", 1, "P0301"),
    ],
)
def test_what_cannot_be_done(run: CommandLine, line: str, status: int, words: str) -> None:
    Path("legal.csv").write_text(LEGAL)
    Path("broken.csv.gz").write_bytes(gzip.compress(LEGAL.encode())[:-9])
    if "p.pimprog" in line:
        compiled(run, "neupims")
    outcome = run(*line.split())
    assert outcome.status == status
    assert words in outcome.err
    assert outcome.out == ""
