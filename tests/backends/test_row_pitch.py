"""How far rows of matrices lie apart, and what that is good for."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from pimc.backends.row_pitch import row_pitch
from pimc.backends.target_registry import load_target
from pimc.driver import Options, compile_model
from pimc.ir.diagnostics import CompileError
from pimc.ir.graph import Role

KIB = 1 << 10
GEMM = Path(__file__).parents[2] / "models" / "bench" / "gemm.pimc"


@pytest.mark.parametrize(
    ("shape", "pitch"),
    [
        ((4096, 4096), 9 * KIB),
        ((2, 64, 1024), 3 * KIB),
        ((4096, 1536), 3 * KIB),  # an odd number of rows of the memory: all channels in turn
        ((4096, 11008), 22016),
        ((4096, 128), 256),
        ((31, 4096), 8 * KIB),  # fewer rows than channels
        ((4096,), 8 * KIB),
        ((), 2),
        ((64, 0), 0),
    ],
)
def test_rows_that_would_begin_on_the_same_channels_are_moved_apart(shape: tuple[int, ...], pitch: int) -> None:
    assert row_pitch(load_target("npu"), shape, 2) == pitch


@pytest.mark.parametrize("overrides", [["dma.row_gap=0B"], ["dma.channels=hashed"]])
def test_rows_follow_each_other_where_gaps_are_of_no_use(overrides: list[str]) -> None:
    assert row_pitch(load_target("npu", overrides), (4096, 4096), 2) == 8 * KIB


def test_columns_come_from_all_channels() -> None:
    spec = load_target("npu")
    pitch, row = row_pitch(spec, (4096, 4096), 2), spec.dram.row_bytes
    channels = Counter(k * pitch // row % spec.dram.channels for k in range(512))
    assert set(channels.values()) == {512 // spec.dram.channels}


def test_products_of_a_power_of_two_are_faster_with_gaps() -> None:
    """Columns of the weight come while those before are multiplied: without gaps they would come four times slower."""

    def cycles(*overrides: str) -> int:
        report = compile_model(GEMM, "npu", Options(dims={"M": 512, "N": 4096, "K": 512}, overrides=overrides)).report
        assert report is not None
        return report.cycles

    assert cycles() < 0.85 * cycles("dma.row_gap=0B")


@pytest.mark.parametrize("gap", ["64B", "1KiB", "100B"])
def test_values_are_right_with_gaps(gap: str) -> None:
    options = Options(dims={"M": 40, "N": 1024, "K": 2048}, overrides=(f"dma.row_gap={gap}",))
    result = compile_model(GEMM, "npu", options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.max_rel_err


def test_what_fits_without_gaps_alone_has_none() -> None:
    """Two operands of 32 MiB and a result of as many, in 98 MiB."""
    dims = {"M": 4096, "N": 4096, "K": 4096}
    small = ("dram.channels=1", "dram.ranks=1", "dram.rows=6272", "dma.row_gap=1KiB")
    report = compile_model(GEMM, "npu", Options(dims=dims, overrides=small)).report
    assert report is not None
    with pytest.raises(CompileError, match=r"needs 96\.0 MiB"):
        compile_model(GEMM, "npu", Options(dims=dims, overrides=("dram.rows=6100", *small[:2], "dma.row_gap=1KiB")))


@pytest.mark.parametrize("model", ["tiny-llama.pimc", "tiny-gpt2.pimc"])
def test_whole_models_compute_with_gaps(model: str) -> None:
    """Of rows of the memory as short as those of small weights, which are sliced, reshaped and transposed."""
    small = ("dram.row_bytes=64B", "dram.channels=4", "dma.row_gap=64B")
    options = Options(dims={"seq": 40}, overrides=small)
    result = compile_model(GEMM.parents[1] / model, "npu", options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.max_rel_err
    weights = {value: home for value, home in result.graph.homes.items() if value.role is Role.WEIGHT}
    assert any(not home.layout.is_dense(2) for home in weights.values())
