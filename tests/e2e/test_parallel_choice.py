"""`--parallel` that nobody gives: chosen by cost, with its reason and the other splits in the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.program import Choice
from pimc.backends.storage import from_bytes, to_bytes
from pimc.driver import Options, Result, compile_model, with_degrees
from pimc.frontends import load_model
from pimc.generation import generate
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.text import show
from pimc.passes.abridge import abridge, repeated_layers
from pimc.phases import compile_phases
from pimc.points import time_points

MODELS = Path(__file__).parents[2] / "models"
WIDE = """model wide(batch = 1, seq = 1, past = 255)
let layers = {layers}
let hidden = 2048
let heads = 16
let kv_heads = {kv}
let ffn = 5632
let vocab = 4096
include "{blocks}/llama.pimc"
"""


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    path = tmp_path / "wide.pimc"
    path.write_text(WIDE.format(layers=4, kv=4, blocks=MODELS / "blocks"))
    return path


def options(devices: int, *overrides: str, **more: Any) -> Options:
    return Options(overrides=(f"system.devices={devices}", *overrides), shapes_only=True, **more)


def choice_of(result: Result) -> Choice:
    assert result.report is not None and result.report.choice is not None
    return result.report.choice


@pytest.mark.parametrize("target", ["cent", "npu", "newton"])
def test_estimates_come_close_to_what_the_split_takes(target: str, wide: Path) -> None:
    result = compile_model(wide, target, options(4))
    choice = choice_of(result)
    assert result.report is not None
    # Ops hide behind each other what an estimate of each by itself counts.
    assert choice.best.latency_seconds == pytest.approx(result.report.seconds, rel=0.25)
    assert len(choice.others) >= 5


@pytest.mark.parametrize("target", ["cent"])
def test_the_least_latency_is_the_least_of_all_splits_compiled(target: str, wide: Path) -> None:
    asked = options(4)
    choice = choice_of(compile_model(wide, target, asked))
    taken = [
        _seconds(compile_model(wide, target, replace(asked, parallel={"pp": cost.pp, "tp": cost.tp})))
        for cost in (choice.best, *choice.others)
    ]
    assert taken[0] <= min(taken) * 1.03
    order = [cost.latency_seconds for cost in (choice.best, *choice.others)]
    assert order == sorted(order)


def _seconds(result: Result) -> float:
    assert result.report is not None
    return result.report.seconds


def test_throughput_takes_stages_and_latency_takes_shards(wide: Path) -> None:
    fast = choice_of(compile_model(wide, "cent", options(4)))
    many = compile_model(wide, "cent", options(4, objective="throughput"))
    assert fast.best.pp == 1 and fast.best.tp > 1
    assert choice_of(many).best.pp > 1
    assert many.report is not None and many.report.pipeline is not None
    rates = [cost.tokens_per_s for cost in (choice_of(many).best, *choice_of(many).others)]
    assert rates == sorted(rates, reverse=True)
    assert choice_of(many).best.tokens_per_s == pytest.approx(many.report.pipeline.tokens_per_s, rel=0.15)


def test_a_slow_link_keeps_the_model_on_one_device(wide: Path) -> None:
    choice = choice_of(compile_model(wide, "cent", options(4, "system.link.latency=1ms")))
    assert choice.degrees == {"pp": 1, "tp": 1}


def test_splits_that_do_not_fit_say_so_and_are_not_taken(wide: Path) -> None:
    """A model that needs about 390 MiB, on devices that have 200 MiB each."""
    small = ("dram.rows=200",)
    choice = choice_of(compile_model(wide, "cent", options(4, *small)))
    refused = [cost for cost in choice.others if cost.illegal]
    assert (1, 1) in {(cost.pp, cost.tp) for cost in refused}
    assert choice.best.pp * choice.best.tp > 1
    assert "do not fit" in choice.reason
    for cost in (choice.best, *choice.others):  # compilation says the same of each
        asked = options(4, *small, parallel={"pp": cost.pp, "tp": cost.tp})
        if cost.illegal:
            with pytest.raises(CompileError) as caught:
                compile_model(wide, "cent", asked)
            assert caught.value.diagnostics[0].kind is Kind.CAPACITY
        else:
            compile_model(wide, "cent", replace(asked, simulate=False))


def test_nothing_fits(wide: Path) -> None:
    with pytest.raises(CompileError) as caught:
        compile_model(wide, "cent", options(2, "dram.rows=8"))
    (found,) = caught.value.diagnostics
    assert found.kind is Kind.CAPACITY and "no split" in found.message and found.help


def test_given_degrees_are_not_questioned(wide: Path) -> None:
    result = compile_model(wide, "cent", options(4, parallel={"tp": 2}))
    assert result.program.choice is None and result.program.devices == 2
    assert result.report is not None and "parallel" not in result.report.to_json()


def test_one_device_needs_no_choice(wide: Path) -> None:
    assert compile_model(wide, "cent", options(1, simulate=False)).program.choice is None


def test_the_report_has_the_choice_with_all_splits(wide: Path) -> None:
    result = compile_model(wide, "cent", options(4))
    assert result.report is not None
    plain = result.report.to_json()["parallel"]
    assert (plain["pp"], plain["tp"]) == (1, result.program.devices)
    assert plain["objective"] == "latency" and plain["reason"].startswith("the least time")
    assert plain["splits"][0]["latency_seconds"] <= plain["splits"][1]["latency_seconds"]
    assert "--parallel" not in result.report.command


def test_programs_keep_the_choice(wide: Path) -> None:
    program = compile_model(wide, "cent", options(4, simulate=False)).program
    assert program.choice is not None
    assert from_bytes(to_bytes(program)).choice == program.choice
    text = disassemble(program)
    assert assemble(text).choice == program.choice
    with pytest.raises(CompileError, match="the choice"):
        assemble(text.replace('.choice {"pp"', '.choice {"PP"').replace('"splits"', '"cuts"'))


def test_cents_mapping_is_chosen_by_its_own_times(wide: Path) -> None:
    result = compile_model(wide, "cent-published", options(4))
    choice = choice_of(result)
    assert result.report is not None and result.report.breakdown is not None
    assert choice.best.latency_seconds * 1000 == pytest.approx(result.report.breakdown.token_latency_ms, rel=1e-12)
    for cost in choice.others:
        asked = options(4, parallel={"pp": cost.pp, "tp": cost.tp})
        other = compile_model(wide, "cent-published", asked).report
        assert other is not None and other.breakdown is not None
        assert cost.latency_seconds * 1000 == pytest.approx(other.breakdown.token_latency_ms, rel=1e-12)
        assert cost.tokens_per_s == pytest.approx(other.breakdown.tokens_per_s, rel=1e-12)
        assert cost.latency_seconds >= choice.best.latency_seconds


def test_values_are_right_on_the_split_that_is_chosen() -> None:
    for objective in ("latency", "throughput"):
        asked = Options(overrides=("system.devices=2",), dims={"past": 15}, objective=objective)  # type: ignore[arg-type]
        result = compile_model(MODELS / "tiny-llama.pimc", "cent", asked, values="random")
        assert result.comparison is not None and result.comparison.ok
        assert result.program.choice is not None


def test_a_range_a_generation_and_both_phases_have_one_split() -> None:
    asked = Options(overrides=("system.devices=2", "system.link.latency=0ns"), objective="throughput")
    tiny = MODELS / "tiny-llama.pimc"
    points = time_points(tiny, "cent", asked, {"past": [7, 8]})
    last = compile_model(tiny, "cent", replace(asked, dims={"past": 8}))
    assert points.points[-1].cycles == last.timing.cycles  # type: ignore[union-attr]
    assert generate([tiny], "cent", asked, 2, values=True).ok
    phases = compile_phases([tiny], "cent", asked, values="random")
    chosen = {result.program.choice for _, result in phases.items()}
    assert len(chosen) == 1 and None not in chosen and phases.ok


def test_a_graph_that_is_given_stays_as_it_is(wide: Path) -> None:
    graph = load_model(wide, shapes_only=True)
    before = show(graph)
    with_degrees(graph, "cent", options(4))
    assert show(graph) == before


# -- the pieces ---------------------------------------------------------------------------------------------------


def canonical(path: Path) -> Graph:
    from pimc.driver import run_passes

    graph = load_model(path, shapes_only=True)
    run_passes(graph, Options(dims={"batch": 1, "seq": 1, "past": 255}, until="canonical-order"), None)
    return graph


def test_abridged_graphs_keep_two_layers_of_a_kind(wide: Path) -> None:
    graph = canonical(wide)
    ops = len(graph)
    (group,) = repeated_layers(graph)
    kinds = abridge(graph, Rewriter(graph, "abridge"))
    assert kinds == (0, 0, 0, 0)
    (left,) = repeated_layers(graph)
    assert len(left) == 2
    assert len(graph) == ops - 2 * len(group[0])


def test_a_copied_graph_shares_nothing_that_changes(wide: Path) -> None:
    graph = canonical(wide)
    before = show(graph)
    twin = graph.copy()
    assert show(twin) == before
    assert not {id(v) for v in twin.values()} & {id(v) for v in graph.values()}
    assert not {id(n) for n in twin.order()} & {id(n) for n in graph.order()}
    abridge(twin, Rewriter(twin, "abridge"))
    assert show(graph) == before
    assert all(user in graph for value in graph.values() for user in graph.users(value))
