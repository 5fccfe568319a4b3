"""Options and fixtures of the whole suite."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.cli.harness import CommandLine

# How long an example takes is nothing to fail for. Examples are the same in each run; the slow suite draws new ones.
settings.register_profile("pimc", deadline=None, derandomize=True)
settings.load_profile("pimc")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden", action="store_true", help="write what is seen now into the files of expected output"
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """`golden(name, text)`: the text is that of `golden/NAME` beside the test; `--update-golden` writes it."""

    def check(name: str, text: str) -> None:
        file = request.path.parent / "golden" / name
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        else:
            assert file.is_file(), f"no {file}: run pytest --update-golden"
            assert text == file.read_text(encoding="utf-8")

    return check


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[CommandLine]:
    """The command line, in this process and in a folder of its own."""
    monkeypatch.setenv("NO_COLOR", "1")
    before = Path.cwd()
    os.chdir(tmp_path)
    yield CommandLine(tmp_path, capsys, monkeypatch)
    os.chdir(before)
