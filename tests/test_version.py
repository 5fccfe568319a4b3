"""`--version` names the revision, wherever it can be known from."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pimc import version
from pimc.version import described, revision_of

ROOT = Path(__file__).parent.parent
HASH, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40

CHECKOUTS = {
    "branch": {".git/HEAD": "ref: refs/heads/main", ".git/refs/heads/main": HASH},
    "detached": {".git/HEAD": HASH},
    "packed": {
        ".git/HEAD": "ref: refs/heads/main",
        ".git/packed-refs": f"# pack-refs\n{OTHER} refs/heads/mainly\n{HASH} refs/heads/main",
    },
    "worktree": {
        ".git": "gitdir: main/.git/worktrees/w",
        "main/.git/worktrees/w/HEAD": "ref: refs/heads/w",
        "main/.git/worktrees/w/commondir": "../..",
        "main/.git/refs/heads/w": HASH,
    },
}


@pytest.mark.parametrize("files", CHECKOUTS.values(), ids=CHECKOUTS)
def test_the_revision_of_a_checkout_is_read_without_git(files: dict[str, str], tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert revision_of(tmp_path) == HASH


def test_what_is_no_checkout_has_no_revision(tmp_path: Path) -> None:
    assert revision_of(tmp_path) == ""
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git/HEAD").write_text("ref: refs/heads/unborn\n")
    assert revision_of(tmp_path) == ""


@pytest.mark.skipif(shutil.which("git") is None or not (ROOT / ".git").exists(), reason="not a checkout of git")
def test_this_checkout_says_what_git_says() -> None:
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    assert revision_of(ROOT) == head.stdout.strip()


def test_what_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version, "version", lambda: "1.2")
    monkeypatch.setattr(version, "revision", lambda: HASH)
    assert described() == "1.2 (0123456789ab)"
    monkeypatch.setattr(version, "revision", lambda: "")
    assert described() == "1.2"


@pytest.mark.slow
def test_wheels_source_distributions_and_archives_bear_it(tmp_path: Path) -> None:
    """Built from a repository of its own, without build isolation: needs setuptools 77."""
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("__pycache__", ".git", ".venv*", "*.egg-info", "_build", "data", "build")
    shutil.copytree(ROOT, source, symlinks=True, ignore=ignored)

    def done(*command: str, cwd: Path = source) -> str:
        return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=True).stdout

    done("git", "init", "-q", ".")
    done("git", "add", "-A")
    done("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")
    head = done("git", "rev-parse", "HEAD")
    assert done("git", "archive", "--format=tar", "-o", "../all.tar", "HEAD") == ""
    assert done("tar", "-xOf", "all.tar", "pimc/revision.txt", cwd=tmp_path) == head
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path / "dist"))
    done(*pip, str(source))
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert done("unzip", "-p", str(wheel), "pimc/revision.txt") == head
    assert done("git", "status", "--porcelain", "pimc/revision.txt") == ""
