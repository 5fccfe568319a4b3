"""`--requests`: the file, its mistakes, and the report of a batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pimc.frontends.requests_csv import read_requests
from tests.cli.harness import MODELS, ROOT, CommandLine

GPT = str(MODELS / "tiny-gpt2.pimc")
TRACE = ROOT / "tests" / "data" / "requests" / "sg-bs64-clb.csv"

BAD = {
    "": ("1:1", "the file is empty"),
    "id,past\n": ("1:1", "there is no request"),
    "id,new\na,1\n": ("1:1", "the column 'past' is missing"),
    "past,length\n3,1\n": ("1:6", "there is no column 'length'"),
    "past,past\n3,1\n": ("1:1", "column 'past' stands there 2 times"),
    "past,new\n3\n": ("2:1", "the line has 1 fields, but there are 2 columns"),
    "past\n3\n-1\n": ("3:1", "column 'past': '-1' is no whole number from 0"),
    "past\n1.5\n": ("2:1", "column 'past': '1.5' is no whole number"),
    "past\n99999999999\n": ("2:1", "column 'past': '99999999999' is no whole number"),
    "past,new\n3,0\n": ("2:3", "column 'new': '0' is no whole number from 1"),
    "past,new\n3,\n": ("2:1", "column 'new': there is no number"),
    "past,channel\n3,x\n": ("2:3", "column 'channel': 'x' is no whole number from 0"),
    "id,past\na,1\n\na,2\n": ("4:1", "request 'a' stands in line 2 already"),
    "id,past\n,1\n": ("2:1", "the request has no id"),
    "seq_len,ch_idx\n0,1\n": ("2:1", "column 'seq_len': '0' is no whole number from 1"),
    'past\n"3\n': ("2:1", "the line is not CSV"),
}
"""Line and column, and what is said there."""


@pytest.mark.parametrize("text", BAD)
def test_mistakes_are_told_with_their_line(run: CommandLine, text: str) -> None:
    (run.folder / "bad.csv").write_text(text)
    done = run("compile", GPT, "-t", "neupims", "--requests", "bad.csv")
    assert done.status == 1
    assert done.out == ""
    place, said = BAD[text]
    assert f"error[P0504]: {said}" in done.err
    assert f"bad.csv:{place}\n" in done.err


def test_all_mistakes_at_once(run: CommandLine) -> None:
    (run.folder / "bad.csv").write_text("past\nx\n3\ny\n")
    done = run("compile", GPT, "-t", "neupims", "--requests", "bad.csv")
    assert done.err.count("error[P0504]") == 2


def test_missing_and_binary_files(run: CommandLine) -> None:
    (run.folder / "bad.csv").write_bytes(b"\xff\xfe\x00past")
    assert "error[P0504]" in run("compile", GPT, "-t", "neupims", "--requests", "bad.csv").err
    assert "error[P0101]" in run("compile", GPT, "-t", "neupims", "--requests", "none.csv").err


@pytest.mark.parametrize(
    "more",
    [("--generate", "2"), ("--phase", "both"), ("--dim", "past=1:4"), ("--emit", "ir")],
    ids=lambda more: more[0],
)
def test_options_that_do_not_go_together(run: CommandLine, more: tuple[str, ...]) -> None:
    (run.folder / "r.csv").write_text("past\n3\n")
    done = run("compile", GPT, "-t", "neupims", "--requests", "r.csv", *more)
    assert done.status == 2
    assert "--requests" in done.err


def test_traces_of_the_published_simulator_are_read() -> None:
    found = read_requests(str(TRACE))
    lines = [line.split(",") for line in TRACE.read_text().split()[1:]]
    assert [(r.past + 1, r.new, r.channel) for r in found] == [(int(s), 1, int(c)) for s, c in lines]
    assert [r.id for r in found] == [str(i) for i in range(len(lines))]


def test_the_report_of_a_batch(run: CommandLine) -> None:
    (run.folder / "r.csv").write_text("id,past,channel\na,9,1\nb,29,0\nc,4,1\n")
    arguments = ("compile", GPT, "-t", "neupims", "--set", "dram.channels=2", "--requests", "r.csv")
    found = json.loads(run(*arguments, "--json").out)
    assert found["requests"] == [
        {"id": "a", "past": 9, "new": 1, "channel": 1},
        {"id": "b", "past": 29, "new": 1, "channel": 0},
        {"id": "c", "past": 4, "new": 1, "channel": 1},
    ]
    batch = found["batch"]
    assert (batch["length_min"], batch["length_mean"], batch["length_max"]) == (5, 15, 30)
    assert batch["imbalance"] == pytest.approx(30 / 22.5)
    said = run(*arguments).out
    assert "3 requests of 5 to 30 keys, 15.0 on average; the fullest of 2 channels has 1.33 times the mean" in said
    assert "requests" in json.loads(run(*arguments, "--no-sim", "--json").out)


def test_stdin_and_stored_programs(run: CommandLine, tmp_path: Path) -> None:
    done = run("compile", GPT, "-t", "newton", "--requests", "-", "-o", "p.pimprog", stdin=b"past\n7\n2\n")
    assert done.status == 0
    assert "2 requests" in run("sim", "p.pimprog", "--values", "random").out
