"""Streams as columns: what stands in the rows is what the streams are, as written and as executed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

import pimc
from pimc.backends.affine import DEVICE, INSTANCE
from pimc.backends.assembly import operand_texts
from pimc.backends.columns import ARGUMENT, INTEGERS, StreamTable
from pimc.backends.isa import operands_of
from pimc.backends.program import Program, count, steps, unrolled
from pimc.parquet import parquet_bytes, write_parquet
from tests.cli.harness import TINY, CommandLine

needs_duckdb = pytest.mark.skipif(find_spec("duckdb") is None, reason="DuckDB is not installed")

CASES = {
    "neupims": ("neupims", {"batch": 4, "past": 63}, ()),
    "cent": ("cent", {"batch": 2, "past": 31}, ()),
    "npu": ("npu", {"seq": 5}, ()),
    "two-devices": ("neupims", {"batch": 2, "past": 15}, ("system.devices=2",)),
}


@pytest.fixture(scope="module", params=CASES)
def program(request: pytest.FixtureRequest) -> Program:
    target, dims, overrides = CASES[request.param]
    parallel = {"tp": 2} if overrides else {}
    return pimc.compile(TINY, target, dims=dims, overrides=overrides, parallel=parallel, simulate=False).program


def records(table: StreamTable) -> Iterator[dict[str, Any]]:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    return (dict(zip(names, row, strict=True)) for row in table.rows())


def test_rows_as_executed_are_the_unrolled_streams(program: Program) -> None:
    table = StreamTable(program, executed=True)
    found = records(table)
    number = 0
    for stream_number, stream in enumerate(program.streams):
        for device in stream.devices:
            for instance in stream.instances:
                for place, step in enumerate(unrolled(stream.items, {DEVICE: device, INSTANCE: instance})):
                    row = next(found)
                    number += 1
                    where = (row["stream"], row["engine"], row["device"], row["instance"], row["number"])
                    assert where == (stream_number, stream.engine, device, instance, place)
                    assert row["mnemonic"] == step.command.mnemonic
                    assert row["operands"] == " ".join(operand_texts(step.command))
                    for name, declaration in operands_of(type(step.command)).items():
                        value = getattr(step.command, name)
                        if declaration.kind in ("int", "real"):
                            assert row[ARGUMENT + name] == value
                        elif declaration.kind == "ints":
                            assert row[ARGUMENT + name] == list(value)
                        else:
                            assert row[ARGUMENT + name] == str(getattr(value, "text", value))
                    assert row["op"] == (step.op if step.op >= 0 else None)
                    if step.op >= 0:
                        op = program.ops[step.op]
                        assert (row["op_name"], row["op_kind"], row["phase"]) == (op.name, op.op, op.phase)
    assert next(found, None) is None
    assert number == table.size > 0


def test_rows_as_written_are_the_steps_with_their_repeats(program: Program) -> None:
    table = StreamTable(program)
    rows = list(records(table))
    assert len(rows) == table.size == sum(len(list(steps(s.items))) for s in program.streams)
    repeats = Counter[int]()
    for row in rows:
        repeats[row["stream"]] += row["repeats"]
        assert len(row["loops"]) == len(row["counts"])
    assert repeats == {n: count(s.items) for n, s in enumerate(program.streams) if s.items}
    for number, stream in enumerate(program.streams):
        own = [row for row in rows if row["stream"] == number]
        assert [row["position"] for row in own] == list(range(len(own)))
        written = [step.command for step in steps(stream.items)]
        assert [row["mnemonic"] for row in own] == [c.mnemonic for c in written]
        assert [row["operands"] for row in own] == [" ".join(operand_texts(c)) for c in written]
    assert any(row["loops"] for row in rows)


def test_written_and_executed_rows_meet(program: Program) -> None:
    """Each command as written is executed `repeats` times by each instance, first with the operands of its row."""
    executed: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in records(StreamTable(program, executed=True)):
        executed.setdefault((row["stream"], row["position"]), []).append(row)
    for row in records(StreamTable(program)):
        stream = program.streams[row["stream"]]
        found = executed[row["stream"], row["position"]]
        assert len(found) == row["repeats"] * len(stream.devices) * len(stream.instances)
        arguments = {name: value for name, value in row.items() if name.startswith(ARGUMENT)}
        assert arguments == {name: found[0][name] for name in arguments}
        assert found[0]["turns"] == [0] * len(row["loops"])
        assert {len(each["turns"]) for each in found} == {len(row["counts"])}


def test_parts_are_parts(program: Program) -> None:
    everything = list(records(StreamTable(program, executed=True)))
    stream = program.streams[-1]
    only = StreamTable(program, True, (len(program.streams) - 1,), stream.devices[0])
    found = list(records(only))
    assert len(found) == only.size
    expected = [r for r in everything if r["stream"] == len(program.streams) - 1 and r["device"] == stream.devices[0]]
    names = [c.name for c in only.columns]
    assert found == [{name: row[name] for name in names} for row in expected]
    assert StreamTable(program, True, None, 999).size == 0


@needs_duckdb
@pytest.mark.parametrize("executed", [False, True])
def test_the_file_holds_the_rows(
    program: Program, executed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb

    monkeypatch.setattr("pimc.parquet.ROWS_AT_A_TIME", 97)
    table = StreamTable(program, executed)
    write_parquet(table, tmp_path / "s.parquet")
    with duckdb.connect(":memory:") as connection:
        found = connection.execute(f"SELECT * FROM '{tmp_path / 's.parquet'}'")
        types = {name: str(kind) for name, kind, *_ in found.description}
        rows = found.fetchall()
    assert types.keys() == {c.name for c in table.columns}
    assert {t for n, t in types.items() for c in table.columns if c.name == n and c.type == INTEGERS} <= {
        "BIGINT[]",
        "list",
    }
    assert rows == list(table.rows())
    assert parquet_bytes(table) == (tmp_path / "s.parquet").read_bytes()


@needs_duckdb
def test_export_writes_the_file_that_python_writes(run: CommandLine) -> None:
    run.done("compile", TINY, "-t", "neupims", "--dim", "past=63", "-o", "t.pimprog", "-q")
    said = run.done("export", "t.pimprog", "--parquet", "t.parquet", "--unroll", "--engine", "pim")
    program = pimc.load_program("t.pimprog")
    streams = tuple(n for n, s in enumerate(program.streams) if s.engine == "pim")
    table = StreamTable(program, True, streams)
    assert (run.folder / "t.parquet").read_bytes() == parquet_bytes(table)
    assert f"t.parquet: {table.size} rows, {len(table.columns)} columns" in said
    assert run.done("export", "t.pimprog", "--parquet", "t.parquet", "-q") == ""


def test_what_is_not_there_is_not_exported(run: CommandLine) -> None:
    run.done("compile", TINY, "-t", "neupims", "-o", "t.pimprog", "-q")
    for more, status, said in (
        ([], 2, "nothing to write; name a file with --parquet"),
        (["--parquet", "x.parquet", "--engine", "npx"], 1, "did you mean 'npu'?"),
        (["--parquet", "x.parquet", "--device", "1"], 1, "the program has no device 1"),
        (["--parquet", "nowhere/x.parquet"], 1, "there is no folder nowhere"),
    ):
        outcome = run("export", "t.pimprog", *more)
        assert (outcome.status, outcome.out) == (status, "")
        assert said in outcome.err
    assert not (run.folder / "x.parquet").exists()


def test_without_duckdb_the_extra_is_named(run: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "duckdb", None)
    run.done("compile", TINY, "-t", "neupims", "-o", "t.pimprog", "-q")
    outcome = run("export", "t.pimprog", "--parquet", "x.parquet")
    assert (outcome.status, outcome.out) == (1, "")
    assert "pip install 'pimc[parquet]'" in outcome.err


def test_the_most_rows_are_refused(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pimc.parquet.MOST_ROWS", 1)
    with pytest.raises(pimc.CompileError, match="are too many for one file"):
        parquet_bytes(StreamTable(program))
