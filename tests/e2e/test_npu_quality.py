"""What the compiler makes of an NPU: close to the roofline on one core and on four, and few bytes moved."""

from __future__ import annotations

from math import prod
from pathlib import Path

import pytest

from pimc.backends.dma.isa import Load
from pimc.backends.dma.moving import moving_ps
from pimc.backends.dma.timing import DmaCosts
from pimc.backends.npu.array import array_time
from pimc.backends.program import steps
from pimc.backends.target_registry import load_target
from pimc.driver import Options, compile_model
from pimc.execution import time_program
from pimc.ir.diagnostics import CompileError
from pimc.ir.facts import Tile
from pimc.sim.report import Report
from tests.e2e.harness import with_layers

GEMM = Path(__file__).parents[2] / "models" / "bench" / "gemm.pimc"


def gemm(target: str, m: int, n: int, k: int, *overrides: str) -> Report:
    result = compile_model(GEMM, target, Options(dims={"M": m, "N": n, "K": k}, overrides=overrides))
    assert result.report is not None
    return result.report


SHAPES = [(2048, 2048, 2048), (512, 4096, 1024), (128, 4096, 4096), (1024, 1024, 4096), (2048, 1024, 128)]
SHAPES += [(512, 1024, 1024), (1024, 1024, 1024)]


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("shape", SHAPES, ids=lambda s: "x".join(map(str, s)))
def test_gemms_reach_the_roofline(shape: tuple[int, int, int], cores: int) -> None:
    """ONNXim's hardware: 16384 products a clock and core, 614.4 bytes a clock."""
    m, n, k = shape
    least = 2 * (m * k + k * n + m * n)
    report = gemm("npu-server", m, n, k, f"npu.cores={cores}")
    roofline = max(m * n * k / (16384 * cores), least / 614.4)
    assert report.cycles <= roofline / 0.9
    assert sum(report.bytes_moved.values()) <= 1.2 * least


ON_CHIP = [
    (1024, 256, 3072, 0.86), (2048, 512, 4096, 0.96), (256, 2048, 1024, 0.86), (300, 1280, 1280, 0.74),
    (2048, 1000, 500, 0.8), (512, 4096, 4096, 0.95), (1280, 256, 1280, 0.845), (768, 5120, 128, 0.91),
    (512, 1024, 2048, 0.87), (1024, 4096, 1024, 0.96),
]  # fmt: skip


@pytest.mark.parametrize(("m", "n", "k", "share"), ON_CHIP)
def test_products_that_would_fit_on_chip_begin_before_all_is_there(m: int, n: int, k: int, share: float) -> None:
    """131072 products and 1024 bytes a clock, 93.3 % of them beside refresh: the last results leave by themselves, and
    what would come in parts over few channels comes as a whole."""
    report = gemm("npu", m, n, k)
    assert report.cycles <= max(m * n * k / 131072, 2 * (m * k + k * n + m * n) / 1024) / share


RAGGED = [(300, 512, 500, 1), (384, 2048, 1000, 4), (128, 2503, 2660, 1), (305, 957, 1241, 1), (1678, 488, 2036, 4)]


@pytest.mark.parametrize(("m", "n", "k", "cores"), RAGGED)
def test_products_that_fill_no_whole_blocks_lose_what_the_blocks_lack(m: int, n: int, k: int, cores: int) -> None:
    """Products begin while operands arrive, whatever their depth: 90 % of what all blocks take, the first one's load
    and the last results' way out; and all is read once, but for what is left of accesses of 64 bytes."""
    npu = load_target("npu-server").npu
    assert npu is not None
    array = array_time(npu.array, npu.arrays)
    depth = -(-k // 128)
    blocks = min(m * -(-n // 128), n * -(-m // 128)) * depth * 128 * 128  # either operand may stay
    possible = blocks / (16384 * cores) + array.first_load + array.skew
    report = gemm("npu-server", m, n, k, f"npu.cores={cores}")
    assert report.cycles <= possible / 0.9
    assert sum(report.bytes_moved.values()) <= 1.2 * 2 * (m * k + k * n + m * n)


@pytest.mark.parametrize("dataflow", ["ws", "is", "os", "either"])
@pytest.mark.parametrize("shape", [(300, 140, 500), (70, 400, 1001), (513, 130, 129)], ids=str)
@pytest.mark.parametrize("cores", [1, 4])
def test_products_that_fill_no_whole_blocks_compute(shape: tuple[int, int, int], cores: int, dataflow: str) -> None:
    """The last block of a piece that comes block by block is smaller than the others."""
    m, n, k = shape
    settings = (f"array.dataflow={dataflow}", f"npu.cores={cores}")
    options = Options(dims={"M": m, "N": n, "K": k}, overrides=settings)
    result = compile_model(GEMM, "npu-server", options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.max_rel_err
    assert time_program(result.program).time == time_program(result.program, "plain").time


@pytest.mark.parametrize("dataflow", ["ws", "is", "either"])
@pytest.mark.parametrize("shape", [(512, 512, 512), (500, 700, 1024)], ids=lambda s: "x".join(map(str, s)))
def test_products_whose_depth_passes_in_layers_compute(shape: tuple[int, int, int], dataflow: str) -> None:
    """Accumulators hold all of the result, to which each layer adds."""
    m, n, k = shape
    settings = (f"array.dataflow={dataflow}", "npu.cores=4")
    options = Options(dims={"M": m, "N": n, "K": k}, overrides=settings)
    result = compile_model(GEMM, "npu-server", options, values="random")
    (product,) = (node for node in result.graph.scheduled() if node.op.name == "matmul")
    tile = product.fact(Tile)
    assert tile is not None
    assert tile.k < k
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.max_rel_err
    assert time_program(result.program).time == time_program(result.program, "plain").time


@pytest.mark.parametrize("shape", [(128, 1024, 1024), (1024, 128, 1024)], ids=lambda s: "x".join(map(str, s)))
def test_gemms_of_8192_clocks_reach_the_roofline(shape: tuple[int, int, int]) -> None:
    """The block that stays comes first, and the second piece of the weight part by part."""
    m, n, k = shape
    assert gemm("npu-server", m, n, k).cycles <= m * n * k / 16384 / 0.9


CLOCKS_4096 = [(128, 128, 4096), (128, 4096, 128), (512, 128, 1024), (512, 1024, 128)]


@pytest.mark.parametrize("shape", CLOCKS_4096, ids=lambda s: "x".join(map(str, s)))
def test_no_schedule_of_the_array_brings_4096_clocks_to_90_percent(shape: tuple[int, int, int]) -> None:
    """Before all streams the first block is loaded, after them the last results cross the array: 509 clocks.

    Of what is possible then, 90 % is reached.
    """
    m, n, k = shape
    roofline = m * n * k / 16384
    npu = load_target("npu-server").npu
    assert npu is not None
    array = array_time(npu.array, npu.arrays)
    possible = roofline + array.first_load + array.skew
    assert possible > roofline / 0.9
    assert possible < gemm("npu-server", m, n, k).cycles <= possible / 0.9


@pytest.mark.parametrize(("n", "k"), [(4096, 4096), (5120, 5120), (11008, 4096), (4096, 11008), (32000, 4096)])
@pytest.mark.parametrize("m", [1, 4])
def test_decode_gemv_is_bound_by_memory(m: int, n: int, k: int) -> None:
    """By what the same bytes take in one stream: 1024 bytes a clock, and 8 % for refresh of ranks in turn."""
    spec, moved = load_target("npu"), 2 * (n * k + m * k + m * n)
    assert spec.dma is not None
    streamed = moving_ps(DmaCosts(spec, spec.dma).reads, ((moved // 2, 2),), 2) / 1000
    report = gemm("npu", m, n, k)
    assert moved / 1024 / 0.93 < streamed < moved / 1024 / 0.91
    assert report.cycles <= streamed / 0.97
    assert report.cycles <= moved / 1024 / 0.9  # of raw bytes, too
    assert "bound by memory" in report.ops[0].reason


@pytest.mark.parametrize("dataflow", ["ws", "is"])
@pytest.mark.parametrize("shape", [(3, 512, 1024), (4, 512, 1000), (1024, 4, 512)], ids=lambda s: "x".join(map(str, s)))
def test_a_few_rows_come_once_where_weights_pass_by(shape: tuple[int, int, int], dataflow: str) -> None:
    """Their tiles of 128 columns would use four channels each; brought at once they compute the same."""
    m, n, k = shape
    overrides = ("buffer.bytes=256KiB", f"npu.array.dataflow={dataflow}", "npu.products=array")
    result = compile_model(GEMM, "npu", Options(dims={"M": m, "N": n, "K": k}, overrides=overrides), values="random")
    assert result.comparison is not None
    assert result.comparison.ok
    (loads,) = (stream for stream in result.program.streams if stream.engine == "load")
    copies = [prod(step.command.counts) for step in steps(loads.items) if isinstance(step.command, Load)]
    assert min(m, n) * k in copies
    assert max(copies) < max(m, n) * k
    assert time_program(result.program).time == time_program(result.program, "plain").time


@pytest.mark.parametrize(("n", "k", "share"), [(1024, 4096, 0.96), (2048, 2048, 0.96), (4096, 1024, 0.95)])
@pytest.mark.parametrize("m", [2, 4])
def test_a_few_rows_of_small_weights_reach_what_refresh_and_skew_leave(m: int, n: int, k: int, share: float) -> None:
    """Refresh takes its part of the time in which 8 MiB come; before that is the memory's latency, after it the last
    products cross the array and go home: 90 % of the bandwidth are just above that."""
    spec = load_target("npu")
    assert spec.npu is not None
    assert spec.dma is not None
    costs, array = DmaCosts(spec, spec.dma), array_time(spec.npu.array, spec.npu.arrays)
    bound = 2 * (n * k + m * k + m * n) / 1024
    moved = costs.derated(round(bound * 1000)) + costs.read_latency + costs.write_latency
    possible = moved / 1000 + array.skew
    assert possible > bound / 0.91
    assert possible <= gemm("npu", m, n, k).cycles <= possible / share


@pytest.mark.parametrize(("n", "k"), [(1024, 4096), (4096, 1024), (2048, 2048)])
def test_small_decode_gemv_is_bound_by_memory(n: int, k: int) -> None:
    """Of 8 MiB of weights: 94 % of what refresh leaves; the rest are latency, the last products and the result."""
    spec = load_target("npu")
    assert spec.dma is not None
    report, moved = gemm("npu", 1, n, k), 2 * (n * k + k + n) / 1024
    assert report.cycles <= DmaCosts(spec, spec.dma).derated(round(moved * 1000)) / 1000 / 0.94
    assert "bound by memory" in report.ops[0].reason


SKINNY = [
    # of raw bandwidth, of which refresh leaves a contiguous stream 91.9 %
    ("npu", 1, 1, 1024, 4096, 0.9), ("npu", 1, 1, 4096, 1024, 0.88), ("npu", 1, 1, 1024, 1024, 0.845),
    ("npu", 1, 1, 1000, 4096, 0.88), ("npu", 1, 1, 4096, 1000, 0.86), ("npu", 1, 1, 3000, 5000, 0.895),
    ("npu", 1, 2, 3000, 5000, 0.895), ("npu", 1, 4, 1024, 4096, 0.87), ("npu", 1, 4, 1024, 1024, 0.755),
    ("npu", 1, 4, 2048, 11008, 0.91), ("npu", 4, 4, 1024, 4096, 0.895), ("npu", 4, 4, 4096, 1024, 0.885),
    ("npu", 4, 4, 4096, 1000, 0.87), ("npu-server", 4, 1, 1024, 1024, 0.985), ("npu-server", 4, 4, 512, 512, 0.87),
    ("npu-server", 4, 32, 768, 3072, 0.95), ("npu", 1, 4, 5000, 3000, 0.88), ("npu", 4, 8, 4096, 1000, 0.87),
]  # fmt: skip


@pytest.mark.parametrize(("target", "cores", "m", "n", "k", "share"), SKINNY)
def test_skinny_products_reach_their_share_of_the_bandwidth(
    target: str, cores: int, m: int, n: int, k: int, share: float
) -> None:
    """Small and odd ones, too: the end of the last tile is short, and memory waits for no place on chip."""
    bandwidth = 1024 if target == "npu" else 614.4
    report = gemm(target, m, n, k, f"npu.cores={cores}")
    assert report.cycles <= 2 * (n * k + m * k + m * n) / bandwidth / share


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize(("m", "n", "k"), [(1, 1024, 1024), (1, 1000, 777), (3, 1001, 3001), (2, 640, 650)])
def test_gemvs_on_the_vector_unit_compute(m: int, n: int, k: int, cores: int) -> None:
    """Several tiles at a time, some of them left over after the loop over these, and a rest."""
    options = Options(dims={"M": m, "N": n, "K": k}, overrides=(f"npu.cores={cores}",))
    result = compile_model(GEMM, "npu-server", options, values="random")
    assert result.report is not None
    assert "on the vector unit" in result.report.ops[0].reason
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.max_rel_err
    assert time_program(result.program).time == time_program(result.program, "plain").time


@pytest.mark.parametrize(("m", "n", "k"), [(4, 1000, 4096), (2, 3000, 2500), (16, 2048, 3000), (4, 5000, 3000)])
def test_four_slabs_at_a_time_compute(m: int, n: int, k: int) -> None:
    """Slabs in a loop, those left over, and the last one in strips whose last one leaves in parts."""
    options = Options(dims={"M": m, "N": n, "K": k}, overrides=("npu.products=array",))
    result = compile_model(GEMM, "npu", options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.max_rel_err
    (loads,) = (stream for stream in result.program.streams if stream.engine == "load")
    places = {step.command.dst for step in steps(loads.items) if isinstance(step.command, Load)}
    assert len(places) > 4
    assert time_program(result.program).time == time_program(result.program, "plain").time


@pytest.mark.parametrize(("m", "n", "k"), [(1, 1024, 4096), (1, 4096, 1024), (4, 4096, 4096)])
@pytest.mark.parametrize("target", ["npu", "npu-server"])
def test_small_gemvs_reach_what_their_queue_lets_through(m: int, n: int, k: int, target: str) -> None:
    """But for fill and drain: 1024 bytes a clock less refresh, or 512 through the ports of one core of the server."""
    report = gemm(target, m, n, k)
    bandwidth = 1024 * (3900 - 260) / 3900 if target == "npu" else 512
    assert report.cycles <= 2 * (n * k + m * k + m * n) / bandwidth / 0.9


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize(("m", "n", "k"), [(4, 4096, 1024), (4, 11008, 512), (3, 2048, 1000), (16, 1024, 2048)])
def test_last_slabs_come_in_strips(m: int, n: int, k: int, cores: int) -> None:
    """Results in the order of columns, wherever strips are cut, which all channels bring."""
    options = Options(dims={"M": m, "N": n, "K": k}, overrides=(f"npu.cores={cores}", "npu.products=array"))
    result = compile_model(GEMM, "npu", options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.max_rel_err
    (stores,) = (stream for stream in result.program.streams if stream.engine == "store")
    assert len(list(steps(stores.items))) > 1
    assert time_program(result.program).time == time_program(result.program, "plain").time


@pytest.mark.parametrize(("tokens", "part"), [(128, 1.0), (256, 0.92)])
def test_an_encoder_is_no_slower_than_with_ops_by_themselves(tokens: int, part: float) -> None:
    """BERT-base: bias and GELU go on beside the arrays, by tiles that are estimated as they are emitted."""
    model = GEMM.parents[1] / "bert-base.pimc"
    fused, apart = (
        compile_model(model, "npu", Options(dims={"seq": tokens}, pass_options=(f"fuse-epilogues.use={use}",))).report
        for use in ("auto", "off")
    )
    assert fused is not None
    assert apart is not None
    assert fused.cycles < part * apart.cycles


def test_the_reason_says_which_bound_holds() -> None:
    assert "bound by arrays" in gemm("npu", 2048, 2048, 2048).ops[0].reason
    assert "bound by latency" in gemm("npu-onnxim", 1, 16, 64).ops[0].reason
    assert "on the vector unit" in gemm("npu", 1, 16, 64).ops[0].reason
    assert "weight stays" in gemm("npu-onnxim", 1, 4096, 1024).ops[0].reason


def test_more_cores_are_faster_whatever_is_small() -> None:
    """Of a square, of few rows, of few columns, and of nothing but depth."""
    for shape in ((512, 512, 512), (128, 4096, 1024), (4096, 128, 1024), (256, 256, 8192)):
        one, four = (gemm("npu-server", *shape, f"npu.cores={cores}").cycles for cores in (1, 4))
        assert four < 0.6 * one, shape


ATTENTION = """model attention(H = 4, S = 300)
input q "q": f32[1, H, S, 64]
input k "k": f32[1, H, S, 64]
input v "v": f32[1, H, S, 64]
let y = attention(q, k, v, scale=0.125, causal=true)
output y
"""


@pytest.mark.parametrize(("whole", "ops"), [("always", ["attention"]), ("never", ["scores", "softmax", "context"])])
def test_whole_and_split_attention_have_the_same_values(whole: str, ops: list[str], tmp_path: Path) -> None:
    model = tmp_path / "attention.pimc"
    model.write_text(ATTENTION, encoding="utf-8")
    options = Options(pass_options=(f"split-attention.whole={whole}",))
    result = compile_model(model, "npu-server", options, values="random")
    assert result.report is not None
    assert result.comparison is not None
    assert result.comparison.ok
    assert [op.op.removeprefix("attention_") for op in result.report.ops] == ops


def test_another_choice_is_a_diagnostic(tmp_path: Path) -> None:
    model = tmp_path / "attention.pimc"
    model.write_text(ATTENTION, encoding="utf-8")
    with pytest.raises(CompileError, match=r"split-attention\.whole is 'auto', 'always' or 'never'"):
        compile_model(model, "npu", Options(pass_options=("split-attention.whole=no",)))


DECODE = """model decode(B = 64, H = 32, T = 511)
input q "q": f16[B, H, 1, 128]
input past "past": f16[B, H, T, 128]
input k "k": f16[B, H, 1, 128]
input p "p": f16[B, H, 1, T + 1]
let keys = cache_append(past, k, axis = 2)
@engine("npu")
let y = {op}
output keys
output y
"""


@pytest.mark.parametrize("target", ["npu", "neupims"])
@pytest.mark.parametrize("op", ["attention_scores(q, keys, scale = 1.0)", "attention_context(p, keys)"])
def test_attention_of_many_heads_with_one_query_is_bound_by_memory(op: str, target: str, tmp_path: Path) -> None:
    """1024 bytes a clock, of which refresh takes 7 in 100, wherever keys and values lie.

    In `neupims` a request's values lie in one channel, so that those of many requests are read together; their weights,
    at distances of a multiple of all channels' rows, come from few channels then.
    """
    model = tmp_path / "decode.pimc"
    model.write_text(DECODE.format(op=op), encoding="utf-8")
    result = compile_model(model, target, Options())
    assert result.report is not None
    (attention,) = (o for o in result.report.ops if o.op.startswith("attention"))
    least = 2 * 64 * 32 * (512 * 128 + 512 + 128) / 1024e9
    assert attention.seconds <= least / (0.9 if target == "npu" else 0.85)
    assert attention.engine == "npu"


HEADS = """model heads(B = 1, H = 8, KV = 8, S = 1024, T = 1024)
input q "q": f16[B, H, S, 64]
input k "k": f16[B, KV, T, 64]
input v "v": f16[B, KV, T, 64]
let y = attention(q, k, v, scale=0.125, causal=true)
output y
"""


@pytest.mark.parametrize("target", ["npu", "npu-server", "tpuv3"])
def test_attention_stays_whole_where_that_is_faster(target: str, tmp_path: Path) -> None:
    """Prefill: 7 tenths of the time of its parts at most, and no score in DRAM."""
    model = tmp_path / "heads.pimc"
    model.write_text(HEADS, encoding="utf-8")
    whole = compile_model(model, target, Options()).report
    parts = compile_model(model, target, Options(pass_options=("split-attention.whole=never",))).report
    assert whole is not None
    assert parts is not None
    assert [op.op for op in whole.ops] == ["attention"]
    assert whole.seconds < 0.7 * parts.seconds
    assert whole.bytes_moved["bytes written"] == 2 * 8 * 1024 * 64
    assert "keys at a time" in whole.ops[0].reason


def test_attention_stays_whole_where_memory_has_no_room_for_all_scores(tmp_path: Path) -> None:
    """16 MiB of 12; split on demand, that is what is said."""
    model = tmp_path / "heads.pimc"
    model.write_text(HEADS, encoding="utf-8")
    small = ("dram.rows=12", "buffer.bytes=4MiB")
    report = compile_model(model, "npu", Options(overrides=small)).report
    assert report is not None
    assert [op.op for op in report.ops] == ["attention"]
    with pytest.raises(CompileError, match="MiB"):
        compile_model(model, "npu", Options(overrides=small, pass_options=("split-attention.whole=never",)))


def test_decoding_attention_is_bound_by_memory_as_a_whole(tmp_path: Path) -> None:
    """Grouped queries: 32 heads read keys and values of 8; scores and weights stay on chip."""
    model = tmp_path / "heads.pimc"
    model.write_text(HEADS, encoding="utf-8")
    dims = {"B": 64, "H": 32, "S": 1, "T": 2048}
    report = compile_model(model, "npu", Options(dims=dims)).report
    assert report is not None
    assert [op.op for op in report.ops] == ["attention"]
    assert report.seconds <= 2 * 2 * 64 * 8 * 2048 * 64 / 1024e9 / 0.895


def test_masks_come_before_the_values_that_wait_for_them(tmp_path: Path) -> None:
    """The arrays want values when scores have been masked: were masks behind these, both units would wait in turn."""
    model = tmp_path / "masked.pimc"
    mask = 'input m "m": f16[B, H, S, T]\nlet y'
    model.write_text(HEADS.replace("let y", mask).replace("v, scale", "v, mask = m, scale"), encoding="utf-8")
    options = Options(dims={"H": 32, "S": 1, "T": 4096}, pass_options=("split-attention.whole=always",))
    report = compile_model(model, "npu", options).report
    assert report is not None
    assert report.seconds <= 1.3 * 2 * 4096 * (2 * 8 * 64 + 32) / 1024e9


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("dataflow", ["ws", "is", "os", "either"])
@pytest.mark.parametrize("sizes", [(2, 6, 3, 150, 150), (3, 8, 2, 1, 90), (1, 4, 1, 20, 60)], ids=str)
def test_whole_attention_computes_on_every_dataflow(
    sizes: tuple[int, ...], dataflow: str, cores: int, tmp_path: Path
) -> None:
    """Streams of several engines, as they are split and signalled."""
    model = tmp_path / "heads.pimc"
    model.write_text(HEADS, encoding="utf-8")
    dims: dict[str, int] = dict(zip(("B", "H", "KV", "S", "T"), sizes, strict=True))
    overrides = (f"array.dataflow={dataflow}", f"npu.cores={cores}", "buffer.bytes=1MiB")
    options = Options(dims=dims, overrides=overrides, pass_options=("split-attention.whole=always",))
    result = compile_model(model, "npu", options, values="random")
    assert result.report is not None
    assert result.comparison is not None
    assert result.comparison.ok
    assert [op.op for op in result.report.ops] == ["attention"]


def test_an_encoder_computes(tmp_path: Path) -> None:
    """One layer of BERT-base, its attention whole on the chip, padding masked."""
    result = compile_model(
        with_layers("bert-base", 1, tmp_path), "npu", Options(dims={"batch": 2, "seq": 24},
        pass_options=("split-attention.whole=always",)), values="random",
    )  # fmt: skip
    assert result.report is not None
    assert result.comparison is not None
    assert result.comparison.ok
    assert "attention" in {op.op for op in result.report.ops}
    assert result.report.phase == "encode"


def test_a_faster_clock_is_never_slower() -> None:
    """Where products are few, the arrays' fill and skew count, and decide whether the vector unit takes them.

    A decoder on `neupims` without PIM once was slower at 1 GHz than at 500 MHz: only there its attention went to the
    arrays, whose fill and skew the choice had left out.
    """
    model = GEMM.parents[1] / "tiny-llama.pimc"
    clocks = ("500MHz", "1GHz", "2GHz")
    options = [
        Options(dims={"past": 63}, overrides=(f"npu.clock={clock}",), pass_options=("place.only=npu",))
        for clock in clocks
    ]
    reports = [compile_model(model, "neupims", each).report for each in options]
    seconds = [report.seconds for report in reports if report is not None]
    assert seconds == sorted(seconds, reverse=True)
    assert len(seconds) == len(clocks)
