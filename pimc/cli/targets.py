"""`pimc targets`: the machines there are, and the numbers of one with their sources."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import complete
from pimc.cli import options as o
from pimc.cli.command import command, option

if TYPE_CHECKING:
    from pimc.backends.target import TargetSpec
    from pimc.cli.screen import Line

COMPUTING = ("npu", "pim", "pnm")
"""Kinds of engines that do arithmetic."""
_LONG_LIST = 8


@command("targets", example="pimc targets\npimc targets neupims\npimc targets --schema > target.schema.json")
@click.argument("name", type=complete.TargetName(), required=False, metavar="[NAME]")
@o.set_option
@option(o.OUTPUT, "--schema", is_flag=True, help="The JSON schema of a target file, for editors.")
@o.json_option
@o.quiet_option
@option(o.OUTPUT, "-v", "--verbose", count=True, help="Long lists in full.")
def targets(
    name: str | None, overrides: tuple[str, ...], schema: bool, as_json: bool, quiet: bool, verbose: int
) -> None:
    """List the machines; for NAME (or a YAML file) all numbers, where they come from, and what follows from them."""
    from pimc.backends.target_registry import load_target, target_names
    from pimc.cli.screen import write_answer, write_text

    if overrides and not name:
        raise click.UsageError("--set changes one machine: give its name")
    if schema:
        from pimc.backends.target import json_schema

        write_text(json.dumps(json_schema(), indent=2) + "\n")
    elif name:
        spec = load_target(name, overrides)
        write_answer(lambda: to_json(spec), _page(spec, verbose), as_json=as_json, quiet=quiet)
    else:
        names = target_names()
        write_answer(
            lambda: {"targets": [_summary(load_target(n)) for n in names]}, _table(names), as_json=as_json, quiet=quiet
        )


def _table(names: list[str]) -> Iterator[Line]:
    from pimc.backends.target_registry import load_target
    from pimc.cli.layout import Column, memory_text, size_text, table
    from pimc.ir.diagnostics import CompileError

    rows = []
    for name in names:
        try:
            spec = load_target(name)
        except CompileError as error:
            rows.append((name, "", "", f"cannot be loaded: {error.diagnostics[0].message}"))
            continue
        engines = ", ".join(dict.fromkeys(e.kind for e in spec.engines() if e.kind in COMPUTING))
        memory = f"{memory_text(spec.dram.bytes)}, {size_text(spec.dram.bandwidth)}/s"
        rows.append((name, engines, memory, spec.description))
    yield from table([Column("target", "<", "bold"), Column("computes"), Column("memory"), Column("")], rows)
    yield []
    yield [("  pimc targets NAME prints the numbers of one; a YAML file of one's own is a target too", "dim")]


def _summary(spec: TargetSpec) -> dict[str, Any]:
    from pimc.backends.target import target_hash

    return {
        "name": spec.name,
        "description": spec.description,
        "hash": target_hash(spec),
        "main_clock": {"engine": spec.main_clock, "hz": spec.clock},
        "devices": spec.system.devices,
        "engines": [
            {"name": e.name, "kind": e.kind, "clock_ps": e.clock_ps, "instances": e.instances} for e in spec.engines()
        ],
    }


def to_json(spec: TargetSpec) -> dict[str, Any]:
    from pimc.backends.target import describe

    return {**_summary(spec), "numbers": describe(spec), "derived": _derived(spec)}


def _derived(spec: TargetSpec) -> dict[str, Any]:
    """What follows from the numbers, in the units of the names."""
    found: dict[str, Any] = {
        "dram_bytes": spec.dram.bytes,
        "dram_banks_per_channel": spec.dram.banks,
        "dram_bytes_per_s": spec.dram.bandwidth,
        "dram_clocks": dict(spec.cycles),
        "link_bytes_per_s": spec.system.link_bandwidth,
    }
    if spec.npu is not None:
        found["npu_flops_per_s"] = 2 * spec.npu.macs_per_cycle * spec.npu.clock
    if spec.pim is not None:
        found["pim_macs_per_command"] = spec.pim.macs_per_bank * spec.dram.banks * spec.dram.channels
    return found


def _page(spec: TargetSpec, verbose: int) -> Iterator[Line]:
    from pimc.backends.quantity import frequency_text
    from pimc.backends.target import describe, target_hash
    from pimc.cli.layout import Column, table
    from pimc.cli.screen import line

    yield [(spec.name, "bold"), (f" · {spec.description}", "")]
    yield line(f"  hash {target_hash(spec)[:16]} · cycles of a report are of the {spec.main_clock} clock, "
               f"{frequency_text(spec.clock)}", "dim")  # fmt: skip
    yield line()
    columns = [Column("engine", "<", "bold"), Column("kind"), Column("clock", ">"), Column("instances", ">")]
    rows = [(e.name, e.kind, frequency_text(round(1e12 / e.clock_ps)), str(e.instances)) for e in spec.engines()]
    yield from table(columns, rows)
    plain = describe(spec)
    loose = {k: v for k, v in plain.items() if not isinstance(v, dict) and k not in ("name", "description")}
    yield from _group("", loose, 1, verbose)
    for key, value in plain.items():
        if isinstance(value, dict) and value:
            yield from _group(key, value, 1, verbose)
    yield line()
    yield line("derived", "bold")
    yield from _derived_lines(spec)


def _group(title: str, group: Mapping[str, Any], depth: int, verbose: int) -> Iterator[Line]:
    """The numbers of a group, its source, then the groups in it."""
    from pimc.cli.layout import Column, table
    from pimc.cli.screen import line

    pad = "  " * depth
    yield line()
    if title:
        yield line(f"{'  ' * (depth - 1)}{title}", "bold")
    if "source" in group:
        yield line(f"{pad}source: {group['source']}", "dim")
    flat = [(k, _text(v, verbose)) for k, v in group.items() if not isinstance(v, dict) and k != "source"]
    yield from table([Column(""), Column("")], flat, pad)
    for key, value in group.items():
        if isinstance(value, dict) and value:
            yield from _group(f"{title}.{key}" if title else key, value, depth + 1, verbose)


def _text(value: Any, verbose: int) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        if len(value) > _LONG_LIST and not verbose:
            return f"{len(value)} rows (-v shows them)"
        return "; ".join(" ".join(str(x) for x in v.values()) if isinstance(v, dict) else str(v) for v in value)
    return str(value)


def _derived_lines(spec: TargetSpec) -> Iterator[Line]:
    from pimc.cli.layout import Column, count_text, memory_text, size_text, table

    dram = spec.dram
    rows = [
        (
            "memory of a device",
            f"{memory_text(dram.bytes)}: {dram.channels} channels, {dram.banks} banks, {dram.rows} rows",
        ),
        ("bandwidth of its memory", f"{size_text(dram.bandwidth)}/s, {size_text(dram.channel_bandwidth)}/s a channel"),
        ("bandwidth of its link", f"{size_text(spec.system.link_bandwidth)}/s each way"),
    ]
    if spec.npu is not None:
        rows.append(("peak of the arrays", f"{count_text(2 * spec.npu.macs_per_cycle * spec.npu.clock, 'FLOP/s')}"))
    yield from table([Column(""), Column("")], rows)
    clocks = ", ".join(f"{name} {number}" for name, number in sorted(spec.cycles.items()))
    yield [("  DRAM clocks  ", "dim"), (clocks, "")]
