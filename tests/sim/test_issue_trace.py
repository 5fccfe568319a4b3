"""Recording issued commands, their file, and what is said of damaged files."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pimc.ir.diagnostics import CompileError, Diagnostic
from pimc.ir.source import TextSpan
from pimc.sim.check import Issued
from pimc.sim.issue_reader import read_issues
from pimc.sim.issue_trace import IssueLog, csv_text, write_issues
from tests.sim.check_traces import Entry, entries_of, part

PART = part("cent")
HEADER = "cycle,channel,command,bank,row\n"


def text_of(issued: Issued) -> str:
    return "".join(csv_text(issued))


def read(text: str) -> Issued:
    return read_issues(text.encode(), "issued.csv", PART)


def mistakes(text: str) -> list[Diagnostic]:
    with pytest.raises(CompileError) as raised:
        read(text)
    return list(raised.value.diagnostics)


# -- recording --------------------------------------------------------------------------------------------------------


def test_runs_become_single_commands_in_order_of_time() -> None:
    log = IssueLog()
    sink = log.sink([0])
    sink(10, 0, "MAC16", None, 3, 4, 2)
    sink(5, 0, "ACT16", None, 3)
    sink(13, 0, "TMOD")
    assert entries_of(log.issued()) == [
        Entry(5, "ACT16", None, 3),
        *(Entry(cycle, "MAC16", None, 3) for cycle in (10, 12)),
        Entry(13, "TMOD"),
        *(Entry(cycle, "MAC16", None, 3) for cycle in (14, 16)),
    ]


def test_commands_of_one_cycle_stay_in_order() -> None:
    log = IssueLog()
    sink = log.sink([0])
    for command in ("TRAFFIC", "ACT16", "PREA"):
        sink(7, 0, command)
    assert [e.command for e in entries_of(log.issued())] == ["TRAFFIC", "ACT16", "PREA"]


def test_a_timer_stands_for_the_channels_of_all_its_devices() -> None:
    log = IssueLog()
    log.sink([0, 32])(1, 3, "TMOD")
    log.sink([5])(1, 0, "TMOD")
    issued = log.issued()
    assert [lane.channels for lane in issued.lanes] == [(3, 5, 35)]
    assert (issued.channels, issued.entries, issued.last_cycle) == (3, 3, 1)
    assert text_of(issued) == HEADER + "1,3,TMOD,,\n1,5,TMOD,,\n1,35,TMOD,,\n"


def test_nothing_issued_is_a_header_alone() -> None:
    assert text_of(IssueLog().issued()) == HEADER
    assert read(HEADER).entries == 0


# -- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_is_by_cycle_then_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    log = IssueLog()
    for channel in (2, 0, 1):
        log.sink([channel])(10 * channel, 0, "PREA", None, None, 50, 3)
    whole = text_of(log.issued())
    keys = [tuple(map(int, line.split(",")[:2])) for line in whole.splitlines()[1:]]
    assert keys == sorted(keys)
    assert len(keys) == 150
    monkeypatch.setattr("pimc.sim.issue_trace.CHUNK", 7)
    assert text_of(log.issued()) == whole


def test_compressed_files_have_the_same_bytes_each_time(tmp_path: Path) -> None:
    log = IssueLog()
    log.sink([0])(1, 0, "RD", 3, 9, 100, 2)
    for name in ("a.csv", "a.csv.gz", "b.csv.gz"):
        write_issues(tmp_path / name, log.issued())
    packed = (tmp_path / "a.csv.gz").read_bytes()
    assert packed == (tmp_path / "b.csv.gz").read_bytes()
    assert gzip.decompress(packed) == (tmp_path / "a.csv").read_bytes() == text_of(log.issued()).encode()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "a.csv.gz", "b.csv.gz"]


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="P0102"):
        write_issues(tmp_path / "nowhere" / "a.csv", IssueLog().issued())


COMMANDS = st.one_of(
    st.tuples(st.sampled_from(["RD", "MAC", "ACT"]), st.integers(0, 15), st.integers(0, (1 << 31) - 1)),
    st.tuples(st.sampled_from(["PREA", "TMOD", "REFab", "TRAFFIC", "RDMAC16"]), st.none(), st.none()),
    st.tuples(st.sampled_from(["MAC16", "WRA16"]), st.none(), st.integers(0, 99)),
)
RUNS = st.tuples(st.integers(0, 10**12), st.integers(0, 31), COMMANDS, st.integers(1, 5), st.integers(1, 9))


@given(runs=st.lists(RUNS, max_size=20), chunk=st.integers(1, 200))
def test_what_is_written_is_read_back(runs: list[tuple[int, int, tuple[str, int, int], int, int]], chunk: int) -> None:
    log = IssueLog()
    sink = log.sink([0])
    for cycle, channel, (command, bank, row), count, period in runs:
        sink(cycle, channel, command, bank, row, count, period)
    text = text_of(log.issued())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pimc.sim.issue_reader.CHUNK", chunk)
        again = read(text)
    assert text_of(again) == text
    assert len(text.splitlines()) - 1 == sum(run[3] for run in runs)


def test_columns_and_rows_may_have_any_order() -> None:
    swapped = "row,command,cycle,bank,channel\r\n7,RD,90,3,1\r\n7,ACT,20,3,1\r\n,PREA,5,,0"
    assert text_of(read(swapped)) == HEADER + "5,0,PREA,,\n20,1,ACT,3,7\n90,1,RD,3,7\n"


# -- damaged files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "column", "length", "words"),
    [
        ("1,0,PREA,", 1, 9, "4 cells, not 5"),
        ("1,0,PREA,,,", 1, 11, "6 cells, not 5"),
        ("", 1, 1, "0 cells, not 5"),
        ("one,0,PREA,,", 1, 3, "'one' is no whole number"),
        ("1 ,0,PREA,,", 1, 2, "'1 ' is no whole number"),
        ("-1,0,PREA,,", 1, 2, "'-1' is no whole number"),
        ("1234567890123456789,0,PREA,,", 1, 19, "is no whole number"),
        (",0,PREA,,", 1, 1, "no cycle"),
        ("1,,PREA,,", 3, 1, "no channel"),
        ("1,32,PREA,,", 3, 2, "channels 0 to 31, not 32"),
        ("1,0,PREX,,", 5, 4, "has no command 'PREX'"),
        ("1,0,ACTIVATE_A_VERY_LONG_NAME,,", 5, 25, "has no command 'ACTIVATE_A_VERY_LONG_NAME'"),
        ("1,0,RD,16,3", 8, 2, "banks 0 to 15, not 16"),
        ("1,0,RD,,3", 8, 1, "RD names a bank"),
        ("1,0,MAC16,3,3", 11, 1, "MAC16 is for all banks, and names none"),
        ("1,0,ACT,3,", 11, 1, "ACT names a row"),
        ("1,0,ACT,3,4294967296", 11, 10, "no part has a row 4294967296"),
    ],
)
def test_a_line_with_a_mistake(line: str, column: int, length: int, words: str) -> None:
    (found,) = mistakes(f"{HEADER}1,0,ACT,2,7\n{line}\n9,0,PREA,,\n")
    assert words in found.message
    assert found.source == TextSpan("issued.csv", 3, column, line, length)


def test_commands_of_a_group_name_its_first_bank() -> None:
    with pytest.raises(CompileError, match="G_ACT names the first of its 4 banks, not 6"):
        read_issues(f"{HEADER}1,0,G_ACT,6,7\n".encode(), "issued.csv", part("neupims"))


def test_help_with_names() -> None:
    (found,) = mistakes(f"{HEADER}1,0,PREAA,,\n")
    assert found.help == "did you mean 'PREA'?"


def test_many_mistakes_are_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimc.sim.issue_reader.CHUNK", 40)
    bad = [n for n in range(200) if n % 7 == 3]
    lines = [f"{n},0,{'PREX' if n in bad else 'PREA'},,\n" for n in range(200)]
    found = mistakes(HEADER + "".join(lines))
    assert [d.source.line for d in found if isinstance(d.source, TextSpan)] == [n + 2 for n in bad[:20]]


@pytest.mark.parametrize(
    "header", ["", "cycle,channel,command,bank\n", "cycle,channel,command,bank,row,op\n", "1,0,PREA,,\n"]
)
def test_the_first_line_names_the_columns(header: str) -> None:
    (found,) = mistakes(header)
    assert "cycle,channel,command,bank,row" in found.message
    assert isinstance(found.source, TextSpan)
    assert found.source.line == 1


@given(data=st.binary(max_size=200))
def test_noise_is_a_mistake_or_a_trace(data: bytes) -> None:
    for whole in (data, HEADER.encode() + data):
        try:
            found = read_issues(whole, "noise", PART)
        except CompileError:
            continue
        assert found.entries == len([line for line in whole.replace(b"\r\n", b"\n").split(b"\n")[1:] if line])


def test_numbers_up_to_the_largest_cycle() -> None:
    largest = 10**18 - 1
    assert read(f"{HEADER}{largest},0,PREA,,\n").last_cycle == largest
    assert np.iinfo(np.int64).max > largest
