"""Writes the git revision into wheels and source distributions. Everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from pimc.version import REVISION_FILE, revision  # noqa: E402


def write(package: Path) -> None:
    """Put the revision into a package that is being built; a new file, for the old one may be a link."""
    place = package / REVISION_FILE
    if revision() and package.is_dir():
        place.unlink(missing_ok=True)
        place.write_text(f"{revision()}\n", encoding="utf-8")


class BuildPy(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            write(Path(self.build_lib) / "pimc")


class SourceDistribution(sdist):
    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        write(Path(base_dir) / "pimc")


setup(cmdclass={"build_py": BuildPy, "sdist": SourceDistribution})
