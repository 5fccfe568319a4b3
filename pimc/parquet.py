"""Streams as a Parquet file, by DuckDB (the extra `parquet`). The same program gives the same bytes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from pimc.backends.columns import INTEGER, REAL, Column, Row, StreamTable
from pimc.backends.storage import write_atomically
from pimc.ir.diagnostics import Kind, fail

ROWS_AT_A_TIME = 100_000
MOST_ROWS = 200_000_000


def parquet_bytes(table: StreamTable) -> bytes:
    """The file. Raises CompileError (UNAVAILABLE) without DuckDB, and for more rows than anybody would wait for."""
    duckdb = _duckdb()
    size = table.size
    if size > MOST_ROWS:
        raise fail(
            Kind.UNAVAILABLE,
            f"{size} executed commands are too many for one file",
            help="export them as written, or of one engine or device (--engine, --device)",
        )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "streams.parquet"
        connection = duckdb.connect(str(Path(folder) / "rows.duckdb"), config={"threads": 1})
        try:
            columns = ", ".join(f'"{c.name}" {c.type}' for c in table.columns)
            connection.execute(f"CREATE TABLE streams ({columns})")
            for chunk in _chunks(table):
                connection.register("chunk", chunk)
                connection.execute("INSERT INTO streams SELECT * FROM chunk")
                connection.unregister("chunk")
            connection.execute(f"COPY streams TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
        finally:
            connection.close()
        return out.read_bytes()


def write_parquet(table: StreamTable, path: str | Path) -> None:
    """Write the file; it appears whole or not at all. Raises CompileError, as `parquet_bytes` and FILE_UNWRITABLE."""
    write_atomically(Path(path), parquet_bytes(table))


def _chunks(table: StreamTable) -> Iterator[dict[str, Any]]:
    rows = table.rows()
    while chunk := list(islice(rows, ROWS_AT_A_TIME)):
        yield {column.name: _array(column, chunk, at) for at, column in enumerate(table.columns)}


def _array(column: Column, rows: list[Row], at: int) -> Any:
    """A column of some rows; what is None becomes null."""
    values = [row[at] for row in rows]
    if column.type in (INTEGER, REAL):
        absent = [value is None for value in values]
        filled = [0 if value is None else value for value in values]
        return np.ma.masked_array(np.array(filled, np.int64 if column.type == INTEGER else np.float64), mask=absent)
    array = np.empty(len(values), object)
    array[:] = values
    return array


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise fail(Kind.UNAVAILABLE, "Parquet files need DuckDB", help="pip install 'pimc[parquet]'") from None
    return duckdb
