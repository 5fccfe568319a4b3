"""The recipes of docs/parquet.md give what the page says, in DuckDB, and the same in Polars."""

import re
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from pimc.backends import columns
from tests import docs
from tests.cli.harness import ROOT, CommandLine

PAGE = ROOT / "docs/parquet.md"
RECIPE = re.compile(r"```sql\n(?P<query>.*?)```\n\n```text\n(?P<table>.*?)```", re.DOTALL)

needs_duckdb = pytest.mark.skipif(find_spec("duckdb") is None, reason="DuckDB is not installed")
needs_polars = pytest.mark.skipif(find_spec("polars") is None, reason="Polars is not installed")


@pytest.fixture
def files(run: CommandLine) -> CommandLine:
    """The files that the page makes, in the working directory."""
    (run.folder / "models").symlink_to(ROOT / "models")
    for block in docs.blocks(PAGE.read_text()):
        if block.language == "console":
            for exchange in docs.exchanges(block.text):
                run.done(*exchange.command.split()[1:])
    return run


def asked(query: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    import duckdb

    with duckdb.connect(":memory:") as connection:
        found = connection.execute(query)
        return [column[0] for column in found.description], found.fetchall()


def drawn(names: list[str], rows: list[tuple[Any, ...]]) -> str:
    """Columns under their names, numbers to the right."""
    cells = [names, *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(names))]
    right = [all(isinstance(row[i], int) for row in rows) for i in range(len(names))]

    def line(row: list[str]) -> str:
        return "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)).rstrip()

    return "\n".join(line(row) for row in cells) + "\n"


@needs_duckdb
def test_the_recipes_give_what_the_page_says(files: CommandLine, request: pytest.FixtureRequest) -> None:
    said = PAGE.read_text()

    def with_table(match: re.Match[str]) -> str:
        names, rows = asked(match["query"])
        assert rows, match["query"]
        return f"```sql\n{match['query']}```\n\n```text\n{drawn(names, rows)}```"

    seen = RECIPE.sub(with_table, said)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(seen)
        return
    assert seen == said


@needs_duckdb
@needs_polars
def test_polars_gives_the_same(files: CommandLine) -> None:
    page = PAGE.read_text()
    (recipe,) = (b.text for b in docs.blocks(page) if b.language == "python")
    found: dict[str, Any] = {}
    exec(compile(recipe, "recipes.py", "exec"), found)
    queries = [match["query"] for match in RECIPE.finditer(page)]
    for frame, query in ((found["commands"], queries[0]), (found["opened"], queries[2])):
        names, rows = asked(query)
        assert frame.columns == names
        assert frame.rows() == rows


def test_the_page_describes_every_column(request: pytest.FixtureRequest) -> None:
    said = PAGE.read_text()
    seen = re.sub(r"(?<=<!-- columns -->\n).*(?=<!-- end -->)", lambda _: column_table(), said, flags=re.DOTALL)
    if request.config.getoption("--update-golden"):
        PAGE.write_text(seen)
        return
    assert seen == said


def column_table() -> str:
    written, executed = columns.AS_WRITTEN, columns.AS_EXECUTED
    rows: dict[str, str] = {}
    places: list[tuple[str, Callable[[], tuple[columns.Column, ...]]]] = [
        ("both", lambda: columns.WHERE),
        ("written", lambda: tuple(c for c in written if c not in executed)),
        ("executed", lambda: tuple(c for c in executed if c not in written)),
        ("both", lambda: tuple(c for c in written if c in executed)),
        ("both", lambda: columns.WHAT),
    ]
    for when, of in places:
        for c in of():
            rows[c.name] = f"| `{c.name}` | {when} | `{c.type}` | {c.doc} |"
    return "\n| column | as | type | what |\n|---|---|---|---|\n" + "\n".join(rows.values()) + "\n\n"


def test_the_columns_are_declared_once() -> None:
    names = [c.name for c in (*columns.WHERE, *columns.AS_WRITTEN, *columns.WHAT)]
    assert len(set(names)) == len(names)
    assert Path(PAGE).is_file()
