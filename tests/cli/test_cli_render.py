"""What people see: diagnostics, reports, numbers. The texts are golden; `pytest --update-golden` writes them."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from pimc.backends.program import Loop, MapEntry, OpRow, Program
from pimc.cli import screen, tables
from pimc.cli.guard import FAILED, guarded
from pimc.cli.layout import bar, count_text, memory_text, percent, shortened, time_text
from pimc.cli.render import render
from pimc.cli.screen import plain
from pimc.ir.diagnostics import Diagnostic, Kind
from pimc.ir.layout import Layout
from pimc.ir.source import Derived, NodeSource, TextSpan
from pimc.ir.types import DType
from pimc.sim.compare import Comparison, OutputError
from pimc.sim.op_groups import common_name
from pimc.sim.report import EngineReport, OpReport, PhaseReport, Report, ResourceReport
from tests import fakes

Golden = Callable[[str, str], None]
LINE = TextSpan("models/m.pimc", 12, 9, "let y = rleu(x)", 4)
NODE = NodeSource("model.onnx", "/h.0/MatMul", "MatMul")
WINDOW = "  %a = transpose(%w) : f32[4, 8]\n> %b = matmul(%x, %a) : f32[2, 8]\n  %c = relu(%b) : f32[2, 8]"

DIAGNOSTICS = {
    "text": [Diagnostic(Kind.NAME_UNKNOWN, "no such op: 'rleu'", LINE, help="did you mean 'relu'?")],
    "onnx": [
        Diagnostic(Kind.TYPE, "matmul: 4 and 5 do not fit", NODE, ("operands: f32[2, 4], f32[5, 8]",), window=WINDOW)
    ],
    "made-by-a-pass": [
        Diagnostic(
            Kind.ILLEGAL, "no engine can run %b (matmul)", Derived("fuse-norm", (LINE, NODE)), ("pim: no", "npu: no")
        )
    ],
    "several": [
        Diagnostic(Kind.DIM_BAD, "the model has no dimension 'bach'", help="did you mean 'batch'?"),
        Diagnostic(Kind.DIM_BAD, "dimension 'past' cannot be -1"),
        Diagnostic(Kind.DIM_BAD, "dimension 'past' cannot be -1"),
    ],
    "long-line": [Diagnostic(Kind.SYNTAX, "expected ')'", TextSpan("m.pimc", 7, 301, "x" * 300 + "(" + "y" * 200))],
    "many-lines": [Diagnostic(Kind.TARGET_BAD, "two\nlines", TextSpan("a.yaml", 1, 1, "\tx: 1", 40), help="so\nor so")],
}


def test_diagnostics(golden: Golden) -> None:
    shown = [f"--- {name}\n{plain(render(found))}" for name, found in DIAGNOSTICS.items()]
    golden("diagnostics.txt", "\n".join(shown))


def test_names_do_nothing_to_a_terminal() -> None:
    nasty = "a\x1b[2Jb\x9bc\u202ed\ne"
    place = NodeSource("m\x07.onnx", nasty, "MatMul")
    page = render([Diagnostic(Kind.TYPE, f"'{nasty}' is wrong", place, (nasty,), nasty, nasty)])
    assert all(c.isprintable() or c == "\n" for c in plain(page))
    assert r"a\x1b[2Jb\x9bc\u202ed" in plain(page)


def test_names_of_any_length_are_cut() -> None:
    page = plain(render([Diagnostic(Kind.TYPE, "x" * 100_000)]))
    assert len(page) < 3000
    assert page.endswith("…\n")


def test_too_little_memory_is_no_bug(capsys: pytest.CaptureFixture[str]) -> None:
    def run() -> None:
        raise MemoryError("Unable to allocate 64.0 GiB")

    assert guarded(run) == FAILED
    assert capsys.readouterr().err == "error: this computer has not enough memory. Unable to allocate 64.0 GiB\n"


def op(name: str, seconds: float, layer: int = -1, engine: str = "npu", nature: str = "gemv") -> OpReport:
    return OpReport(
        name, "matmul", 'm.onnx: node "x"', "decode", nature, engine, "gemv: faster there", layer, seconds, seconds / 4,
        2048, 4096, {engine: seconds / 4},
    )  # fmt: skip


ENGINES = (
    EngineReport("npu", "npu", "0", 1, 9_000, 1_200, 4e-6, {"wait:load": 3e-6, "array": 1e-6}, 2e-6, {"macs": 123_456}),
    EngineReport("pim", "pim", "0", 32, 10_000, 64_000, 1e-6, {"row": 2e-6}, 7e-6, {"ACT": 99}),
    EngineReport("link", "link", "0", 1, 0, 0, 0.0, {}, 1e-5, {}),
)
OPS = (
    *(op(f"layers.{i}.q_proj", 1e-6, i) for i in range(3)),
    *(op(f"layers.{i}.scores", 5e-7, i, "pim") for i in range(3)),
    op("head", 4e-6, nature="gemm"),
)
REPORT = Report(
    model="m.onnx", target="neupims", target_hash="0" * 64, dims={"batch": 2, "past": 127}, phase="decode", devices=4,
    cycles=10_000, seconds=1e-5, bound_seconds=5e-6, bound_share=0.5, engines=ENGINES,
    resources=(ResourceReport("data bus", "0", 5e-6),), ops=OPS,
    bytes_moved={"bytes read": 1_000_000, "bytes written": 2_000},
    phases=(PhaseReport("decode", 8e-6, 14_336, 28_672), PhaseReport("prefill", 5e-7, 0, 4_096)),
)  # fmt: skip


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    from pimc.backends import engines

    monkeypatch.setattr(engines, "platform_of", lambda _: fakes.platform())
    made = fakes.program({"a": (Loop(0, 3, (fakes.work("a", 5, op=1),)),)})
    entries = (
        MapEntry("w", "weight", "dram", DType.F16, Layout.dense((8, 16), 2), DType.F32),
        MapEntry("tokens", "input", "dram", DType.I64, Layout.dense((2, 1), 8, 256), DType.I64, (0, 1)),
        MapEntry("t", "temporary", "buffer", DType.F16, Layout.dense((100,), 2), DType.F32),
    )
    return replace(made, memory=entries, extent={"dram": 272, "buffer": 200})


def test_groups_of_devices_are_one_row(golden: Golden) -> None:
    several = [
        replace(e, name=f"{e.name}@{d}", devices=d, busy=e.busy * n)
        for n, d in ((1, "0-1"), (0.5, "2-3"))
        for e in ENGINES
    ]
    golden("engines.txt", plain(tables.engine_table(replace(REPORT, engines=several))))


@pytest.mark.parametrize("verbose", [0, 2])
def test_report(program: Program, golden: Golden, verbose: int) -> None:
    golden(f"report-{verbose}.txt", plain(tables.report_page(REPORT, program, verbose=verbose)))


def test_values(golden: Golden) -> None:
    good = Comparison(True, 1e-3, 2e-6, (OutputError("logits", 1e-3, 2e-6),))
    bad = Comparison(False, 3.0, 0.5, (OutputError("logits", 3.0, 0.5, "relative error 0.5 is above 0.0001"),))
    pages = [tables.values_lines(c, "wide", 1, 1e-4) for c in (good, bad, None)]
    golden("values.txt", "".join(plain(page) for page in pages))


def test_a_program_that_was_not_simulated(golden: Golden) -> None:
    row = OpRow("a", "matmul", "", (), "decode", "gemv", "pim", "", 8, 8)
    golden(
        "plain-ops.txt", plain(tables.plain_ops([row, row, OpRow("b", "add", "", (), "decode", "", "npu", "", 8, 8)]))
    )


def test_numbers() -> None:
    assert [time_text(s) for s in (0, 1.5e-9, 9.999e-7, 1e-6, 0.0123, 12.0, 4000)] == [
        "0 ns", "1.50 ns", "1.00 µs", "1.00 µs", "12.3 ms", "12.0 s", "4000 s",
    ]  # fmt: skip
    assert [memory_text(n) for n in (0, 1000, 1024, 1536, 32 << 30)] == ["0 B", "1000 B", "1 KiB", "1.50 KiB", "32 GiB"]
    assert [count_text(n, "FLOP") for n in (0, 12, 12_345, 2.5e12)] == ["0 FLOP", "12 FLOP", "12.3 kFLOP", "2.50 TFLOP"]
    assert [percent(s) for s in (0, 0.0001, 0.0123, 0.5, 1)] == ["0.0 %", "<0.1 %", "1.2 %", "50 %", "100 %"]
    assert shortened("a" * 10, 10) == "a" * 10
    assert len(shortened("a" * 50, 10)) == 10


def test_a_bar_is_as_wide_as_asked() -> None:
    drawn = bar([(1 / 3, "a", ""), (1 / 3, "b", ""), (1 / 3, "c", "")], 10)
    assert "".join(text for text, _ in drawn) == "aaabbbbccc"


def test_names_that_differ_in_numbers_are_one() -> None:
    assert common_name(["layers.0.q", "layers.1.q"]) == "layers.*.q"
    assert common_name(["layers.0.q", "layers.0.k"]) == "layers.0.q"
    assert common_name(["a"]) == "a"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    page = [[("warm", "bold red"), (" plain", "")]]
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        screen._write(page, stream)
    assert "\x1b[1;31mwarm" in terminal.getvalue()
    assert pipe.getvalue() == "warm plain\n"
    monkeypatch.setenv("NO_COLOR", "1")
    without = Terminal()
    screen._write(page, without)
    assert without.getvalue() == "warm plain\n"


def test_a_terminal_without_unicode_gets_ascii() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, "ascii")
    screen._put("█ 5 µs → 2 \N{MULTIPLICATION SIGN} more, Ω\n", stream)
    assert raw.getvalue() == b"# 5 us > 2 x more, \\u03a9\n"
