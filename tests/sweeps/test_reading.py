"""Every mistake of a sweep file is told at once, each at its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import pimc
from pimc.cli.render import render
from pimc.cli.screen import plain
from pimc.ir.diagnostics import UsageError
from pimc.ir.source import TextSpan
from pimc.sweeps.reading import read_sweep
from tests.sweeps.specs import GEMV, gemv

MANY = """
model: x.pimc
models: [nowhere.pimc, gemv.pimc]
targets: [cent, ceent]
targets: [cent, ceent, bad.yaml]
phases: [prefil]
set:
  timing.tRDC: [14ns]
  timing.tRP: [12, 14ns, 14ns]
  pim.switches.nothing: 1
  mapping: [default]
  system.devices: {more: 1}
dims:
  K: 64:32
  N: [a, 2]
  M: []
parallel: {tp: 0, xp: 2}
pass_config:
  tag-nature.gemv_rows: [many]
  nopass.x: 1
disable_pass: dcee
load: nofile.py
shapes_only: yess
objectives: [second, energy, dim.K, set.timing.tRP]
search: {kind: gird}
"""


def mistakes(text: str, folder: Path) -> list[pimc.Diagnostic]:
    (folder / "s.yaml").write_text(text)
    with pytest.raises(pimc.CompileError) as found:
        read_sweep("s.yaml")
    return list(found.value.diagnostics)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gemv.pimc").write_text(GEMV.read_text())
    (tmp_path / "bad.yaml").write_text("base: cent\nname: bad\nnonsense: 1\n")
    return tmp_path


def test_all_mistakes_at_once(folder: Path, golden: Callable[[str, str], None]) -> None:
    found = mistakes(MANY, folder)
    pages = [plain(render([each])) for each in found]
    golden("mistakes.txt", "\n".join(pages).replace(str(folder), "FOLDER"))


@pytest.mark.parametrize(
    ("text", "place", "said"),
    [
        ("", (1, 1), "a sweep file is a group"),
        ("- a", (1, 1), "a sweep file is a group"),
        ("models: [a", (2, 1), "not valid YAML"),
        ("targets: cent", (1, 1), "the sweep lacks 'models'"),
        ("models: gemv.pimc\ntargets: cent\ndims: {L: 4}", (3, 8), "no model has a dimension 'L'"),
        ("models: gemv.pimc\ntargets: cent\ndims: {K: 1:9999999:2}", (3, 11), "more than 1000000 values"),
        ("models: gemv.pimc\ntargets: cent\nsearch: {kind: random}", (3, 1), "'search' lacks 'points'"),
        ("models: gemv.pimc\ntargets: cent\nsearch: {points: 3}", (3, 1), "'search' lacks 'kind'"),
        ("models: gemv.pimc\ntargets: cent\nsearch: {kind: grid, points: 3}", (3, 22), "unknown key 'search.points'"),
        ("models: gemv.pimc\ntargets: cent\nsearch: {kind: random, points: 0}", (3, 32), "at least 1, not 0"),
        ("models: gemv.pimc\ntargets: cent\nobjectives: {seconds: least}", (3, 23), "'min' or 'max'"),
        ("models: gemv.pimc\ntargets: [cent, cent]", (2, 17), "'cent' is given twice"),
        ("models: 3\ntargets: cent", (1, 9), "'models' should be text"),
        ("models: gemv.pimc\ntargets: cent\nset: {timing.tRP: 14xs}", (3, 19), "'xs' is not a unit"),
        ("models: gemv.pimc\ntargets: cent\nset: {timing.tRPP: 14ns}", (3, 7), "unknown key 'timing.tRPP'"),
    ],
)
def test_single_mistakes(folder: Path, text: str, place: tuple[int, int], said: str) -> None:
    found = mistakes(text, folder)
    assert any(
        said in d.message and isinstance(d.source, TextSpan) and (d.source.line, d.source.column) == place
        for d in found
    ), [str(d) for d in found]
    assert len(found) == 1


def test_too_many_points(folder: Path) -> None:
    many = "models: gemv.pimc\ntargets: cent\ndims: {K: 1:2000, N: 1:2000}\n"
    (found,) = mistakes(many, folder)
    assert found.message == "4000000 points of 4000000 combinations are too many"
    (folder / "s.yaml").write_text(many + "search: {kind: random, points: 5}")
    assert len(list(read_sweep("s.yaml").plan.points())) == 5


def test_a_key_that_one_target_has_is_no_mistake(folder: Path) -> None:
    """It fails as a point where the machine has no such number."""
    from pimc.sweeps.job import Answer

    read = read_sweep(gemv(targets=["cent", "npu"], set={"pim.switches.stall": "device"}, dims={"K": 64}))
    cent, npu = (read.job(point) for point in read.plan.points())
    assert not isinstance(cent, Answer)
    assert isinstance(npu, Answer)
    assert [f.message for f in npu.failures] == ["the target has no 'pim'"]


def test_values_that_fail_together_are_no_mistakes(folder: Path) -> None:
    """tRAS below tRCD is a contradiction of two axes: that point fails, the others do not."""
    from pimc.sweeps.job import Answer

    read = read_sweep(
        gemv(
            targets="cent",
            dims={"K": 64},
            set={"timing.tRAS": ["27ns", "60ns"], "timing.tRCDRD": ["18ns", "50ns"], "timing.tRC": "99ns"},
        )
    )
    failed = [isinstance(read.job(point), Answer) for point in read.plan.points()]
    assert failed == [False, True, False, False]


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(pimc.CompileError, match=r"cannot read sweep file none\.yaml"):
        read_sweep("none.yaml")


def test_python_data_has_texts_and_numbers(folder: Path) -> None:
    read = read_sweep({"models": Path("gemv.pimc"), "targets": ("cent",), "dims": {"K": range(64, 129, 64)}})
    assert read.plan.combinations == 2
    with pytest.raises(UsageError, match="a sweep holds texts"):
        read_sweep({"models": object()})
