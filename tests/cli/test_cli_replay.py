"""`pimc replay`: its input in every form, what it prints and writes, and what it says to bad input."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.harness import CommandLine

DATA = Path(__file__).parents[1] / "data/aim"
GOOD = "AiM MAC_ABK 4 0xc0000000 7\nW MEM 1 2 3\nAiM EOC\n"
TARGET = ("-t", "aim-pinned")


@dataclass(frozen=True)
class Bad:
    """The text of a trace, and what its error says and points at."""

    text: str
    words: str
    place: str = ""
    help: str = ""


TEXTS = {
    "empty": Bad("", "bad.trace is empty", help="'AiM EOC'"),
    "only-comments": Bad("# nothing\n\n", "bad.trace ends without 'AiM EOC'"),
    "no-end": Bad("AiM AF 1\n", "bad.trace ends without 'AiM EOC'", help="the last line"),
    "opcode": Bad("# c\n\nAiM RD_MCA 0 1\nAiM EOC\n", "no such command: 'RD_MCA'", "3:5", "did you mean 'RD_MAC'?"),
    "prefixed-opcode": Bad("AiM ISR_MACABK 1 1 0\n", "no such command: 'ISR_MACABK'", "1:5", "did you mean 'MAC_ABK'?"),
    "first-word": Bad("HELLO 1\n", "begins with 'AiM', 'W' or 'R', not with 'HELLO'", "1:1", "known: AiM, R, W"),
    "commas": Bad("AiM,MAC_ABK,1,1,0\n", "not with 'AiM,MAC_ABK,1,1,0'", "1:1", "separated by blanks"),
    "place": Bad("W MEN 1 2 3\n", "not by 'MEN'", "1:3", "did you mean 'MEM'?"),
    "alone": Bad("AiM\n", "'AiM' is followed by a command", "1:1"),
    "alone-direct": Bad("R\n", "'R' is followed by MEM, GPR or CFR", "1:1"),
    "too-few": Bad("AiM MAC_ABK 1 1\n", "MAC_ABK takes 3 operands, here are 2", "1:5", "opsize mask row"),
    "too-many": Bad("AiM SYNC 1\n", "SYNC takes 0 operands, here are 1", "1:5", "none"),
    "direct-count": Bad("W MEM 1 2\n", "W MEM takes 3 operands, here are 2", "1:3", "channel bank row"),
    "no-number": Bad("AiM MAC_ABK one 1 0\n", "opsize 'one' is not a number", "1:13", "0x1f"),
    "underscore": Bad("AiM MAC_ABK 1_0 1 0\n", "opsize '1_0' is not a number", "1:13"),
    "fraction": Bad("AiM MAC_ABK 1.5 1 0\n", "opsize '1.5' is not a number", "1:13"),
    "negative": Bad("AiM MAC_ABK 1 1 -4\n", "row -4 is negative", "1:17"),
    "endless": Bad(f"AiM AF {'9' * 9999}\n", "is out of range", "1:8"),
    "too-large": Bad(f"AiM AF {1 << 63}\n", "is out of range", "1:8"),
    "columns": Bad("AiM WR_GB 99999999 0 1\n", "99999999 columns are more than 1048576", "1:11"),
    "bank": Bad("AiM MAC_SBK 16 1 16 0\n", "there is no bank 16: a channel has 16", "1:18"),
    "channel": Bad("W MEM 32 0 0\n", "there is no channel 32: there are 32", "1:7"),
    "mask": Bad("AiM AF 0x100000000\n", "the mask 0x100000000 has more than 32 channels", "1:8"),
    "mask-bits": Bad("AiM WR_ABK 0 3 0\n", "its mask has exactly one bit", "1:14"),
    "mask-none": Bad("AiM WR_ABK 0 0 0\n", "its mask has exactly one bit", "1:14"),
    "table": Bad("AiM WR_AFLUT 3\nAiM EOC\n", "WR_AFLUT is not supported", "1:5"),
    "nul": Bad("\0" * 5000, "not with", "1:1"),
}


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("bad", TEXTS.values(), ids=TEXTS)
def test_bad_lines(bad: Bad, engine: str, run: CommandLine) -> None:
    (run.folder / "bad.trace").write_text(bad.text)
    outcome = run("replay", "bad.trace", *TARGET, "--sim-engine", engine)
    assert (outcome.status, outcome.out) == (1, "")
    first = outcome.err.split("\n\n")[0]
    assert "error[P0301]" in first
    assert bad.words in first
    assert bad.help in first
    if bad.place:
        assert f"bad.trace:{bad.place}\n" in first
    assert len(outcome.err) < 3000


def test_mistakes_are_told_together_up_to_ten(run: CommandLine) -> None:
    (run.folder / "bad.trace").write_text("AiM FOO 1\n" * 30 + "AiM EOC\n")
    assert run("replay", "bad.trace", *TARGET).err.count("error[P0301]") == 10
    (run.folder / "bad.trace").write_text("AiM FOO 1\nAiM AF 1\nW MEM 99 0 0\n")
    assert run("replay", "bad.trace", *TARGET).err.count("error[P0301]") == 3


FILES = {
    "truncated": gzip.compress(GOOD.encode() * 50, mtime=0)[:-9],
    "corrupt": gzip.compress(GOOD.encode(), mtime=0)[:12] + b"zzzz" + gzip.compress(GOOD.encode(), mtime=0)[16:],
    "header": b"\x1f\x8b",
}


@pytest.mark.parametrize("data", FILES.values(), ids=FILES)
def test_broken_gzip(data: bytes, run: CommandLine) -> None:
    (run.folder / "bad.gz").write_bytes(data)
    outcome = run("replay", "bad.gz", *TARGET)
    assert (outcome.status, outcome.out) == (1, "")
    assert "bad.gz is not a whole gzip file" in outcome.err


def test_binary_files(run: CommandLine) -> None:
    (run.folder / "bad.bin").write_bytes(bytes(range(256)))
    outcome = run("replay", "bad.bin", *TARGET)
    assert (outcome.status, outcome.out) == (1, "")
    assert "bad.bin is not text in UTF-8 (byte 128)" in outcome.err


LINES = {
    "nowhere.trace -t aim-pinned": ("P0101", "nowhere.trace"),
    ". -t aim-pinned": ("P0101", "directory"),
    "good.trace -t npu": ("P1001", "'npu' has no GDDR6-AiM"),
    "good.trace -t neupims": ("P1001", "-t aim-pinned"),
    "good.trace -t aim-pined": ("P0601", "did you mean 'aim-pinned'?"),
    "good.trace -t cent --set pim.switches.stall=chanel": ("P0602", "'device' or 'channel'"),
    "good.trace -t cent --set pim.switches.lines_per_clock=0": ("P0602", "lines_per_clock"),
    "good.trace -t cent --set pim.switches.drains_activated=1": ("P0602", "drains_activated"),
    "good.trace -t cent --set pim.switches.stal=device": ("P0602", "did you mean 'stall'?"),
    "good.trace -t cent --set timing.tREFI=200ns": ("P0602", "tREFI is at least 419 clocks"),
    "good.trace -t aim-pinned --issue-trace nowhere/x.csv": ("P0102", "no folder"),
    "good.trace -t aim-pinned --issue-trace - --json": ("", "both write to stdout"),
    "good.trace -t aim-pinned --trace-format ramulator": ("", "known: aim"),
    "good.trace -t aim-pinned --sim-engine slow": ("", "fast, plain"),
    "good.trace": ("", "pimc targets"),
    "good.trace another.trace -t aim-pinned": ("", "another.trace"),
    "-t aim-pinned": ("", "TRACE"),
}


@pytest.mark.parametrize("line", LINES)
def test_bad_command_lines(line: str, run: CommandLine) -> None:
    (run.folder / "good.trace").write_text(GOOD)
    code, words = LINES[line]
    outcome = run("replay", *line.split())
    assert (outcome.status, outcome.out) == (1 if code else 2, "")
    assert f"error[{code}]" in outcome.told if code else outcome.told.startswith("error: ")
    assert words in outcome.told
    assert [path.name for path in run.folder.iterdir()] == ["good.trace"]


# -- good input ------------------------------------------------------------------------------------------------------


def test_json(run: CommandLine) -> None:
    (run.folder / "good.trace").write_text(GOOD)
    report = json.loads(run.done("replay", "good.trace", "--trace-format", "aim", *TARGET, "--json"))
    assert list(report) == ["trace", "target", "cycles", "seconds", "lines", "commands", "channels"]
    assert (report["trace"], report["target"], report["lines"]) == ("good.trace", "aim-pinned", 3)
    assert report["seconds"] == pytest.approx(report["cycles"] * 0.5e-9)
    assert report["commands"] == {"ACT": 1, "ACT16": 2, "MAC16": 8, "PRE": 1}
    channels = report["channels"]
    assert [c["channel"] for c in channels] == list(range(32))
    assert all(list(c) == ["channel", "cycles", "commands"] for c in channels)
    total: Counter[str] = Counter()
    for channel in channels:
        total.update(channel["commands"])
        assert channel["cycles"] <= report["cycles"]
        assert (channel["cycles"] > 0) == bool(channel["commands"])
    assert dict(total) == report["commands"]


FORMS = {
    "crlf": GOOD.replace("\n", "\r\n").encode(),
    "mark": b"\xef\xbb\xbf" + GOOD.encode(),
    "gzip": gzip.compress(GOOD.encode(), mtime=0),
    "blanks": b"# a comment\n\n  " + GOOD.replace(" ", "\t  ").encode(),
    "hexadecimal": GOOD.replace(" 7\n", " 0x7\n").replace("W MEM 1", "W MEM 0X01").encode(),
    "no-last-newline": GOOD.rstrip("\n").encode(),
    "prefix": GOOD.replace("MAC_ABK", "ISR_MAC_ABK").encode(),
    "more-behind-the-end": GOOD.encode() + b"this is no line\n",
}


@pytest.mark.parametrize("data", FORMS.values(), ids=FORMS)
def test_forms_of_the_same_trace(data: bytes, run: CommandLine) -> None:
    (run.folder / "one").write_text(GOOD)
    (run.folder / "other").write_bytes(data)
    one, other = (json.loads(run.done("replay", name, *TARGET, "--json")) for name in ("one", "other"))
    assert {**one, "trace": ""} == {**other, "trace": ""}
    from_stdin = run("replay", "-", *TARGET, "--json", stdin=data)
    assert from_stdin.status == 0
    assert json.loads(from_stdin.out) == {**one, "trace": "<stdin>"}


def test_engines_and_clock_of_the_target(run: CommandLine) -> None:
    (run.folder / "good.trace").write_text(GOOD)
    fast, plain = (run.done("replay", "good.trace", *TARGET, "--json", "--sim-engine", e) for e in ("fast", "plain"))
    assert fast == plain
    slower = json.loads(run.done("replay", "good.trace", *TARGET, "--json", "--set", "dram.clock=1GHz"))
    assert slower["cycles"] == json.loads(fast)["cycles"]
    assert slower["seconds"] == pytest.approx(2 * json.loads(fast)["seconds"])


def test_pages(run: CommandLine) -> None:
    (run.folder / "good.trace").write_text(GOOD)
    page = run.done("replay", "good.trace", *TARGET)
    assert page.startswith("good.trace on aim-pinned\n")
    assert "cycles" in page
    assert "MAC16" in page
    assert run.done("replay", "good.trace", *TARGET, "-q") == ""
    assert len(run.done("replay", "good.trace", *TARGET, "-v").split("\n")) > 32 + len(page.split("\n"))
    idle = run("replay", "-", *TARGET, stdin=b"AiM EOC\n")
    assert (idle.status, idle.err) == (0, "")
    assert "no DRAM command" in idle.out


def test_help(run: CommandLine) -> None:
    text = run.done("replay", "--help")
    for words in ("TRACE", "--trace-format aim", "--issue-trace FILE.csv", "--json", "pimc replay block.trace.gz"):
        assert words in text
    assert "replay" in run.done("--help")


@pytest.mark.parametrize("name", ["issued.csv", "issued.csv.gz"])
@pytest.mark.parametrize("engine", ["fast", "plain"])
def test_issue_trace(engine: str, name: str, run: CommandLine) -> None:
    trace = str(DATA / "micro/mask_overlap.trace")
    options = ("--sim-engine", engine)
    report = json.loads(run.done("replay", trace, *TARGET, "--json", "--issue-trace", name, *options))
    data = (run.folder / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode()
    assert text == run("replay", trace, *TARGET, "--issue-trace", "-", *options).out
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == ["cycle", "channel", "command", "bank", "row"]
    order = [(int(row["cycle"]), int(row["channel"])) for row in rows]
    assert order == sorted(set(order))  # a channel has one command a cycle
    assert Counter(row["command"] for row in rows) == report["commands"]
    for channel in report["channels"]:
        last = max((cycle for cycle, number in order if number == channel["channel"]), default=0)
        assert last == channel["cycles"]
    assert all((row["row"] != "") == (row["command"] in {"ACT", "ACT16", "MAC16"}) for row in rows)
