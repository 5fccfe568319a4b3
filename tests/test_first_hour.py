"""The first hour as a new user has it: a fresh clone, a new environment, and nothing but what docs/tutorial.md says.

`test_docs.py` runs the same page without installing; this needs a package index that pip reaches.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests import docs
from tests.test_docs import ROOT, comparable

PAGE = "docs/tutorial.md"
STEPS = ("Compile a model", "Compare two machines", "Change the memory", "Write a pass", "Open the report")
INSTALLING, LONGEST = 600, 60
"""Seconds that installing and a command may take where a machine is slow and shared."""


def test_the_page_has_its_steps_in_their_order() -> None:
    titles = [line[3:] for line in (ROOT / PAGE).read_text().splitlines() if line.startswith("## ")]
    assert [title for title in titles if title in STEPS] == list(STEPS)


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / ".git").exists() or shutil.which("git") is None, reason="not a clone")
def test_the_first_hour_from_a_fresh_clone(tmp_path: Path) -> None:
    """Every command gives what the page says, in seconds, and nothing is needed that the page does not name."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "-q", str(ROOT), str(clone)], check=True)
    page = (clone / PAGE).read_text()
    install, *others = [block.text for block in docs.blocks(page) if block.language == "bash"]
    assert others == []
    *commands, activate = install.splitlines()
    assert activate == "source .venv/bin/activate"
    in_clone("\n".join(commands), clone, timeout=INSTALLING)
    for block in docs.blocks(page):
        if block.file_name:
            (clone / block.file_name).write_text(block.text)
        elif block.language == "console":
            for exchange in docs.exchanges(block.text):
                begun = time.monotonic()
                seen = in_clone(f"{activate}\n{exchange.command}", clone)
                assert comparable(seen) == comparable(exchange.output), exchange.command
                assert time.monotonic() - begun < LONGEST, exchange.command
        elif block.language == "python":
            (clone / ".script.py").write_text(block.text)
            said = docs.with_outputs(page, [in_clone(f"{activate}\npython .script.py", clone)])
            assert said == page
    report = (clone / "report.html").read_text()
    assert "<h1>gpt3-7b-layers<span>on neupims</span></h1>" in report
    changed = subprocess.run(["git", "status", "--porcelain"], cwd=clone, check=True, capture_output=True, text=True)
    assert {line[:2] for line in changed.stdout.splitlines()} == {"??"}, "the walk changed files of the clone"


def in_clone(command: str, clone: Path, timeout: int = 2 * LONGEST) -> str:
    """What a shell of a user's prints, errors included."""
    left = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONHOME")
    environment = {name: value for name, value in os.environ.items() if name not in left}
    done = subprocess.run(
        ["bash", "-c", command], cwd=clone, env={**environment, "COLUMNS": "120", "NO_COLOR": "1"}, timeout=timeout,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert done.returncode == 0, f"$ {command}\n{done.stdout}"
    return done.stdout
