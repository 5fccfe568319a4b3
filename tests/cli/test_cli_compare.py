"""Results side by side: `pimc compare`, and `pimc compile` with several targets."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.cli.harness import TINY, CommandLine

AT = ("--dim", "past=15")


@pytest.fixture
def stored(run: CommandLine) -> CommandLine:
    """A folder with a result of each kind."""
    (run.folder / "npu.json").write_text(run.done("compile", TINY, "-t", "npu", *AT, "--json"))
    run.done("compile", TINY, "-t", "cent", *AT, "-o", "cent.pimprog", "-q")
    (run.folder / "both.json").write_text(run.done("compile", TINY, "-t", "npu", *AT, "--phase", "both", "--json"))
    return run


def test_a_table_of_several_targets_and_of_stored_results_is_the_same(stored: CommandLine) -> None:
    once = json.loads(stored.done("compile", TINY, "-t", "npu,cent", *AT, "--json"))
    again = json.loads(stored.done("compare", "npu.json", "cent.pimprog", "--json"))
    for found in (once, again):
        for side in found["results"]:
            del side["model"]  # compile was given the path of a file; a program has the name of its graph
    assert once == again


def test_every_op_of_every_result_is_in_the_table_once(stored: CommandLine) -> None:
    found = json.loads(stored.done("compare", "npu.json", "cent.pimprog", "--json"))
    whole = json.loads((stored.folder / "npu.json").read_text())
    cells = [row["cells"][0] for row in found["ops"] if row["cells"][0] is not None]
    assert sum(cell["count"] for cell in cells) == len(whole["ops"])
    assert sum(cell["flops"] for cell in cells) == sum(op["flops"] for op in whole["ops"])
    assert sum(cell["seconds"] for cell in cells) == pytest.approx(sum(op["seconds"] for op in whole["ops"]))


def test_rows_that_differ_most_come_first(stored: CommandLine) -> None:
    rows = json.loads(stored.done("compare", "npu.json", "cent.pimprog", "--json"))["ops"]
    spreads = []
    for row in rows:
        times = [cell["seconds"] if cell is not None else 0.0 for cell in row["cells"]]
        spreads.append(max(times) - min(times))
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[0] > 0


def test_a_result_does_not_differ_from_itself(stored: CommandLine) -> None:
    found = json.loads(stored.done("compare", "npu.json", "npu.json", "--json"))
    assert [side["name"] for side in found["results"]] == ["1: npu.json", "2: npu.json"]
    assert all(row["cells"][0] == row["cells"][1] for row in found["ops"])
    page = stored.done("compare", "npu.json", "npu.json")
    assert "why" not in page


def test_reasons_of_what_differs_are_told(stored: CommandLine) -> None:
    page = stored.done("compare", "npu.json", "cent.pimprog")
    _, _, why = page.partition("\n  why\n")
    assert "on pim" in why
    assert "npu is the only engine" in why


def test_phases_are_results_of_their_own(stored: CommandLine) -> None:
    found = json.loads(stored.done("compare", "both.json", "--json"))
    assert [side["phase"] for side in found["results"]] == ["prefill", "decode"]
    three = json.loads(stored.done("compare", "both.json", "cent.pimprog", "--json"))
    assert all(len(row["cells"]) == 3 for row in three["ops"])


def test_the_csv_has_the_same_numbers(stored: CommandLine) -> None:
    plain = stored.done("compare", "npu.json", "cent.pimprog", "--csv", "-")
    rows = list(csv.DictReader(io.StringIO(plain)))
    found = json.loads(stored.done("compare", "npu.json", "cent.pimprog", "--csv", "t.csv", "--json"))
    assert (stored.folder / "t.csv").read_text() == plain
    assert [row["op"] for row in rows] == [row["name"] for row in found["ops"]]
    for told, row in zip(rows, found["ops"], strict=True):
        cell = row["cells"][1]
        assert told["cent seconds"] == ("" if cell is None else repr(cell["seconds"]))


def test_one_result_comes_from_stdin(stored: CommandLine) -> None:
    data = (stored.folder / "npu.json").read_bytes()
    outcome = stored("compare", "-", "cent.pimprog", stdin=data)
    assert outcome.status == 0
    assert stored("compare", "-", "-", stdin=data).status == 2


BROKEN = {
    "empty.json": ("", "P0301", "expecting value"),
    "cut.json": ('{"model": "m", "ops": [', "P0301", "cut.json:1:24"),
    "list.json": ("[1, 2]", "P0903", "no JSON object"),
    "binary.json": ("\udcff\udcfe\x00\x01", "P0903", "neither a program nor JSON"),
    "deep.json": ("[" * 100_000, "P0301", "nested too deeply"),
    "wrong.json": ('{"cycles": "many", "ops": {}}', "P0903", "cycles: Input should be a valid integer"),
    "points.json": ('{"points": []}', "P0903", "a range of a dimension"),
    "nothing.json": ('{"ops": []}', "P0903", "--no-sim"),
    "several.json": ('{"results": [{}]}', "P0903", "several.json#1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_is_no_result_is_refused(stored: CommandLine, name: str) -> None:
    text, code, words = BROKEN[name]
    (stored.folder / name).write_bytes(text.encode("utf-8", "surrogateescape"))
    outcome = stored("compare", "npu.json", name)
    assert (outcome.status, outcome.out) == (1, "")
    assert code in outcome.err
    assert words in outcome.err


def test_a_single_result_has_nothing_beside_it(stored: CommandLine) -> None:
    outcome = stored("compare", "npu.json")
    assert outcome.status == 1
    assert "nothing to compare" in outcome.err


def test_a_truncated_program_is_refused(stored: CommandLine) -> None:
    path: Path = stored.folder / "cent.pimprog"
    path.write_bytes(path.read_bytes()[:-7])
    outcome = stored("compare", "npu.json", "cent.pimprog")
    assert (outcome.status, outcome.out) == (1, "")
    assert "P0801" in outcome.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("-t npu,", "is empty"),
        ("-t npu,npu", "given twice"),
        ("-t npu,cent -o x.pimprog", "side by side"),
        ("-t npu,cent --phase both", "side by side"),
        ("-t npu,cent --dim past=0:4", "side by side"),
        ("-t npu,cent --no-sim", "side by side"),
    ],
)
def test_what_does_not_go_with_several_targets(run: CommandLine, line: str, words: str) -> None:
    outcome = run("compile", TINY, *line.split())
    assert (outcome.status, outcome.out) == (2, "")
    assert words in outcome.err


def test_an_unknown_one_of_several_targets_is_named(run: CommandLine) -> None:
    outcome = run("compile", TINY, "-t", "npu,cnet", *AT)
    assert (outcome.status, outcome.out) == (1, "")
    assert "did you mean 'cent'" in outcome.err


def test_values_are_checked_on_every_target(run: CommandLine) -> None:
    assert run("compile", TINY, "-t", "npu,cent", *AT, "--values", "random", "-q").status == 0


def test_results_that_do_not_differ(run: CommandLine) -> None:
    run.done("compile", TINY, "-t", "npu", "-o", "a.pimprog", "-q")
    out = run.done("compare", "a.pimprog", "a.pimprog")
    assert out.splitlines()[-1].strip().startswith("no op differs by more than 0.1 %")
    assert "layer.*" in run.done("compare", "a.pimprog", "a.pimprog", "-v")


def test_a_damaged_program_is_told_as_one(run: CommandLine) -> None:
    run.done("compile", TINY, "-t", "npu", "-o", "a.pimprog", "-q")
    (run.folder / "bad.pimprog").write_text("no program")
    outcome = run("compare", "a.pimprog", "bad.pimprog")
    assert outcome.status == 1
    assert "bad.pimprog is not a sound program" in outcome.err
