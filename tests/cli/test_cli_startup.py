"""What is imported when, the lazy public names, and the ends of a process: pipes, interrupts, bugs."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import pimc
from pimc.cli.group import COMMANDS
from pimc.version import described
from tests.cli.harness import ROOT, TINY, CommandLine

HEAVY = ("networkx", "onnx", "numpy", "pydantic", "lark", "yaml", "rich")


def python(code: str, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["compile", "--help"], ["sim", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom pimc.cli import main\n"
        "try: main(sys.argv[1:])\n"
        f"except SystemExit: print('LOADED', [m for m in {HEAVY} if m in sys.modules])"
    )
    assert python(code, *arguments).splitlines()[-1] == "LOADED []"


def test_importing_pimc_imports_nothing_heavy() -> None:
    assert python(f"import sys, pimc; print([m for m in {HEAVY} if m in sys.modules])").strip() == "[]"


def test_simulating_a_stored_program_imports_no_compiler(run: CommandLine, tmp_path: Path) -> None:
    stored = tmp_path / "tiny.pimprog"
    run.done("compile", TINY, "-t", "neupims", "--dim", "past=7", "-o", str(stored), "-q")
    compiler = ("pimc.driver", "pimc.passes.pipeline", "pimc.backends.emission", "pimc.frontends", "lark")
    code = (
        "import sys\nfrom pimc.cli import main\n"
        "try: main(['sim', sys.argv[1]])\n"
        f"finally: print('LOADED', [m for m in {compiler} if m in sys.modules])"
    )
    assert python(code, str(stored)).splitlines()[-1] == "LOADED []"


def test_public_names_are_there_for_type_checkers_as_well() -> None:
    tree = ast.parse((ROOT / "pimc/__init__.py").read_text())
    block = next(n for n in tree.body if isinstance(n, ast.If))
    told = {a.asname for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    told |= {ast.unparse(t) for n in block.body if isinstance(n, ast.Assign) for t in n.targets}
    assert {name for name in told if name and not name.startswith("_")} == set(pimc._PUBLIC)
    for name in dir(pimc):
        assert getattr(pimc, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        pimc.nothing  # noqa: B018


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str, run: CommandLine) -> None:
    out = run.done(name, "--help")
    assert "Example" in out
    assert f"pimc {name}" in out.partition("Example")[2]
    assert run.done(name, "-h") == out


def test_the_group_lists_its_commands(run: CommandLine) -> None:
    out = run.done("--help")
    assert all(f"\n  {name} " in out for name in COMMANDS)
    assert run.done("--version") == f"pimc {described()}\n"
    assert described().startswith(pimc.__version__)


def test_a_bug_is_one_line_and_a_report(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("pimc.cli.compile_run.compile_model", broken)
    monkeypatch.setattr("tempfile.tempdir", str(run.folder))
    outcome = run("compile", TINY, "-t", "npu")
    assert (outcome.status, outcome.out) == (70, "")
    assert outcome.err.startswith(
        "internal error: ZeroDivisionError: division; this is a bug in pimc, the report is in "
    )
    assert outcome.err.count("\n") == 1
    report = Path(outcome.err.split()[-1]).read_text()
    assert "Traceback" in report
    assert "by zero" in report


def test_an_interrupt_is_quiet(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pimc.cli.compile_run.compile_model", interrupted)
    outcome = run("compile", TINY, "-t", "npu")
    assert (outcome.status, outcome.out, outcome.err.strip()) == (130, "", "")


def test_a_reader_may_close_the_pipe() -> None:
    command = f"{sys.executable} -m pimc ops | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "elementwise\n", "")


def test_a_model_may_come_by_stdin() -> None:
    text = Path(TINY).read_bytes()
    done = subprocess.run(
        [sys.executable, "-m", "pimc", "compile", "-", "-t", "npu", "--values", "random"],
        cwd=ROOT / "models",
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=text,
        capture_output=True,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"values     ok" in done.stdout
