"""What the distribution declares is what lies on disk, and the layers are what they are said to be."""

import importlib
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

from pimc.backends import engines, target_registry
from pimc.passes import registry

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
SETUPTOOLS = PROJECT["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETUPTOOLS["package-dir"]
"""The packages that have a folder of their own at the top."""


def files_of(package: str) -> Iterator[Path]:
    """Every file of a top package, those of packages with a folder of their own left out."""
    links = {ROOT / FOLDERS[package] / name.removeprefix(f"{package}.") for name in FOLDERS if name != package}
    for path in sorted((ROOT / FOLDERS[package]).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts and not links & {path, *path.parents}:
            yield path


def package_of(path: Path, top: str) -> str:
    return ".".join((top, *path.parent.relative_to(ROOT / FOLDERS[top]).parts))


def test_every_package_on_disk_is_declared() -> None:
    on_disk = [package_of(path, top) for top in FOLDERS for path in files_of(top) if path.name == "__init__.py"]
    assert sorted(SETUPTOOLS["packages"]) == sorted(on_disk)


def test_every_file_of_a_package_is_shipped() -> None:
    patterns = ["*.py", *SETUPTOOLS["package-data"]["*"]]
    files = [(top, path) for top in FOLDERS for path in files_of(top)]
    left_out = [
        str(path.relative_to(ROOT))
        for top, path in files
        if package_of(path, top) not in SETUPTOOLS["packages"] or not any(fnmatch(path.name, p) for p in patterns)
    ]
    assert left_out == []


@pytest.mark.parametrize("layer", [name for name in FOLDERS if "." in name])
def test_links_lead_to_the_folders_that_the_wheel_is_built_from(layer: str) -> None:
    link = ROOT.joinpath(*layer.split("."))
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / FOLDERS[layer]).resolve()


def test_entry_points_are_the_built_in_tables() -> None:
    points = PROJECT["project"]["entry-points"]
    assert points["pimc.passes"] == dict(registry.BUILTIN)
    assert points["pimc.targets"] == dict(target_registry.BUILTIN)
    assert points["pimc.engines"] == dict(engines.BUILT_IN)


@pytest.mark.parametrize(
    "reference",
    [
        *PROJECT["project"]["scripts"].values(),
        *(value for group in PROJECT["project"]["entry-points"].values() for value in group.values()),
    ],
)
def test_entry_points_can_be_loaded(reference: str) -> None:
    module, _, attribute = reference.partition(":")
    assert hasattr(importlib.import_module(module), attribute or "__doc__")


def test_the_version_is_told_once() -> None:
    import pimc

    version = PROJECT["project"]["version"]
    assert pimc.__version__ == version
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources, to be spoilt."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS.values():
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)


def test_the_layers_hold(checkout: Path) -> None:
    result = lint_imports(checkout)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("ir/types.py", "import pimc.passes.manager"),
        ("ir/types.py", "import pimc.backends.program"),
        ("passes/bind.py", "from pimc.backends import target"),
        ("backends/quantity.py", "from pimc.passes.manager import Pass"),
        ("backends/quantity.py", "def f() -> None:\n    import pimc.sim.time"),
        ("pimc/sim/time.py", "import pimc.frontends"),
        ("pimc/frontends/load.py", "import pimc.driver"),
        ("passes/bind.py", "import networkx"),
    ],
)
def test_a_forbidden_import_is_found(checkout: Path, file: str, line: str) -> None:
    path = checkout / file
    text = path.read_text()
    path.write_text(f"{text}\n{line}\n")
    try:
        result = lint_imports(checkout)
    finally:
        path.write_text(text)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "BROKEN" in result.stdout


@pytest.mark.parametrize("layer", ["ir", "passes", "backends"])
def test_importing_a_layer_by_its_folder_is_refused(layer: str) -> None:
    ruff = str(Path(sys.executable).with_name("ruff"))
    command = [ruff, "check", "--select=TID251", "--stdin-filename=example.py", "-"]
    source = f"import {layer}\n"
    result = subprocess.run(command, cwd=ROOT, input=source, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert f"import pimc.{layer}" in result.stdout
