"""What shells complete, asked of the shells themselves where they are installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.harness import ROOT, CommandLine

ASK = {
    "bash": """
source ./script
COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
_pimc_completion pimc 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
""",
    "zsh": """
compdef() {{ }}
compadd() {{ print -l -- "${{(@P)@[-1]}}" }}
_describe() {{ print -l -- "${{(@P)3}}" | cut -d: -f1 }}
_path_files() {{ print -l -- *(N) }}
source ./script
words=({words}) CURRENT=${{#words}}
_pimc_completion
""",
    "fish": """
source ./script
complete -C "{line}" | cut -f1
""",
}
"""How a shell says what it completes a line to."""

CASES = [
    ("pimc comp", ["compile", "compare", "completion"]),
    ("pimc compile m.onnx --disa", ["--disable-pass"]),
    ("pimc compile m.onnx -t neu", ["neupims", "neupims-faithful"]),
    ("pimc compile m.onnx -t npu,cent-", ["npu,cent-published"]),
    ("pimc compile m.onnx -t npu --disable-pass can", ["canonical-order", "canonicalize"]),
    ("pimc compile m.onnx -t npu --pass-config place.o", ["place.only="]),
    ("pimc compile m.onnx -t npu --set timing.tREF", ["timing.tREFI="]),
    ("pimc compile m.onnx -t npu --format d", ["device"]),
    ("pimc compile m.onnx --phase p", ["prefill"]),
    ("pimc opt m.pimir --passes fold,d", ["fold,dce"]),
    ("pimc targets tp", ["tpuv3"]),
    ("pimc passes tag-n", ["tag-nature"]),
    ("pimc ops attention_s", ["attention_scores", "attention_softmax"]),
    ("pimc commands MAC_A", ["MAC_ABK"]),
    ("pimc completion z", ["zsh"]),
]


@pytest.fixture
def folder(run: CommandLine) -> Path:
    """A folder with two files, and `pimc` on the path."""
    for name in ("model.onnx", "mine.yaml"):
        (run.folder / name).touch()
    command = run.folder / ".bin/pimc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pimc "$@"\n')
    command.chmod(0o755)
    return run.folder


def asked(shell: str, line: str, folder: Path, run: CommandLine) -> list[str]:
    (folder / "script").write_text(run.done("completion", shell))
    quoted = [f'"{word}"' for word in line.split(" ")]
    code = ASK[shell].format(words=" ".join(quoted), line=line)
    path = f"{folder / '.bin'}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    command = {"bash": ["bash", "--norc"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"]}[shell]
    done = subprocess.run([*command, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    return done.stdout.split()


def shells() -> list[object]:
    installed = {shell: shutil.which(shell) is not None for shell in ASK}
    return [pytest.param(s, marks=pytest.mark.skipif(not found, reason=f"no {s}")) for s, found in installed.items()]


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_names_are_completed(line: str, expected: list[str], folder: Path, run: CommandLine) -> None:
    assert sorted(asked("bash", line, folder, run)) == sorted(expected)


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize("line", ["pimc comp", "pimc compile m.onnx -t npu,cent-"])
def test_every_shell_completes(shell: str, line: str, folder: Path, run: CommandLine) -> None:
    assert sorted(asked(shell, line, folder, run)) == sorted(dict(CASES)[line])


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_files_are_left_to_the_shell(folder: Path, run: CommandLine) -> None:
    assert asked("fish", "pimc compile mod", folder, run) == ["model.onnx"]
    assert asked("fish", "pimc compile model.onnx -t mi", folder, run) == ["mine.yaml"]
    assert asked("fish", "pimc compile model.onnx -t npu -o m", folder, run) == ["mine.yaml", "model.onnx"]


def test_an_unknown_shell_is_refused(run: CommandLine) -> None:
    outcome = run("completion", "bsh")
    assert outcome.status == 2
    assert "did you mean 'bash'?" in outcome.err
