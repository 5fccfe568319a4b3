"""The reference pages say everything that is declared, in Markdown that holds together."""

from __future__ import annotations

import dataclasses
import re
from functools import cache

import click
import pytest

import pimc
from docs import declared
from pimc.backends.engines import commands
from pimc.backends.isa import operands_of
from pimc.backends.target import describe
from pimc.backends.target_registry import BUILTIN, load_target
from pimc.cli.group import COMMANDS, cli
from pimc.cli.guard import STATUSES
from pimc.ir.diagnostics import Kind
from pimc.ir.op import REGISTRY, lookup
from pimc.passes.registry import BUILTIN as PASSES
from pimc.passes.registry import default_registry
from tests.test_docs import ROOT

REFERENCE = ROOT / "docs/reference"


@cache
def page(name: str) -> str:
    return declared.filled((REFERENCE / f"{name}.md").read_text())


def section(name: str, title: str) -> str:
    """What stands under a heading."""
    match = re.search(rf"^#+ {re.escape(title)}\n(.*?)(?=^## |^### |\Z)", page(name), re.MULTILINE | re.DOTALL)
    assert match is not None, f"{name} has no heading {title}"
    return match[1]


def test_every_part_is_in_a_page() -> None:
    marks = [mark for file in sorted(REFERENCE.glob("*.md")) for mark in declared._MARK.findall(file.read_text())]
    assert sorted(marks) == sorted(declared.PARTS)


@pytest.mark.parametrize("name", sorted(p.stem for p in REFERENCE.glob("*.md")))
def test_rows_of_a_table_have_its_columns(name: str) -> None:
    bars = re.compile(r"(?<!\\)\|")
    for table in re.findall(r"(?:^\|.*\n)+", page(name), re.MULTILINE):
        assert len({len(bars.findall(row)) for row in table.splitlines()}) == 1, table


def test_ops() -> None:
    lookup("add")
    said = page("ops")
    for d in (d for d in REGISTRY.values() if d.rule.__module__.startswith("pimc.")):
        assert f"\n### {declared._escaped(d.name)}\n" in said
        for name in (*d.attributes, *d.required):
            assert f"| `{name}` |" in section("ops", declared._escaped(d.name))


def test_passes() -> None:
    for name, _ in PASSES:
        said = section("passes", name)
        for option in dataclasses.fields(default_registry().load(name)):
            assert f"| `{name}.{option.name}` |" in said


def test_commands() -> None:
    said = page("commands")
    for name, command in commands().items():
        if command.__module__.startswith("pimc."):
            assert f"\n### {declared._escaped(name)}\n" in said
            for operand in operands_of(command):
                assert f"| `{operand}` |" in said


def test_targets_with_every_number_and_its_source() -> None:
    said = re.sub(r"\\(.)", r"\1", page("targets"))
    for name, _ in BUILTIN:
        part = said.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
        pending: list[tuple[str, object]] = list(describe(load_target(name)).items())
        while pending:
            key, value = pending.pop()
            if isinstance(value, dict):
                pending += value.items()
            elif isinstance(value, list):
                pending += [(k, v) for row in value if isinstance(row, dict) for k, v in row.items()]
            elif key == "source":
                assert " ".join(str(value).split()) in part
            elif key != "name":
                assert declared._text(value) in part, (name, key)


def test_command_line() -> None:
    root = click.Context(cli, info_name="pimc")
    for name in COMMANDS:
        said = section("command-line", f"pimc {name}")
        command = cli.get_command(root, name)
        assert command is not None
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                assert parameter.opts[-1] in said
        assert f"pimc {name}" in said


def test_diagnostics_and_python() -> None:
    said = page("diagnostics")
    for kind in Kind:
        assert f"| `{kind.code}` | `{kind.name}` |" in said
    for status in STATUSES:
        assert f"| {status} |" in said
    python = page("python")
    for name in pimc._PUBLIC:
        assert f"\n### {declared._escaped(name)}\n" in python
