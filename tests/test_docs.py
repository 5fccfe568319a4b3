"""The pages are true: sessions print what they are said to print, examples work, links lead somewhere.

`pytest tests/test_docs.py --update-golden` writes the present output into the sessions and the table of commands.
"""

import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from pimc.backends.engines import commands
from tests import docs

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("*.md")), ROOT / "models/README.md"]
SESSIONS = [page for page in PAGES if "```console" in page.read_text()]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a checkout to the commands of a page, with `pimc` on the path."""
    for name in ("models", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".bin").mkdir()
    command = tmp_path / ".bin" / "pimc"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pimc "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(command: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{folder / '.bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(
        shell, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode in (0, 141), f"$ {command}\n{done.stdout}"  # 141: `head` had enough
    return done.stdout


def comparable(output: str) -> str:
    """Without what differs between machines: rounding errors, and wall-clock times of the compiler itself."""
    output = re.sub(r"\d(\.\d+)?e-\d+", "#", output)
    return "\n".join(line.rstrip() for line in output.strip("\n").split("\n"))


@pytest.mark.parametrize("page", SESSIONS, ids=name_of)
def test_sessions_print_what_the_page_says(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    said = page.read_text()
    docs.write_files(said, folder)
    seen = docs.with_sessions(said, lambda command: run(command, folder))
    if request.config.getoption("--update-golden") and comparable(seen) != comparable(said):
        page.write_text(seen)
        return
    assert comparable(seen) == comparable(said)


def test_the_table_of_commands_is_complete(request: pytest.FixtureRequest) -> None:
    page = ROOT / "docs/streams.md"
    said = page.read_text()
    seen = re.sub(r"(?<=<!-- commands -->\n).*(?=<!-- end -->)", lambda _: command_table(), said, flags=re.DOTALL)
    if request.config.getoption("--update-golden"):
        page.write_text(seen)
        return
    assert seen == said


def command_table() -> str:
    by_unit: dict[str, list[str]] = defaultdict(list)
    for mnemonic, declared in commands().items():
        summary = (declared.__doc__ or "").strip().split("\n")[0]
        by_unit[declared.unit or "any"].append(f"| `{mnemonic}` | {summary} |")
    tables = (f"**{unit}**\n\n| command | what it does |\n|---|---|\n" + "\n".join(rows) for unit, rows in by_unit.items())
    return "\n" + "\n\n".join(tables) + "\n\n"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    assert [link for link in docs.links(page.read_text()) if not (page.parent / link).exists()] == []


def test_every_model_is_described() -> None:
    described = (ROOT / "models/README.md").read_text()
    models = [p for p in (ROOT / "models").rglob("*") if p.is_file() and p.suffix in {".pimc", ".onnx", ".npz", ".py"}]
    assert [p.name for p in models if p.name not in described and p.stem not in described] == []


def test_the_pass_of_the_page_moves_attention(folder: Path) -> None:
    """The same model with and without the pass of docs/writing-a-pass.md: only the products of attention have moved."""
    docs.write_files((ROOT / "docs/writing-a-pass.md").read_text(), folder)
    compile_command = "pimc compile models/tiny-llama.onnx -t neupims --dim past=127 --values random --json"
    before, after = (
        {op["name"]: op for op in json.loads(run(compile_command + option, folder))["ops"]}
        for option in ("", " --load attention_on.py --pass-config attention-on.engine=npu")
    )
    moved = {name for name, op in after.items() if op["engine"] != before[name]["engine"]}
    assert moved == {name for name, op in before.items() if op["op"] in ("attention_scores", "attention_context")}
    assert {after[name]["engine"] for name in moved} == {"npu"}
    assert all("attention-on" in after[name]["reason"] for name in moved)


def test_the_target_of_the_page_is_the_machine_it_says(folder: Path) -> None:
    docs.write_files((ROOT / "docs/adding-a-target.md").read_text(), folder)
    compile_command = "pimc compile models/tiny-llama.onnx --dim past=127 --values random --json -t "
    whole, half = (json.loads(run(compile_command + target, folder)) for target in ("neupims", "half_neupims.yaml"))
    assert (whole["target"], half["target"]) == ("neupims", "half-neupims")
    assert whole["target_hash"] != half["target_hash"]
    assert half["values"]["ok"]
    assert half["seconds"] > whole["seconds"]


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "\n.venv/bin/pytest -q -n auto\n" in (ROOT / "README.md").read_text()
    assert '\n"$bin/pytest" -q -n auto\n' in (ROOT / ".ci/run").read_text()
