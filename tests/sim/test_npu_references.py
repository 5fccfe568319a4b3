"""The NPU profiles give the cycles of the simulators, and of the machine, that they are named after."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from statistics import mean

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pimc.driver import Options, compile_model
from pimc.sim.report import Report

DATA = Path(__file__).parents[1] / "data" / "npu"
GEMM = Path(__file__).parents[2] / "models" / "bench" / "gemm.pimc"


def rows_of(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def reported(model: Path, target: str, dims: Mapping[str, int], overrides: Sequence[str] = ()) -> Report:
    result = compile_model(model, target, Options(dims=dims, overrides=overrides))
    assert result.report is not None
    return result.report


def gemm(target: str, m: int, n: int, k: int, *overrides: str) -> Report:
    return reported(GEMM, target, {"M": m, "N": n, "K": k}, overrides)


def npu_cycles(report: Report) -> int:
    (engine,) = (e for e in report.engines if e.kind == "npu")
    return engine.cycles


def scalesim(m: int, n: int, k: int, rows: int, columns: int, dataflow: str) -> int:
    return npu_cycles(
        gemm(
            "npu-scalesim", m, n, k, f"array.dataflow={dataflow}", f"array.rows={rows}", f"array.columns={columns}"
        )
    )  # fmt: skip


@pytest.mark.parametrize("dataflow", ["ws", "os", "is"])
def test_scalesim_rows(dataflow: str) -> None:
    rows = [r for r in rows_of("scalesim.csv") if r["dataflow"] == dataflow]
    assert len(rows) > 30
    for row in rows:
        m, n, k, height, width = (int(row[key]) for key in ("M", "N", "K", "rows", "columns"))
        assert scalesim(m, n, k, height, width, dataflow) == int(row["cycles"]), row


def closed_form(m: int, n: int, k: int, rows: int, columns: int, dataflow: str) -> int:
    """SCALE-Sim v3: folds that do not overlap, and the number of the last cycle, counted from 0."""
    if dataflow == "ws":
        return ceil(k / rows) * ceil(n / columns) * (2 * rows + columns + m - 2) - 1
    if dataflow == "is":
        return ceil(k / rows) * ceil(m / columns) * (2 * rows + columns + n - 2) - 1
    return ceil(m / rows) * ceil(n / columns) * (rows + columns + k - 2) - 1


@settings(max_examples=60, deadline=None)
@given(
    *[st.one_of(st.integers(1, 600), st.integers(1, 5000))] * 3,
    st.integers(4, 200),
    st.integers(4, 200),
    st.sampled_from(["ws", "os", "is"]),
)
@example(1, 617, 129, 4, 4, "ws")  # more columns of blocks than clocks of a fold: results leave by one command
def test_scalesim_closed_forms(m: int, n: int, k: int, rows: int, columns: int, dataflow: str) -> None:
    assert scalesim(m, n, k, rows, columns, dataflow) == closed_form(m, n, k, rows, columns, dataflow)


@pytest.mark.parametrize("row", rows_of("onnxim.csv"), ids=lambda r: f"{r['M']}x{r['N']}x{r['K']} {r['memory']}")
def test_onnxim_rows(row: dict[str, str]) -> None:
    report = gemm("npu-onnxim", int(row["M"]), int(row["N"]), int(row["K"]))
    assert npu_cycles(report) == pytest.approx(int(row["op_cycles"]), rel=0.005)
    assert report.cycles == pytest.approx(int(row["op_cycles"]), rel=0.01)


MOBILE = (
    "array.rows=8", "array.columns=8", "array.longest_stream=8", "buffer.bytes=128KiB", "npu.accumulator_bytes=16KiB",
    "npu.vector.lanes=256", "dram.channels=2", "dram.clock=400MHz", "dram.access_bytes=64B",
)  # fmt: skip
"""ONNXim's mobile NPU, 8 x 8 with 64 KiB and DDR4 of 25.6 GB/s: its elements of a byte take two here, in a buffer and
through a memory twice as large, so that as many fit and pass."""


@pytest.mark.parametrize(("size", "op_cycles"), [(256, 263606), (512, 2099506)])
def test_onnxim_mobile_rows(size: int, op_cycles: int) -> None:
    report = gemm("npu-onnxim", size, size, size, *MOBILE)
    assert report.cycles == pytest.approx(op_cycles, rel=0.005)


# -- TPUv3 -----------------------------------------------------------------------------------------------------------

MODELS = {
    "layer_norm": "let y = layer_norm(x, g, b, epsilon=0.00001)",
    "softmax": "let y = softmax(x, axis=-1)",
    "attention": "let y = attention(q, k, v, scale=0.125)",
}
INPUTS = {
    "layer_norm": 'input x "x": f32[S, 768]\ninput g "g": f32[768]\ninput b "b": f32[768]',
    "softmax": 'input x "x": f32[S, S]',
    "attention": "\n".join(f'input {name} "{name}": f32[1, S, 512, 64]' for name in "qkv"),
}


def measured_like(workload: str, size: int, folder: Path) -> Report:
    if workload == "gemm":
        return gemm("tpuv3", size, size, size)
    model = folder / f"{workload}.pimc"
    model.write_text(f"model bench(S = 1)\n{INPUTS[workload]}\n{MODELS[workload]}\noutput y\n", encoding="utf-8")
    return reported(model, "tpuv3", {"S": size})


NAMES = {"gemm": "GEMM {}", "layer_norm": "layer norm {}", "softmax": "softmax {}", "attention": "attention, {} heads"}


def test_tpuv3_table(tmp_path: Path) -> None:
    """The errors are small, and those of the page."""
    page = (Path(__file__).parents[2] / "docs/accuracy.md").read_text()
    errors: dict[str, list[float]] = {"calibration": [], "test": []}
    for row in rows_of("tpuv3.csv"):
        report = measured_like(row["workload"], int(row["size"]), tmp_path)
        error = report.cycles / int(row["cycles"]) - 1
        errors[row["use"]].append(abs(error))
        name = NAMES[row["workload"]].format(row["size"]) + " (calibration)" * (row["use"] == "calibration")
        said = f"{100 * error:+.{1 if abs(error) < 0.1 else 0}f}"
        assert f"| {name} | {row['cycles']} | {said}% |" in page
    means = [mean([*errors["calibration"], *errors["test"]]), mean(errors["test"]), max(errors["test"])]
    text = "mean error {:.1%}; {:.1%} on the 7 rows that nothing was calibrated on, {:.1%} at most on those"
    assert text.format(*means) in page
    assert len(errors["test"]) > len(errors["calibration"])
    assert mean([*errors["calibration"], *errors["test"]]) <= 0.08
    assert mean(errors["test"]) <= 0.08
    assert max(errors["test"]) <= 0.2
