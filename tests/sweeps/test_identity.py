"""What a point's content hash depends on, and what not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from pimc.sweeps import identity
from pimc.sweeps.reading import read_sweep
from tests.cli.harness import ROOT
from tests.sweeps.specs import DEADLY, GEMV

SPEC = """
models: model.pimc
targets: mine.yaml
dims: {K: 64}
load: own.py
"""
TARGET = "base: aim-pinned\nname: mine\ndescription: of mine\n"
MODEL = 'include "rest.pimc"\n'


@pytest.fixture
def key(tmp_path: Path) -> Callable[[str], str]:
    """The hash of the one point of a sweep, whose files lie beside it."""
    lines = GEMV.read_text().splitlines(keepends=True)
    begin = next(n for n, line in enumerate(lines) if line.startswith("model "))
    (tmp_path / "model.pimc").write_text("".join(lines[: begin + 1]) + MODEL)
    (tmp_path / "rest.pimc").write_text("".join(lines[begin + 1 :]))
    (tmp_path / "mine.yaml").write_text(TARGET)
    (tmp_path / "own.py").write_text(DEADLY)

    def of(spec: str = SPEC) -> str:
        (tmp_path / "s.yaml").write_text(spec)
        sweep = read_sweep(tmp_path / "s.yaml")
        (point,) = sweep.plan.points()
        return sweep.job(point).key

    return of


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_contents_count(key: Callable[[str], str], tmp_path: Path) -> None:
    """Each change gives another hash: the model, what it includes, the target, the pass."""
    seen = [key(SPEC)]
    assert seen == [key(SPEC)]
    (tmp_path / "model.pimc").write_text((tmp_path / "model.pimc").read_text() + "\n# more\n")
    seen.append(key(SPEC))
    edit(tmp_path / "rest.pimc", "f16", "f32")
    seen.append(key(SPEC))
    (tmp_path / "mine.yaml").write_text(TARGET + "dram: {timing: {tRP: 20ns}}\n")
    seen.append(key(SPEC))
    (tmp_path / "own.py").write_text(DEADLY + "\n")
    seen.append(key(SPEC))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize(
    "more",
    [
        "set: {timing.tRP: 21ns}",
        "parallel: {tp: 1}",
        "mappings: newtonsim",
        "pass_config: {tag-nature.gemv_rows: 2}",
        "disable_pass: dce",
        "phases: decode",
        "shapes_only: true",
    ],
)
def test_options_count(key: Callable[[str], str], more: str) -> None:
    assert key(SPEC + more + "\n") != key(SPEC)


def test_names_and_prose_do_not_count(key: Callable[[str], str], tmp_path: Path) -> None:
    first = key(SPEC)
    (tmp_path / "mine.yaml").write_text(TARGET.replace("of mine", "the same machine"))
    shutil.move(tmp_path / "model.pimc", tmp_path / "other.pimc")
    renamed = SPEC.replace("model.pimc", "./other.pimc")
    assert key(renamed + "name: other\nobjectives: [cycles]\nsearch: {kind: random, points: 1}\n") == first


def test_a_change_of_the_number_that_a_target_has_is_none(key: Callable[[str], str]) -> None:
    assert key(SPEC + "set: {system.devices: 1}\n") == key(SPEC)


def test_the_revision_is_that_of_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another byte in any source that results depend on is another revision; the command line's are none of them."""
    copy = tmp_path / "pimc"
    shutil.copytree(ROOT / "pimc", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(identity, "__file__", str(copy / "sweeps/identity.py"))
    plain = identity.revision.__wrapped__
    first = plain()
    assert first == identity.revision()
    (copy / "cli/group.py").write_text("")
    assert plain() == first
    for name in ("backends/targets/cent.yaml", "ir/graph.py", "sim/time.py"):
        (copy / name).write_text((copy / name).read_text() + "\n")
        again = plain()
        assert again != first
        first = again
