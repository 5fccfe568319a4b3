"""Paged caches: the same values as contiguous ones, through tables that the streams read for themselves."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.dma.isa import MapBlocks
from pimc.backends.program import MapEntry, Program
from pimc.backends.state import DeviceState
from pimc.backends.storage import from_bytes, to_bytes
from pimc.backends.verify import verify_program
from pimc.driver import Options, compile_model
from pimc.generation import generate
from pimc.ir.blocks import NO_BLOCK
from pimc.ir.diagnostics import CompileError, Kind
from pimc.ir.requests import Request
from pimc.ir.weights import Inline
from pimc.sim.paging import blocks_of_requests, paging_of
from tests.e2e.harness import DATA, MODELS, SAMPLES, Built, Sample, build, build_sample

PAGED = "cache.layout=paged"
LLAMA = MODELS / "tiny-llama.pimc"
DATAFLOWS = ("ws", "os", "is")
REAL = [
    s for s in SAMPLES
    if str(s).startswith(
        ("tiny-llama", "llama-decode", "llamagqa-decode-hf", "llamagqa-merged-genai.", "gpt2-decode-dynamo")
    )
]  # fmt: skip
"""Multi-head and grouped attention; prefill and decode of merged graphs, decode of others; static and grown caches."""


def paged_programs(built: Built) -> bool:
    return any(e.blocks is not None for e in built.program.memory)


# -- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cores", [1, 4])
@pytest.mark.parametrize("dataflow", DATAFLOWS)
@pytest.mark.parametrize("sample", REAL, ids=str)
def test_real_graphs_on_every_dataflow(sample: Sample, dataflow: str, cores: int) -> None:
    """Against ONNX Runtime; a short block, so that requests have several."""
    number = REAL.index(sample) + DATAFLOWS.index(dataflow)
    overrides = (f"array.dataflow={dataflow}", f"npu.cores={cores}", PAGED, f"cache.block={(3, 4, 16)[number % 3]}")
    built = build_sample(sample, "npu", Options(overrides=overrides))
    assert paged_programs(built)
    assert built.compare(built.run()).ok


@pytest.mark.parametrize("target", ["neupims", "newton", "cent"])
@pytest.mark.parametrize("sample", REAL, ids=str)
def test_real_graphs_in_banks(sample: Sample, target: str) -> None:
    built = build_sample(sample, target, Options(overrides=(PAGED,)))
    assert paged_programs(built)
    assert built.compare(built.run()).ok


@pytest.mark.parametrize("past", [1, 15, 16, 17, 31, 600])
@pytest.mark.parametrize("target", ["npu", "neupims", "newton", "cent"])
def test_tokens_go_into_the_last_block_or_begin_one(target: str, past: int) -> None:
    only = ("place.only=pim",) if target in ("neupims", "newton") else ()
    options = Options(dims={"batch": 3, "past": past}, overrides=(PAGED,), pass_options=only)
    built = build(LLAMA, target, options)
    assert built.compare(built.run()).ok
    sizes = {t.block_tokens: t for t in paging_of(built.program)}
    for tokens, table in sizes.items():
        assert table.blocks == 3 * -(-(past + 1) // tokens)
        assert table.filled == pytest.approx(3 * (past + 1) / (table.blocks * tokens))


@pytest.mark.parametrize("target", ["npu", "neupims", "newton", "cent"])
def test_prefill_writes_many_blocks(target: str) -> None:
    options = Options(dims={"batch": 2, "seq": 37}, overrides=(PAGED, "cache.block=4"))
    built = build(LLAMA, target, options)
    assert built.compare(built.run()).ok


@pytest.mark.parametrize("mapping", ["cent", "cent-mapping"])
def test_both_mappings_of_banks_beside_near_memory_units(mapping: str) -> None:
    overrides = (PAGED, "mapping=cent-mapping") if mapping == "cent-mapping" else (PAGED,)
    for past in (40, 1100):
        built = build(LLAMA, "cent", Options(dims={"batch": 2, "past": past}, overrides=overrides))
        assert built.compare(built.run()).ok


@pytest.mark.parametrize("seed", range(8))
def test_random_batches_of_requests(seed: int) -> None:
    """Each request has a table of its own: as many blocks as it needs, not as the longest does."""
    r = random.Random(seed)
    target = ("npu", "neupims", "newton", "cent")[seed % 4]
    private = target in ("neupims", "newton")
    past = [r.randrange(r.choice([5, 90, 700])) for _ in range(r.choice([2, 5, 9]))]
    batch = tuple(Request(f"r{i}", p, 1, None, i) for i, p in enumerate(past))
    overrides = [PAGED, f"cache.block={r.choice([3, 16, 32])}", f"cache.seed={seed}"]
    overrides += [f"dram.channels={r.choice([1, 2, 4])}"] if private else []
    passes = ("place.only=pim",) if private and r.random() < 0.7 else ()
    parallel = {"tp": 2} if r.random() < 0.4 else {}
    overrides += [f"system.devices={parallel.get('tp', 1)}"]
    options = Options(requests=batch, overrides=tuple(overrides), pass_options=passes, parallel=parallel)
    result = compile_model(LLAMA, target, options, values="random")
    assert result.comparison is not None
    assert result.comparison.ok
    verify_program(result.program)
    reports = paging_of(result.program)
    assert sum(b.blocks * b.block_tokens for b in reports) > 0
    if target == "npu":
        (b,) = reports
        assert b.blocks == sum(-(-(p + 1) // b.block_tokens) for p in past)
    held = [blocks for name, _, blocks in blocks_of_requests(result.program)]
    assert all(len(set(blocks)) == len(blocks) > 0 for blocks in held)


def _entries(table: MapEntry) -> np.ndarray:
    assert table.contents is not None
    return np.asarray(table.contents.array())


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize("parallel", [{"tp": 2}, {"pp": 2}, {"pp": 2, "tp": 2}], ids=str)
def test_several_devices(target: str, parallel: dict[str, int]) -> None:
    options = Options(dims={"batch": 2, "past": 20}, overrides=(PAGED, "system.devices=4"), parallel=parallel)
    built = build(LLAMA, target, options)
    assert built.compare(built.run()).ok


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
def test_in_the_machines_own_format(target: str) -> None:
    built = build(LLAMA, target, Options(dims={"batch": 2, "past": 20}, overrides=(PAGED,)))
    assert built.compare(built.run(wide=False), wide=False).ok


# -- tables are data --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["npu", "newton", "cent"])
def decoded(request: pytest.FixtureRequest) -> Built:
    only = ("place.only=pim",) if request.param == "newton" else ()
    past = 1100 if request.param == "cent" else 70
    options = Options(dims={"batch": 3, "past": past}, overrides=(PAGED, "dram.channels=2"), pass_options=only)
    return build(LLAMA, request.param, options)


def with_tables(program: Program, change: object) -> Program:
    """The program with its block tables changed in its memory map."""
    return replace(program, memory=tuple(_changed(e, change) for e in program.memory))


def _changed(e: MapEntry, change: object) -> MapEntry:
    if e.role != "table":
        return e
    entries = _entries(e).copy()
    assert callable(change)
    change(entries)
    return replace(e, contents=Inline(entries))


def test_other_blocks_give_the_same_values(decoded: Built) -> None:
    """Streams find their blocks in the table in memory: with another one they go elsewhere, and compute the same."""

    def turned(entries: np.ndarray) -> None:
        for lane in range(entries.shape[2]):
            held = entries[..., lane]
            pool = held[held != NO_BLOCK]
            held[held != NO_BLOCK] = np.roll(pool, 1)

    moved = replace(decoded, program=with_tables(decoded.program, turned))
    verify_program(moved.program)
    outputs = moved.run()
    assert moved.compare(outputs).ok
    first = decoded.run()
    assert all(np.array_equal(outputs[name], first[name]) for name in first)


def test_streams_that_read_no_table_compute_something_else(decoded: Built) -> None:
    """What a stream is told of its window is all that it knows of its blocks."""
    execute = MapBlocks.execute

    def in_order(self: MapBlocks, state: DeviceState) -> None:
        execute(self, state)
        window, table = state.spaces["dram"]._maps[self.window]  # type: ignore[index]
        table = table.reshape(window.blocks, window.lanes).copy()
        for lane in table.T:
            lane[lane != NO_BLOCK] = np.sort(lane[lane != NO_BLOCK])
        state.spaces["dram"].map(window, table)

    with mock.patch.object(MapBlocks, "execute", in_order):
        assert not decoded.compare(decoded.run()).ok


@pytest.mark.parametrize("order", ["reverse", 1, 2])
def test_streams_wait_for_their_tables(decoded: Built, order: int | str) -> None:
    assert decoded.compare(decoded.run(order)).ok


def test_stored_and_text_form(decoded: Built) -> None:
    program = decoded.program
    assert to_bytes(from_bytes(to_bytes(program))) == to_bytes(program)
    assert to_bytes(assemble(disassemble(program))) == to_bytes(program)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.reshape(-1).__setitem__(slice(0, None), 0), "gives a block to two"),
        (lambda t: t.reshape(-1).__setitem__(0, 9999), "does not name blocks of"),
        (lambda t: t.reshape(-1).__setitem__(0, -2), "does not name blocks of"),
    ],
)
def test_impossible_tables_are_refused(decoded: Built, change: object, said: str) -> None:
    with pytest.raises(CompileError) as raised:
        verify_program(with_tables(decoded.program, change))
    assert any(said in d.message for d in raised.value.diagnostics)
    assert {d.kind for d in raised.value.diagnostics} == {Kind.PROGRAM_BAD}


def test_commands_stay_in_windows(decoded: Built) -> None:
    """A program whose caches lie elsewhere than its commands look for them is refused."""
    moved = []
    for e in decoded.program.memory:
        if e.blocks is None:
            moved.append(e)
            continue
        far = replace(e.blocks.window, start=e.blocks.window.start + (1 << 40))
        moved.append(replace(e, layout=e.layout.moved(1 << 40), blocks=replace(e.blocks, window=far)))
    with pytest.raises(CompileError) as raised:
        verify_program(replace(decoded.program, memory=tuple(moved)))
    assert any("MAPBLOCKS" in d.message for d in raised.value.diagnostics)


# -- from step to step ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize(
    ("model", "batch"), [(LLAMA, "batch"), (DATA / "llamagqa-merged-genai.onnx", "batch_size")], ids=["dsl", "genai"]
)
def test_a_generation_keeps_its_blocks(target: str, model: Path, batch: str) -> None:
    options = Options(dims={batch: 2}, overrides=(PAGED, "cache.block=4"))
    run = generate([model], target, options, 6, values=True)
    assert run.ok
    assert all(step.carried for step in run.steps[1:])


# -- time -------------------------------------------------------------------------------------------------------------


def cycles(target: str, past: int, *overrides: str, engine: str = "fast") -> int:
    options = Options(dims={"batch": 3, "past": past}, overrides=overrides, sim_engine=engine)  # type: ignore[arg-type]
    timing = compile_model(LLAMA, target, options).timing
    assert timing is not None
    return timing.cycles


@pytest.mark.parametrize("target", ["npu", "newton", "cent"])
def test_skipped_time_is_stepped_time(target: str) -> None:
    assert cycles(target, 40, PAGED) == cycles(target, 40, PAGED, engine="plain")


def test_smaller_blocks_cost_more() -> None:
    """Each has a descriptor, and a row of its own."""
    found = [cycles("npu", 600, PAGED, f"cache.block={n}") for n in (1, 4, 16, 64)]
    assert found[0] > found[1] > found[2]
    assert found[0] > cycles("npu", 600)


def test_the_order_of_free_blocks_does_not_matter_for_time() -> None:
    orders = ("cache.seed=1", "cache.seed=2", "cache.order=rising")
    assert len({cycles("npu", 100, PAGED, order) for order in orders}) == 1


# -- what cannot be ---------------------------------------------------------------------------------------------------


def _refusals() -> Iterator[object]:
    yield pytest.param("npu", ("cache.block=0",), "'cache.block' should be greater than 0, not 0", id="no tokens")
    yield pytest.param("npu", ("cache.block=many",), "'cache.block' should be a whole number, not 'many'", id="text")
    yield pytest.param("npu", ("cache.block=1.5",), "'cache.block' should be a whole number, not 1.5", id="fraction")
    layouts = "'cache.layout' should be 'contiguous' or 'paged', not 'pages'"
    yield pytest.param("npu", ("cache.layout=pages",), layouts, id="word")
    yield pytest.param("npu", ("cache.size=16",), "unknown key 'cache.size'", id="key")
    small = "requests need 6 blocks of 16 tokens of each cache, and its pool has 2"
    yield pytest.param("npu", (PAGED, "cache.blocks=2"), small, id="pool")
    for target in ("neupims-faithful", "newton-faithful", "cent-published"):
        yield pytest.param(target, (PAGED,), f"caches of '{target}' cannot be paged: the mapping", id=target)


@pytest.mark.parametrize(("target", "overrides", "said"), list(_refusals()))
def test_what_cannot_be_is_said(target: str, overrides: tuple[str, ...], said: str) -> None:
    options = Options(dims={"batch": 3, "past": 20}, overrides=overrides)
    with pytest.raises(CompileError) as raised:
        compile_model(LLAMA, target, options)
    assert any(said in d.message for d in raised.value.diagnostics), [d.message for d in raised.value.diagnostics]


def test_a_pool_may_be_larger_than_what_requests_need() -> None:
    built = build(LLAMA, "npu", Options(dims={"batch": 2, "past": 20}, overrides=(PAGED, "cache.blocks=50")))
    (table,) = paging_of(built.program)
    assert (table.blocks, table.pool_blocks) == (4, 50)
    assert built.compare(built.run()).ok


def test_caches_that_do_not_fit_by_blocks() -> None:
    """The pools are what is counted."""
    options = Options(dims={"batch": 2, "past": 20}, overrides=(PAGED, "cache.blocks=40000000"))
    with pytest.raises(CompileError) as raised:
        compile_model(LLAMA, "npu", options)
    assert raised.value.diagnostics[0].kind is Kind.CAPACITY
