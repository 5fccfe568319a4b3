"""`pimc passes`: the passes there are, and the docs and options of one."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import complete
from pimc.cli import options as o
from pimc.cli.command import command

if TYPE_CHECKING:
    from pimc.cli.screen import Line
    from pimc.passes.manager import Pass


@command("passes", example="pimc passes\npimc passes tag-nature")
@click.argument("name", type=complete.PassName(), required=False, metavar="[NAME]")
@o.load_option
@o.json_option
@o.quiet_option
def passes(name: str | None, plugins: tuple[str, ...], as_json: bool, quiet: bool) -> None:
    """List the passes in the order in which they run; for NAME its docs, its options and their defaults."""
    from pimc.cli.screen import write_answer
    from pimc.driver import Options, registry_for
    from pimc.passes.pipeline import DEFAULT

    registry = registry_for(Options(plugins=plugins))
    if name:
        kind = registry.load(name)
        write_answer(lambda: to_json(kind, name), _page(kind, name), as_json=as_json, quiet=quiet)
        return
    others = [n for n in registry.names() if n not in DEFAULT]
    kinds = [(n, registry.load(n)) for n in dict.fromkeys((*DEFAULT, *others))]
    write_answer(
        lambda: {"passes": [to_json(k, n) for n, k in kinds]}, _table(kinds), as_json=as_json, quiet=quiet
    )


def _table(kinds: list[tuple[str, type[Pass]]]) -> Iterator[Line]:
    from pimc.cli.layout import Column, table
    from pimc.passes.pipeline import DEFAULT

    rows = []
    for name, kind in kinds:
        number = ", ".join(str(i) for i, n in enumerate(DEFAULT) if n == name)
        reached = kind.after.name.lower() if kind.after is not None else ""
        rows.append((number, name, kind.before.name.lower(), reached, first_sentence(kind)))
    columns = [Column("", ">", "dim"), Column("pass", "<", "bold"), Column("needs"), Column("reaches"), Column("")]
    yield from table(columns, rows)
    yield []
    yield [("  numbered ones are the pipeline of pimc compile; pimc passes NAME prints the docs of one", "dim")]


def first_sentence(thing: object) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(thing) or "").partition("\n\n")[0].split())
    end = text.find(". ")
    return text if end < 0 else text[: end + 1]


def _page(kind: type[Pass], name: str) -> Iterator[Line]:
    from pimc.cli.layout import Column, table
    from pimc.cli.screen import line

    reached = f", and then is {kind.after.name.lower()}" if kind.after is not None else ""
    yield [(name, "bold"), (f" · needs a graph that is {kind.before.name.lower()}{reached}", "")]
    yield line()
    for each in (inspect.getdoc(kind) or "").splitlines():
        yield line(f"  {each}")
    found = _options(kind)
    if found:
        yield line()
        columns = [Column("option", "<", "bold"), Column("type"), Column("default"), Column("")]
        yield from table(columns, [(f"{name}.{n}", t, d, " ".join(doc.split())) for n, t, d, doc in found])


def _options(kind: type[Pass]) -> list[tuple[str, str, str, str]]:
    """Name, type, default and docs of each option."""
    docs = _field_docs(kind)
    found = []
    for f in dataclasses.fields(kind):
        value = f.default if f.default is not dataclasses.MISSING else ""
        shown = str(value).lower() if isinstance(value, bool) or value is None else str(value)
        found.append((f.name, str(f.type), shown or '""', docs.get(f.name, "")))
    return found


def _field_docs(kind: type[Pass]) -> dict[str, str]:
    """The texts that stand under the fields of a class."""
    try:
        body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    except (OSError, TypeError, SyntaxError):
        return {}
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        match field, text:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(doc))):
                docs[name] = doc
    return docs


def to_json(kind: type[Pass], name: str) -> dict[str, Any]:
    return {
        "name": name,
        "needs": kind.before.name.lower(),
        "reaches": kind.after.name.lower() if kind.after is not None else None,
        "doc": inspect.getdoc(kind) or "",
        "options": [{"name": n, "type": t, "default": d, "doc": doc} for n, t, d, doc in _options(kind)],
    }
