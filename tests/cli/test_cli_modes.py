"""Quiet, JSON and colours in every command, and the examples of every help."""

from __future__ import annotations

import gzip
import json
import shlex
import shutil
from pathlib import Path

import click
import pytest

import pimc
from pimc.cli import screen
from pimc.cli.group import COMMANDS, cli
from pimc.frontends import load
from pimc.sim.issue_trace import IssueLog, write_issues
from tests.cli.harness import DECODE, GEMV, ROOT, TINY, TINY_ONNX, CommandLine

ROOT_CONTEXT = click.Context(cli, info_name="pimc")
LINES = {
    "compile": f"compile {TINY} -t npu",
    "sweep": "sweep s.yaml -j 0",
    "sim": "sim a.pimprog",
    "compare": "compare a.pimprog b.pimprog",
    "replay": "replay a.trace -t aim-pinned",
    "check": "check gemv.pimprog",
    "explain": f"explain {TINY} -t npu --op logits",
    "report": "report a.pimprog -o page.html",
    "show": "show a.pimprog --engine load",
    "export": "export a.pimprog --parquet a.parquet",
    "asm": "asm a.pimasm",
    "disasm": "disasm a.pimprog",
    "opt": "opt a.pimir --passes bind,fold",
    "targets": "targets npu",
    "passes": "passes place",
    "ops": "ops add",
    "commands": "commands SIGNAL",
}
"""A command line for each command, on the files of `files`."""
SILENT = {"asm"}
"""Commands that print nothing when all is well."""
NEEDS_DUCKDB = {"export"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every kind, made once."""
    folder = tmp_path_factory.mktemp("made")
    for name, target in (("a", "npu"), ("b", "neupims"), ("model", "neupims")):
        pimc.save_program(pimc.compile(TINY, target, dims={"past": 3}).program, folder / f"{name}.pimprog")
    pimc.save_program(pimc.compile(GEMV, "neupims").program, folder / "gemv.pimprog")
    (folder / "a.pimasm").write_text(pimc.disassemble(pimc.load_program(folder / "a.pimprog")))
    (folder / "a.pimir").write_text(pimc.show_ir(pimc.load_model(TINY)))
    (folder / "a.trace").write_text("AiM WR_GB 1 0 0x1\nAiM EOC\n")
    (folder / "s.yaml").write_text(f"models: {GEMV}\ntargets: [aim-pinned]\ndims: {{K: 64, N: 16}}\n")
    return folder


@pytest.fixture
def files(made: Path, run: CommandLine) -> CommandLine:
    shutil.copytree(made, run.folder, dirs_exist_ok=True)
    return run


def test_every_command_has_a_line() -> None:
    assert {*LINES, "completion"} == set(COMMANDS)


@pytest.mark.parametrize("name", LINES)
def test_json_is_one_object(name: str, files: CommandLine) -> None:
    if name in NEEDS_DUCKDB:
        pytest.importorskip("duckdb")
    found = json.loads(files.done(*LINES[name].split(), "--json"))
    assert isinstance(found, dict)
    assert found


@pytest.mark.parametrize("name", sorted({*LINES} - SILENT - {"disasm", "opt"}))
def test_quiet_prints_nothing(name: str, files: CommandLine) -> None:
    if name in NEEDS_DUCKDB:
        pytest.importorskip("duckdb")
    assert files.done(*LINES[name].split(), "-q") == ""


@pytest.mark.parametrize("name", LINES)
def test_errors_are_json_where_json_is_asked_for(name: str, files: CommandLine) -> None:
    wrong = [word for word in LINES[name].split() if not word.startswith(("-", "SIGNAL", "add", "place"))][:1]
    outcome = files(*wrong, "--jsn", "--json")
    error = json.loads(outcome.err)
    assert (outcome.status, outcome.out, error["status"]) == (2, "", 2)
    assert error["errors"][0]["help"] == "did you mean '--json'?"


def test_a_diagnostic_as_json_has_its_place(files: CommandLine) -> None:
    Path("m.pimc").write_text("model m(batch = 1)\ninput x: f16[batch, 4]\noutput y = relv(x)\n")
    outcome = files("compile", "m.pimc", "-t", "npu", "--json")
    assert (outcome.status, outcome.out) == (1, "")
    (error,) = json.loads(outcome.err)["errors"]
    assert (error["code"], error["kind"], error["help"]) == ("P0302", "NAME_UNKNOWN", "did you mean 'relu'?")
    (place,) = error["places"]
    assert (place["file"], place["line"], place["column"]) == ("m.pimc", 3, 12)


def test_a_bug_as_json(files: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("pimc.cli.compile_run.compile_model", broken)
    monkeypatch.setattr("tempfile.tempdir", str(files.folder))
    outcome = files("compile", TINY, "-t", "npu", "--json")
    (error,) = json.loads(outcome.err)["errors"]
    assert (outcome.status, error["kind"]) == (70, "bug")
    assert error["message"] == "ZeroDivisionError: division by zero"


class Screen:
    """A stream that is, or is no terminal."""

    def __init__(self, terminal: bool) -> None:
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("terminal", "environment", "coloured"),
    [
        (True, {}, True),
        (False, {}, False),
        (True, {"TERM": "dumb"}, False),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (False, {"FORCE_COLOR": "1"}, True),
        (True, {"FORCE_COLOR": "1", "TERM": "dumb"}, True),
        (True, {"FORCE_COLOR": "1", "NO_COLOR": "1"}, False),
    ],
)
def test_who_gets_colours(
    terminal: bool, environment: dict[str, str], coloured: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert screen.is_coloured(Screen(terminal)) is coloured  # type: ignore[arg-type]


def test_forced_colours_reach_a_pipe(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run.done("passes", "place")
    assert "\x1b[" not in plain
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[" in run.done("passes", "place")


# -- the examples of the help -----------------------------------------------------------------------------------------

STANDS_FOR = {"tcp://head:8786": "local"}
"""What an example names that a test has not."""
EXAMPLES = [
    (name, line.strip())
    for name in COMMANDS
    for line in ((cli.get_command(ROOT_CONTEXT, name) or cli).epilog or "").splitlines()[2:]
]
SLOW = ("gpt3-175b", "llama2-7b", "--cluster")
"""Examples that take longer than a test should."""


@pytest.fixture(scope="module")
def example_files(tmp_path_factory: pytest.TempPathFactory, made: Path) -> Path:
    """What the examples of all commands name."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "models").symlink_to(ROOT / "models")
    for name in ("before", "after", "a"):
        shutil.copy(made / "model.pimprog", folder / f"{name}.pimprog")
    dims = {"batch": 2, "seq": 1, "past": 5}  # those of io.npz
    on_pim = pimc.compile(TINY_ONNX, "neupims", dims=dims, pass_options=["place.only=pim"])
    pimc.save_program(on_pim.program, folder / "model.pimprog")
    log = IssueLog()
    pimc.simulate(pimc.compile(GEMV, "cent").program, issues=log)
    write_issues(str(folder / "issued.csv.gz"), log.issued())
    for name in ("npu", "neupims"):
        report = pimc.compile(TINY, name).report
        assert report is not None
        (folder / f"{name}.json").write_text(json.dumps(report.to_json()))
    shutil.copy(made / "a.pimasm", folder)
    shutil.copy(DECODE, folder / "io.npz")
    (folder / "block.trace").write_text("AiM WR_GB 1 0 0x1\nAiM EOC\n")
    (folder / "block.trace.gz").write_bytes(gzip.compress((folder / "block.trace").read_bytes()))
    shutil.copy(made / "s.yaml", folder / "design.yaml")
    return folder


def run_example(line: str, run: CommandLine) -> None:
    """Run an example: a command, commands that are piped, or a command whose output goes to a file."""
    pending, target = line.partition(" > ")[::2]
    data = b""
    for command in pending.split(" | "):
        words = [STANDS_FOR.get(word, word) for word in shlex.split(command)]
        if words[0] != "pimc":
            continue  # a pager
        load._stdin.cache_clear()  # a process reads it once
        outcome = run(*words[1:], stdin=data)
        assert outcome.status == 0, f"{command}\n{outcome.err}"
        data = outcome.out.encode()
    if target:
        Path(target).write_bytes(data)


@pytest.mark.parametrize(
    ("name", "line"),
    [pytest.param(*e, marks=[pytest.mark.slow] * any(part in e[1] for part in SLOW)) for e in EXAMPLES],
    ids=[line for _, line in EXAMPLES],
)
def test_examples_of_the_help_work(name: str, line: str, example_files: Path, run: CommandLine) -> None:
    assert f"pimc {name}" in line or name in ("asm", "disasm")  # each shows what the other takes
    shutil.copytree(example_files, run.folder, symlinks=True, dirs_exist_ok=True)
    run_example(line, run)
