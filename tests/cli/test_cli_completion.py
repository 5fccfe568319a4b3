"""What shells complete, asked of the shells themselves where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.harness import MODELS, ROOT, TINY, CommandLine

ASK = {
    "bash": """
source ./script
compopt() {{ :; }}
COMP_LINE="{line}" COMP_POINT=${{#COMP_LINE}}
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
    ("pimc compile m.onnx --parallel pp=4,", ["4,tp="]),
    ("pimc compile models/tiny-llama.pimc -t npu --dim ", ["batch=", "past=", "seq="]),
    ("pimc compile -t npu --dim past=7 --dim seq=2 models/tiny-llama.pimc --dim ", ["batch="]),
    ("pimc compile models/tiny-llama.onnx -t npu --dim se", ["seq="]),
    ("pimc compile - -t npu --dim ", []),
    ("pimc opt models/tiny-llama.pimc --dim b", ["batch="]),
    ("pimc explain models/tiny-llama.pimc -t cent --op attention_s", ["attention_scores", "attention_softmax"]),
    (
        "pimc explain models/tiny-llama.pimc -t cent --dim past=7 --op layer.1.self_attention.v",
        ["layer.1.self_attention.v", "layer.1.self_attention.values"],
    ),
    ("pimc explain models/tiny-llama.pimc --op m", []),
    ("pimc show tiny.pimprog --engine ", ["load", "npu", "store"]),
    ("pimc show tiny.pimprog --engine npu --op layer.0.x", ["layer.0.x", "layer.0.x.1"]),
    ("pimc export tiny.pimprog --engine s", ["store"]),
    ("pimc show mine.yaml --engine ", []),
    ("pimc compile missing.pimc --dim ", []),
]
"""A line that ends where one asks, and what it may go on with."""


@pytest.fixture
def folder(run: CommandLine) -> Path:
    """A folder with two files, and `pimc` on the path."""
    for name in ("model.onnx", "mine.yaml"):
        (run.folder / name).touch()
    (run.folder / "models").symlink_to(MODELS)
    command = run.folder / ".bin/pimc"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pimc "$@"\n')
    command.chmod(0o755)
    return run.folder


def asked(shell: str, line: str, folder: Path, run: CommandLine) -> list[str]:
    (folder / "script").write_text(run.done("completion", shell))
    quoted = [f'"{word}"' for word in line.split(" ")]
    code = ASK[shell].format(words=" ".join(quoted), line=line)
    command = {"bash": ["bash", "--norc"], "zsh": ["zsh", "-f"], "fish": ["fish", "--no-config"]}[shell]
    done = subprocess.run(
        [*command, "-c", code], cwd=folder, env=environment_of(folder), capture_output=True, text=True
    )
    return done.stdout.split()


def environment_of(folder: Path) -> dict[str, str]:
    path = f"{folder / '.bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TERM": "dumb", "PS1": "$ "}


def shells() -> list[object]:
    installed = {shell: shutil.which(shell) is not None for shell in ASK}
    return [pytest.param(s, marks=pytest.mark.skipif(not found, reason=f"no {s}")) for s, found in installed.items()]


@pytest.mark.parametrize(("line", "expected"), CASES, ids=[line for line, _ in CASES])
def test_names_are_completed(line: str, expected: list[str], folder: Path, run: CommandLine) -> None:
    if "tiny.pimprog" in line:
        run.done("compile", TINY, "-t", "npu", "--dim", "past=3", "-o", "tiny.pimprog", "-q")
    assert sorted(asked("bash", line, folder, run)) == sorted(expected)


@pytest.mark.parametrize("shell", shells())
@pytest.mark.parametrize("line", ["pimc comp", "pimc compile m.onnx -t npu,cent-"])
def test_every_shell_completes(shell: str, line: str, folder: Path, run: CommandLine) -> None:
    assert sorted(asked(shell, line, folder, run)) == sorted(dict(CASES)[line])


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        ("pimc targets tpu\t", "pimc targets tpuv3 "),
        ("pimc compile models/tiny-llama.pimc -t npu --dim pa\t7", "... -t npu --dim past=7"),
        ("pimc compile models/tiny-llama.pimc -t npu --dim past=7 --dim ba\t2", "... past=7 --dim batch=2"),
        ("pimc compile models/tiny-llama.pimc -t npu:cent-\t-q", "... -t npu:cent-published -q"),
        ("pimc compile models/tiny-llama.pimc -t npu --set timing.tREF\t1us", "... --set timing.tREFI=1us"),
    ],
)
def test_a_line_goes_on_as_it_should_in_bash(typed: str, line: str, folder: Path, run: CommandLine) -> None:
    """In a terminal: bash itself takes words apart at `=` and `:`, and adds a space behind a word that is whole."""
    script = run.done("completion", "bash")
    assert in_a_terminal(f"{script}\n", typed, folder).endswith(line.removeprefix("... "))


def in_a_terminal(script: str, typed: str, folder: Path) -> str:
    """The line that bash has after keys were typed; a tab is typed when what is before it has been shown."""
    (folder / "script").write_text(script)
    pid, screen = pty.fork()
    if pid == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "-i"], environment_of(folder))
    try:
        os.write(screen, b"source ./script; echo ready''\n")
        shown_until(screen, "ready\r\n$ ")
        before, after = typed.split("\t")
        os.write(screen, f"{before}\t".encode())
        seen = shown_until(screen, before)
        while select.select([screen], [], [], 10 if seen.endswith(before) else 0.5)[0]:
            seen += os.read(screen, 4096).decode()
        os.write(screen, after.encode())
        return seen + (shown_until(screen, after) if after else "")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(screen)


def shown_until(screen: int, text: str) -> str:
    """What a terminal shows from here until a text is there; an error where it does not come in a minute."""
    seen = ""
    while text not in seen:
        assert select.select([screen], [], [], 60)[0], seen
        seen += os.read(screen, 4096).decode()
    return seen


@pytest.mark.skipif(shutil.which("fish") is None, reason="no fish")
def test_files_are_left_to_the_shell(folder: Path, run: CommandLine) -> None:
    assert asked("fish", "pimc compile model.", folder, run) == ["model.onnx"]
    assert asked("fish", "pimc compile model.onnx -t mi", folder, run) == ["mine.yaml"]
    assert asked("fish", "pimc compile model.onnx -t npu -o mo", folder, run) == ["model.onnx", "models"]


def test_an_unknown_shell_is_refused(run: CommandLine) -> None:
    outcome = run("completion", "bsh")
    assert outcome.status == 2
    assert "did you mean 'bash'?" in outcome.err
