"""Streams of an AiM device as traces of its simulator: the same time in both, and the right values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pimc.backends.pim.aim_export import aim_trace
from pimc.driver import Options, compile_model
from pimc.ir.diagnostics import CompileError
from pimc.sim.replay import replay

GEMV = Path(__file__).parents[1] / "data" / "gemv.pimc"
SHAPES = [(512, 4096), (16, 16), (1024, 512), (1000, 300), (4096, 600), (2048, 20000), (3, 7)]


@pytest.mark.parametrize("target", ["aim-pinned", "aim-head"])
@pytest.mark.parametrize(("depth", "outputs"), SHAPES)
def test_a_stream_takes_what_its_trace_takes(depth: int, outputs: int, target: str) -> None:
    result = compile_model(GEMV, target, Options(dims={"K": depth, "N": outputs}))
    assert result.timing is not None
    again = replay("exported", aim_trace(result.program), result.spec)
    assert again.cycles == result.timing.cycles
    (engine,) = (e for e in result.timing.engines if e.commands)
    assert dict(again.commands) == dict(engine.counters)


@pytest.mark.parametrize(("depth", "outputs"), SHAPES)
def test_a_machine_without_dma_computes(depth: int, outputs: int) -> None:
    result = compile_model(GEMV, "aim-pinned", Options(dims={"K": depth, "N": outputs}), values="random")
    assert result.comparison is not None
    assert result.comparison.ok, result.comparison.outputs


@pytest.mark.parametrize(
    "switch", ["lines_per_clock=4", "stall=channel", "forwards_any_address=false", "drains_activated=true"]
)
def test_switches_act_on_streams_as_on_traces(switch: str) -> None:
    options = Options(dims={"K": 2048, "N": 3000}, overrides=(f"pim.switches.{switch}", "dram.refresh=true"))
    result = compile_model(GEMV, "aim-pinned", options)
    assert result.timing is not None
    assert replay("exported", aim_trace(result.program), result.spec).cycles == result.timing.cycles


def test_what_is_not_for_pim_alone_is_no_trace(tmp_path: Path) -> None:
    result = compile_model(GEMV, "cent", Options(dims={"K": 64, "N": 64}, simulate=False))
    with pytest.raises(CompileError, match="not for PIM alone"):
        list(aim_trace(result.program))
    result = compile_model(GEMV, "npu", Options(dims={"K": 64, "N": 64}, simulate=False))
    with pytest.raises(CompileError, match="no GDDR6-AiM"):
        list(aim_trace(result.program))


def test_activations_choose_their_table() -> None:
    """The configuration register is written where the table changes, and costs a clock."""
    from pimc.backends.pim.aim_isa import Activate
    from pimc.backends.pim.aim_lines import LineMaker
    from pimc.backends.pim.aim_trace import text_of

    maker = LineMaker()
    commands = [Activate(name, 1) for name in ("sigmoid", "gelu", "gelu", "sigmoid")]
    texts = [text_of(line, 32) for command in commands for line in maker.lines(command)]
    af = "AiM AF 0x80000000"
    assert texts == [af, "W CFR 2 2", af, af, "W CFR 2 0", af]


def test_values_need_no_rounding_of_what_is_wide() -> None:
    """The reference of a float16 model in the wide format is not rounded to float16 either."""
    result = compile_model(GEMV, "npu", Options(dims={"K": 300, "N": 40}), values="random")
    assert result.comparison is not None
    assert result.comparison.max_rel_err < 1e-5
    assert np.isfinite(result.comparison.max_abs_err)
