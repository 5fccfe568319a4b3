"""Pages of reports: sound HTML, all sections, nothing from elsewhere, the same bytes for the same result."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import pimc
from pimc.report.page import page_of, page_of_request
from pimc.report.scales import Linear, Log
from pimc.report.svg import fitting
from pimc.report.view import View, file_name, model_name, place_of
from pimc.results import Result, read_results
from tests.report.pages import (
    HOSTILE,
    MODELS,
    TARGETS,
    beats_of,
    faults,
    old_json,
    page,
    pipeline_of,
    report_of,
    request_of,
    sections,
    stored,
    with_names,
)

ALL = ["engines", "phases", "energy", "roofline", "timeline", "ops", "moves", "memory", "banks", "passes", "numbers"]


@pytest.mark.parametrize("target", TARGETS)
def test_a_page_has_every_section_and_is_sound(target: str) -> None:
    found = page(target)
    assert faults(found) == []
    assert sections(found) == ALL
    assert len(found.encode()) < 400_000


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_comes_from_elsewhere(target: str) -> None:
    """No address, no folder of the user, and nothing that a browser would fetch."""
    found = page(target, "npu")
    outside = re.sub(r"<(style|script)>.*?</\1>", "", found, flags=re.DOTALL)
    assert not re.search(r"https?:|//|\bsrc=|url\(|@import|file:", outside)
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttp", found)
    assert str(Path(__file__).parents[2]) not in found
    assert "default-src 'none'" in found


def test_passes_have_times_where_these_were_kept() -> None:
    """They are no part of a result, which is the same each time: `--timing` asks for them."""
    plain = json.loads(json.dumps(report_of("npu").to_json()))
    without = page_of(*read_results(json.dumps(plain).encode(), "a.json", Path()))
    assert "compile --timing" in without
    for number, row in enumerate(plain["passes"]):
        assert "seconds" not in row
        row["seconds"] = number * 1e-3
    found = page_of(*read_results(json.dumps(plain).encode(), "a.json", Path()))
    table = found.partition('data-name="passes"')[2].partition("</table>")[0]
    assert "3.00 ms" in table
    assert faults(found) == []


def test_the_headline_says_what_was_run() -> None:
    report = report_of("neupims")
    found = page("neupims")
    for said in (
        "<h1>tiny-llama<span>on neupims</span></h1>",
        "batch=4  seq=1  past=40",
        "pimc compile tiny-llama.pimc -t neupims --dim batch=4 --dim seq=1 --dim past=40",
        report.target_hash,
        f"pimc {pimc.__version__}",
        "4 new tokens in this run",
    ):
        assert said in found, said


def test_every_op_is_in_the_table_and_every_op_with_work_in_the_roofline() -> None:
    report = report_of("cent")
    view = View("a.json", report)
    found = page("cent")
    table = found.partition('data-name="ops"')[2].partition("</table>")[0]
    assert table.count("<tr>") == 1 + len(view.groups)
    assert sum(len(g.ops) for g in view.groups) == len(report.ops)
    roofline = found.partition('id="roofline"')[2].partition("</section>")[0]
    working = [g for g in view.groups if g.seconds and sum(o.flops for o in g.ops)]
    assert roofline.count("<circle") == 2 * len(working)  # for wide and for narrow screens
    assert roofline.count('class="roof ') == 2 * len(report.roofs)


def test_the_same_result_gives_the_same_bytes(tmp_path: Path) -> None:
    """In two processes with other hash seeds; out of the program and out of the JSON, but for the file's name."""
    compiled = pimc.compile(MODELS / "tiny-llama.pimc", "cent", dims={"past": 7})
    assert compiled.report is not None
    pimc.save_program(compiled.program, tmp_path / "run.pimprog")
    pages = []
    for seed in ("0", "1"):
        command = [sys.executable, "-m", "pimc", "report", str(tmp_path / "run.pimprog"), "-o", "-"]
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, "")
        pages.append(done.stdout)
    assert pages[0] == pages[1]
    assert pages[0] == page_of(stored(replace(compiled.report, model=compiled.program.graph), "run.pimprog"))


def test_names_cannot_do_anything() -> None:
    """Names of models, ops and dimensions are text, whatever is in them."""
    hostile = with_names(report_of("neupims"), HOSTILE)
    found = page_of(Result("x", hostile), Result(HOSTILE, with_names(report_of("cent"), HOSTILE)))
    assert faults(found) == []
    assert found.count("<script") == found.count("</script>") == 1
    assert "<img" not in found
    assert "\x1b" not in found
    assert "\u202e" not in found
    assert "onerror=alert(1)&gt;" in found
    assert sections(found) == ["comparison", *ALL]


def test_names_that_are_no_unicode_are_shown() -> None:
    found = page_of(Result("x", with_names(report_of("cent"), "a\udcffb")))
    assert "a\\udcffb" in found
    found.encode()


def test_results_of_before_have_a_page_with_what_they_tell() -> None:
    plain = old_json(report_of("neupims"))
    (result,) = read_results(json.dumps(plain).encode(), "old.json", Path())
    found = page_of(result)
    assert faults(found) == []
    assert sections(found) == ["engines", "phases", "energy", "roofline", "ops", "numbers"]
    assert "pimc sim old.json" in found


def test_an_empty_report_has_a_page() -> None:
    nothing = replace(
        report_of("npu"), engines=(), ops=(), phases=(), resources=(), seconds=0.0, cycles=0, timeline=None, moves=()
    )
    found = page_of(Result("empty.json", nothing))
    assert faults(found) == []
    assert "nothing" in found


def test_energy_is_shown_where_a_report_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    report = report_of("cent")
    plain = {**report.to_json(), "energy": {"total_j": 2.5e-6, "power_w": 1.25}}
    monkeypatch.setattr(type(report), "to_json", lambda _: plain)
    found = page_of(Result("x.json", report))
    assert "2.50 µJ" in found
    assert "625 nJ a token, 1.25 W on average" in found


def test_energy_is_told_by_engine_by_what_it_is_for_and_by_op() -> None:
    report = report_of("neupims")
    assert report.energy is not None
    part = _section(page("neupims"), "energy")
    told = _column(part, "energy", 1)
    assert sum(told) == pytest.approx(report.energy.total_j, rel=1e-5)
    groups = report.energy.groups
    assert _column(part, "energy", 0) == sorted(groups, key=lambda g: -groups[g])
    assert all(f">{name}<" in part for name, joules in report.energy.engines.items() if joules)
    ops = _column(part, "energy-ops", 2)
    assert ops == sorted(ops, reverse=True)
    assert "energy" not in sections(page_of(stored(replace(report, energy=None))))


def test_beats_are_drawn_and_listed() -> None:
    report = beats_of()
    found = page_of(stored(report))
    assert faults(found) == []
    part = _section(found, "beats")
    assert _column(part, "beats", 0) == [beat.name for beat in report.beats]
    assert sum(_column(part, "beats", 2)) == sum(beat.cycles for beat in report.beats)
    assert part.count("<title>") >= 2 * len(report.beats)


def test_a_pipeline_tells_its_stages() -> None:
    report = pipeline_of()
    assert report.pipeline is not None
    found = page_of(stored(report))
    assert faults(found) == []
    part = _section(found, "pipeline")
    assert _column(part, "pipeline", 1)[0] == str(report.pipeline.stages)
    assert "@0-1" in part
    assert "@2-3" in part


def test_a_request_on_two_machines_has_one_page() -> None:
    runs = request_of()
    found = page_of_request(runs)
    assert faults(found) == []
    own = [f"{part}-{name}" for part in ("prefill", "decode") for name in ALL]
    assert sections(found) == ["request", "transfer", *own]
    assert [s for s in sections(found) if f'href="#{s}"' in found] == ["request", "transfer"]
    assert 'href="#prefill"' in found
    assert 'href="#decode"' in found
    served = runs[0].served
    assert served is not None
    caches = _column(_section(found, "transfer"), "caches", 0)
    assert caches == [c.name for c in served.transfer.caches]
    assert "npu prefills, neupims decodes" in found
    assert "pimc compile tiny-llama.pimc -t npu:neupims" in found
    assert len(found.encode()) < 800_000


def _section(page: str, anchor: str) -> str:
    return page.partition(f'<section id="{anchor}">')[2].partition("</section>")[0]


def _column(part: str, table: str, number: int) -> list[Any]:
    """What a column of a table says: numbers where it is sorted by them, else texts."""
    body = re.search(rf'data-name="{table}"><thead>.*?<tbody>(.*?)</tbody>', part, re.DOTALL)
    assert body is not None, table
    found: list[Any] = []
    for row in body[1].split("</tr>")[:-1]:
        cell = row.split("<td")[number + 1]
        value = re.search(r'data-v="([^"]*)"', cell)
        found.append(float(value[1]) if value else re.sub(r"<[^>]*>", "", cell.partition(">")[2]))
    return found


def test_two_results_are_compared() -> None:
    found = page("npu", "neupims")
    assert faults(found) == []
    assert sections(found) == ["comparison", *ALL]
    part = found.partition('id="comparison"')[2].partition("</section>")[0]
    ratio = report_of("neupims").seconds / report_of("npu").seconds
    assert f"{ratio:#.3g}×" in part  # noqa: RUF001
    assert "A: npu" in part
    assert "B: neupims" in part
    assert "attention_scores" in part


def test_identical_layers_are_grouped_and_large_models_have_small_pages(tmp_path: Path) -> None:
    """96 layers, on 4 stages of 2 devices: the page is far below a megabyte."""
    model = MODELS / "gpt3-175b.pimc"
    options = {"overrides": ("system.devices=64",), "parallel": {"tp": 16, "pp": 4}, "dims": {"past": 15}}
    found = pimc.compile(model, "neupims", **options).report  # type: ignore[arg-type]
    assert found is not None
    assert len(found.ops) > 2000
    assert len(View("x", found).groups) < 200
    text = page_of(stored(found))
    assert faults(text) == []
    assert len(text.encode()) < 500_000


# -- parts ------------------------------------------------------------------------------------------------------------


def test_paths_lose_their_folders() -> None:
    assert [file_name(p) for p in ("/a/b/m.onnx", "m.onnx", r"C:\x\m.onnx", "-")] == ["m.onnx"] * 3 + ["-"]
    assert [model_name(p) for p in ("/a/m.v2.onnx", "gpt3.pimc", "gpt3-7.5b", ".onnx")] == [
        "m.v2",
        "gpt3",
        "gpt3-7.5b",
        ".onnx",
    ]
    assert place_of("/home/me/m.pimc:3:4; /home/me/n.pimc:1:1") == "m.pimc:3:4"
    assert place_of('/home/me/m.onnx: node "/model/q/MatMul" (MatMul)') == 'm.onnx: node "/model/q/MatMul" (MatMul)'


def test_axes_have_round_numbers_within_their_range() -> None:
    assert list(Linear(0.021, 0, 100).ticks(4)) == pytest.approx([0, 0.01, 0.02])
    assert list(Linear(0, 0, 100).ticks(4)) == [0]
    log = Log.around(0.03, 40, 10, 110)
    assert (log.least, log.most) == pytest.approx((0.01, 100))
    assert list(log.ticks(10)) == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert (log.at(0.01), log.at(1), log.at(100)) == pytest.approx((10, 60, 110))


def test_long_names_are_cut_in_the_middle() -> None:
    assert fitting("layer.0.attention", 1000) == "layer.0.attention"
    assert len(fitting("x" * 50, 70)) == 10
    assert fitting("abcdefghijklmnopqrstuvwxyz", 70) == "abcd…vwxyz"
