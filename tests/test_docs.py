"""The pages are true: sessions print what they are said to print, examples work, links lead somewhere.

`pytest tests/test_docs.py --update-golden` writes the present output into the sessions and the measured tables.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import pimc
from pimc.backends.target_registry import load_target
from pimc.cli.files import read_lines
from pimc.sim.replay import replay
from tests import docs

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), *sorted(ROOT.glob("*.md")), ROOT / "models/README.md"]
STUDIES = ROOT / "docs/studies"
SESSIONS = [page for page in PAGES if page.parent != STUDIES and docs.is_run(page.read_text())]


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that looks like a checkout to the commands of a page, with `pimc` on the path."""
    for name in ("models", "tests"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".bin").mkdir()
    for name, arguments in (("pimc", "-m pimc"), ("python", "")):
        command = tmp_path / ".bin" / name
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        command.chmod(0o755)
    return tmp_path


def run(command: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{folder / '.bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *docs.install(folder)))),
        "COLUMNS": "120",
        "NO_COLOR": "1",
    }
    shell = ["bash", "-o", "pipefail", "-c", command]
    done = subprocess.run(
        shell, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300
    )
    assert done.returncode in (0, 141), f"$ {command}\n{done.stdout}"  # 141: `head` had enough
    return done.stdout


def run_scripts(scripts: list[docs.Block], folder: Path) -> list[str]:
    """What each of a page's scripts prints, one after another in one interpreter that takes no warnings."""
    if not scripts:
        return []
    mark = "\0"
    (folder / ".page.py").write_text(f"\nprint({mark!r}, end='')\n".join(script.text for script in scripts))
    return run("python -W error .page.py", folder).split(mark)


def comparable(output: str) -> str:
    """Without what differs between machines: rounding errors, and wall-clock times of the compiler itself."""
    output = re.sub(r" *\d(\.\d+)?e-\d+", " #", output)
    return "\n".join(line.rstrip() for line in output.strip("\n").split("\n"))


@pytest.mark.parametrize("page", SESSIONS, ids=name_of)
def test_sessions_print_what_the_page_says(page: Path, folder: Path, request: pytest.FixtureRequest) -> None:
    said = page.read_text()
    docs.write_files(said, folder)
    seen = docs.with_sessions(said, lambda command: run(command, folder))
    seen = docs.with_outputs(seen, run_scripts(docs.scripts(seen), folder))
    if request.config.getoption("--update-golden") and comparable(seen) != comparable(said):
        page.write_text(seen)
        return
    assert comparable(seen) == comparable(said)


def check_table(page: Path, name: str, table: Callable[[], str], request: pytest.FixtureRequest) -> None:
    """What stands in a page between `<!-- name -->` and `<!-- end -->` is the table."""
    said = page.read_text()
    seen = re.sub(rf"(?<=<!-- {name} -->\n).*(?=<!-- end -->)", lambda _: table(), said, flags=re.DOTALL)
    if request.config.getoption("--update-golden"):
        page.write_text(seen)
        return
    assert seen == said


AIM_TRACES = ("cent/pp_Llama2-7B_s128.trace.gz", "micro/random_28.trace")
AIM_CHANGES = (
    ("`aim-pinned`", "aim-pinned", ()),
    ("refresh", "aim-pinned", ("dram.refresh=true",)),
    ("`forwards_any_address: false`", "aim-pinned", ("pim.switches.forwards_any_address=false",)),
    ("`drains_activated: true`", "aim-pinned", ("pim.switches.drains_activated=true",)),
    ("`stall: channel`", "aim-pinned", ("pim.switches.stall=channel",)),
    ("`lines_per_clock: 2`", "aim-pinned", ("pim.switches.lines_per_clock=2",)),
    ("`lines_per_clock: 4`", "aim-pinned", ("pim.switches.lines_per_clock=4",)),
    ("`aim-head`", "aim-head", ()),
    ("`cent`", "cent", ()),
)


def test_the_table_of_aim_switches_is_what_replays_give(request: pytest.FixtureRequest) -> None:
    check_table(ROOT / "docs/aim.md", "switches", switch_table, request)


def switch_table() -> str:
    """Cycles of two traces with one thing changed at a time, and the differences to the first row."""
    rows: list[str] = []
    bases: list[int] = []
    for what, target, overrides in AIM_CHANGES:
        cells = [what]
        for column, trace in enumerate(AIM_TRACES):
            texts = read_lines(str(ROOT / "tests/data/aim" / trace))
            cycles = replay(trace, texts, load_target(target, overrides)).cycles
            bases += [cycles] if len(bases) <= column else []
            cells += [f"{cycles:,}", f"{cycles - bases[column]:+,}" if rows else ""]
        rows.append(f"| {' | '.join(cells)} |")
    names = [Path(trace).name.split(".")[0] for trace in AIM_TRACES]
    head = f"| | {' | '.join(f'`{name}` | change' for name in names)} |\n|---|{'---:|' * 2 * len(names)}\n"
    return "\n" + head + "\n".join(rows) + "\n\n"


NEWTON_RUNS: tuple[tuple[str, str, str, int | None], ...] = (
    # model, row buffers, reads offered in a clock
    ("`gemv`, dual", "gemv", "dual", None),
    ("`mha`, dual", "mha", "dual", None),
    ("with reads", "mha", "dual", 2),
    ("`gemv`, single", "gemv", "single", None),
    ("`mha`, single", "mha", "single", None),
)
NEWTON_TARGETS = {"dual": "neupims", "single": "newton"}
NEWTON_STRICT = ("precharge_waits_for_macs", "results_wait_for_macs", "gwrite_waits_for_macs", "keeps_row_times")
NEWTON_STRICT += ("counts_activates", "gwrite_spans_ranks")
NEWTON_CHANGES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("faithful", "-faithful", ()),
    *((f"`{name}: true`", "-faithful", (f"pim.switches.{name}=true",)) for name in NEWTON_STRICT),
    ("`tRTP: 6ns`", "-faithful", ("dram.timing.tRTP=6ns",)),
    ("all of these", "-faithful", (*(f"pim.switches.{n}=true" for n in NEWTON_STRICT), "dram.timing.tRTP=6ns")),
    ("strict (`mapping: default`)", "", ()),
    ("strict, `refresh_guard: false`", "", ("pim.switches.refresh_guard=false",)),
    ("strict, no refresh", "", ("dram.refresh=false",)),
)


def test_the_table_of_newton_switches_is_what_runs_give(request: pytest.FixtureRequest) -> None:
    check_table(ROOT / "docs/neupims.md", "switches", newton_table, request)


def newton_table() -> str:
    """Cycles of the PIM engine with one thing changed at a time, differences to the first row, and reads served."""
    lines: list[str] = []
    bases: list[int] = []
    for what, suffix, overrides in NEWTON_CHANGES:
        cells = [what]
        for column, (_, model, mode, reads) in enumerate(NEWTON_RUNS):
            target, path = NEWTON_TARGETS[mode] + suffix, ROOT / f"models/bench/{model}.pimc"
            report = pimc.compile(path, target, overrides=overrides, background=reads).report
            assert report is not None
            (cycles,) = (e.cycles for e in report.engines if e.kind == "pim")
            bases += [cycles] if len(bases) <= column else []
            cells += [f"{cycles:,}", f"{cycles - bases[column]:+,}" if lines else ""]
            cells += [f"{report.background.reads_served:,}"] if report.background is not None else []
        lines.append(f"| {' | '.join(cells)} |")
    columns = [c for name, *_, reads in NEWTON_RUNS for c in (name, "change", *["served"] * (reads is not None))]
    head = f"| | {' | '.join(columns)} |\n|---|{'---:|' * len(columns)}\n"
    return "\n" + head + "\n".join(lines) + "\n\n"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page: Path) -> None:
    assert [link for link in docs.links(page.read_text()) if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_that_test_name_tests(page: Path) -> None:
    """`pytest ...` on a page names files and folders of tests that are there."""
    commands = re.findall(r"\bpytest((?: [^`\n#]+)?)", page.read_text())
    named = [word for command in commands for word in command.split() if word.startswith("tests/")]
    assert [word for word in named if not (ROOT / word.partition("::")[0].rstrip(")`.,;")).exists()] == []


def test_every_model_is_described() -> None:
    described = (ROOT / "models/README.md").read_text()
    models = [p for p in (ROOT / "models").rglob("*") if p.is_file() and p.suffix in {".pimc", ".onnx", ".npz", ".py"}]
    assert [p.name for p in models if p.name not in described and p.stem not in described] == []


@pytest.mark.parametrize("page", ["README.md", "docs/writing-a-pass.md"])
def test_the_pass_of_the_page_moves_attention(page: str, folder: Path) -> None:
    """The pass places the products of attention, and nothing else, on the engine that its option names."""
    docs.write_files((ROOT / page).read_text(), folder)
    model = "models/tiny-llama.onnx -t neupims --dim batch=1 --dim seq=1 --dim past=15"
    options = "--load attention_on.py --values random --json"
    ops: dict[str, dict[str, Any]] = {}
    for engine in ("npu", "pim"):
        report = json.loads(run(f"pimc compile {model} {options} --pass-config attention-on.engine={engine}", folder))
        assert report["values"]["ok"]
        ops[engine] = {op["name"]: op for op in report["ops"]}
    moved = {name for name, op in ops["npu"].items() if op["engine"] != ops["pim"][name]["engine"]}
    products = {name for name, op in ops["npu"].items() if op["op"] in ("attention_scores", "attention_context")}
    assert moved == products != set()
    for engine, placed in ops.items():
        assert {placed[name]["engine"] for name in products} == {engine}
        assert all("attention-on" in placed[name]["reason"] for name in products)


@pytest.mark.parametrize("page", ["README.md", "docs/adding-a-target.md"])
def test_the_target_of_the_page_is_the_machine_it_says(page: str, folder: Path) -> None:
    docs.write_files((ROOT / page).read_text(), folder)
    model = "models/tiny-llama.onnx --dim batch=1 --dim seq=1 --dim past=15 --values random --json"
    whole, half = (
        json.loads(run(f"pimc compile {model} -t {target}", folder)) for target in ("neupims", "half_neupims.yaml")
    )
    assert (whole["target"], half["target"]) == ("neupims", "half-neupims")
    assert whole["target_hash"] != half["target_hash"]
    assert half["values"]["ok"]
    assert half["seconds"] > whole["seconds"]


def test_the_rewriting_pass_of_the_page_keeps_values(folder: Path) -> None:
    """The second example of docs/writing-a-pass.md rewrites the graph and keeps its values."""
    docs.write_files((ROOT / "docs/writing-a-pass.md").read_text(), folder)
    model = "models/tiny-llama.pimc -t cent --load silu_as_parts.py --values random --json"
    report = json.loads(run(f"pimc compile {model}", folder))
    assert report["values"]["ok"]
    names = {op["op"] for op in report["ops"]}
    assert "sigmoid" in names
    assert "silu" not in names


@pytest.mark.skipif(not all(map(find_spec, ("furo", "myst_parser", "sphinx"))), reason="pimc[docs] is not installed")
def test_the_pages_build_without_warnings(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-b", "html"]
    places = ["-d", str(tmp_path / "trees"), str(ROOT / "docs"), str(tmp_path / "html")]
    done = subprocess.run([*build, *places], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pages = [page.relative_to(ROOT / "docs") for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if not (tmp_path / "html" / page).with_suffix(".html").is_file()] == []


def test_ci_runs_the_test_command_of_the_readme() -> None:
    assert "\n.venv/bin/pytest -q -n auto\n" in (ROOT / "README.md").read_text()
    assert '\n"$bin/pytest" -q -n auto\n' in (ROOT / ".ci/run").read_text()
