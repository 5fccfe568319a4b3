"""`pimc explain`: why each op is where it is, and what it would cost elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option
from pimc.cli.complete_inside import OpNames, ops_of_model
from pimc.record import record

if TYPE_CHECKING:
    from pimc.backends.machine import Machine
    from pimc.cli.screen import Line
    from pimc.driver import Lowered
    from pimc.ir.facts import Alternative
    from pimc.ir.graph import Node


@command(
    "explain",
    example="""
pimc explain models/tiny-llama.pimc -t neupims --dim past=127
pimc explain models/bench/gpt3-7b-layers.pimc -t neupims --dim batch=64 --dim past=511 --op attention_scores
""",
)
@click.argument("model", metavar="MODEL")
@o.target_option
@o.set_option
@o.parallel_option
@o.dims_option
@o.phase_option
@o.shapes_option
@option(o.VALUES, "--values", metavar="FILE.npz", help="Bind dimensions from the shapes of the arrays in:<input>.")
@option(o.OUTPUT, "--op", type=OpNames(ops_of_model), help="Ops of this name, weight or kind only; a part will do.")
@o.pass_options
@o.json_option
@o.quiet_option
def explain(**given: Any) -> None:
    """Say for each op of MODEL which engine runs it and why, and what each other engine would take for it.

    Identical layers are shown once. The times are those of the op's own commands on an idle machine.
    """
    from pimc.cli.arrays import read_values
    from pimc.cli.compile import options_of
    from pimc.cli.progress import Progress
    from pimc.cli.screen import write_page, write_text
    from pimc.driver import lower_model
    from pimc.execution import given_inputs

    inputs = given_inputs(read_values(given["values"])) if given["values"] else None
    with Progress(given["model"], quiet=given["quiet"]) as progress:
        from dataclasses import replace

        options = replace(options_of(given), observers=(progress,), until=_last_pass(given))
        lowered = lower_model(given["model"], given["target"], options, inputs)
    found = _wanted(_explained(lowered), given["op"])
    if given["as_json"]:
        plain = {
            "model": lowered.graph.name,
            "target": lowered.machine.name,
            "dims": dict(lowered.dims),
            "ops": [e.to_json() for e in found],
        }
        write_text(json.dumps(plain, indent=2) + "\n")
    elif not given["quiet"]:
        write_page(_page(lowered, found))


def _last_pass(given: dict[str, Any]) -> str:
    from pimc.cli.compile import options_of
    from pimc.cli.compile_run import last_pass

    return last_pass(options_of(given), "placed")


@record
class Explained:
    """One op, or the same op of identical layers."""

    nodes: tuple[Node, ...]
    seconds: float | None
    """on the engine that runs it; None where no commands were timed"""
    others: tuple[Alternative, ...]

    @property
    def node(self) -> Node:
        return self.nodes[0]

    @property
    def name(self) -> str:
        from pimc.sim.op_groups import common_name

        return common_name([n.name for n in self.nodes])

    @property
    def weight(self) -> str:
        """The weight that it works with, which tells products apart."""
        from pimc.sim.op_groups import common_name

        return common_name([n.weight() for n in self.nodes])

    def to_json(self) -> dict[str, Any]:
        from pimc.ir.facts import Phase, Placement, Work

        placement, work, phase = self.node.fact(Placement), self.node.fact(Work), self.node.fact(Phase)
        return {
            "name": self.name,
            "nodes": [n.name for n in self.nodes],
            "op": self.node.op.name,
            "weight": self.weight,
            "phase": phase.value if phase else None,
            "nature": work.nature.value if work else None,
            "why_nature": work.why if work else "",
            "engine": placement.engine if placement else None,
            "reason": placement.reason if placement else "",
            "seconds": self.seconds,
            "alternatives": [
                {"engine": a.engine, "illegal": a.illegal} if a.illegal else {"engine": a.engine, "seconds": a.seconds}
                for a in self.others
            ],
        }


def _explained(lowered: Lowered) -> list[Explained]:
    """The ops in order, those in the same place of identical layers together."""
    from collections import Counter

    from pimc.ir.facts import Layer

    groups: dict[tuple[object, ...], list[Node]] = {}
    places: Counter[tuple[int, int]] = Counter()
    for node in lowered.graph.order():
        layer = node.fact(Layer)
        key: tuple[object, ...] = (node.uid,)
        if layer is not None:
            key = (layer.group, places[layer.group, layer.index], node.op.name)
            places[layer.group, layer.index] += 1
        groups.setdefault(key, []).append(node)
    return [_one(tuple(nodes), lowered.machine) for nodes in groups.values()]


def _one(nodes: tuple[Node, ...], machine: Machine) -> Explained:
    """What the op takes on each engine; what only changes how elements are addressed has no time of its own."""
    from pimc.ir.facts import Alternative, Placement
    from pimc.ir.op import OpClass
    from pimc.ir.views import is_view_op

    node = nodes[0]
    placement = node.fact(Placement)
    assert placement is not None
    if is_view_op(node) or node.op.cls is OpClass.COLLECTIVE:
        return Explained(nodes, None, ())
    others, seconds = list[Alternative](), None
    refused = {other.engine: other.illegal for other in placement.alternatives}
    for engine in machine.engines():
        refusal = refused.get(engine.name) or machine.why_not(node, engine)
        if engine.name == placement.engine:
            seconds = machine.estimate(node, engine)
        elif engine.kind != "link":
            others.append(Alternative(engine.name, 0.0 if refusal else machine.estimate(node, engine), illegal=refusal))
    return Explained(nodes, seconds, tuple(others))


def _wanted(found: list[Explained], op: str | None) -> list[Explained]:
    """The ops that are asked for. Raises CompileError (NAME_UNKNOWN) where there is none."""
    if op is None:
        return found
    exact = [e for e in found if op == e.node.op.name or any(op in (n.name, n.weight()) for n in e.nodes)]
    wanted = exact or [e for e in found if any(op in n.name or op in n.weight() for n in e.nodes)]
    if not wanted:
        from pimc.ir.diagnostics import Kind, did_you_mean, fail

        names = {t for e in found for n in e.nodes for t in (n.op.name, n.name, n.weight()) if t}
        raise fail(Kind.NAME_UNKNOWN, f"the model has no op '{op}' once it is canonical", help=did_you_mean(op, names))
    return wanted


def _page(lowered: Lowered, found: list[Explained]) -> Iterator[Line]:
    from pimc.cli.screen import line
    from pimc.cli.tables import title

    yield from title(lowered.graph.name, lowered.machine.name, _phases(found), lowered.dims, 1)
    views = [e for e in found if e.seconds is None and not e.others and len(found) > 1]
    for e in found:
        if e not in views:
            yield line()
            yield from _entry(e)
    if views:
        number = sum(len(e.nodes) for e in views)
        yield line()
        what = "only change how elements are addressed, or join devices"
        yield line(f"and {number} that {what} (--op NAME shows them)", "dim")


def _phases(found: list[Explained]) -> str:
    from pimc.ir.facts import Phase

    phases = {phase.value for e in found if (phase := e.node.fact(Phase)) is not None}
    return ", ".join(sorted(phases))


def _entry(e: Explained) -> Iterator[Line]:
    from pimc.cli.layout import TIMES, count_text, shortened, significant, size_text, time_text
    from pimc.ir.facts import Placement, Work

    placement, work = e.node.fact(Placement), e.node.fact(Work)
    assert placement is not None
    times = f" {TIMES}{len(e.nodes)}" if len(e.nodes) > 1 else ""
    head = f"{times}  {e.node.op.name}" + (f" with {e.weight}" if e.weight else "")
    yield [(shortened(e.name, 60), "bold"), (head, ""), (" → ", "dim"), (placement.engine, "bold green")]
    yield [("  why    ", "dim"), (placement.reason, "")]
    if work is not None and work.bytes:
        numbers = f"{count_text(work.flops, 'FLOP')}, {size_text(work.bytes)}, {significant(work.intensity)} FLOP/B"
        why = f"; {work.why}" if work.why else ""
        yield [("  work   ", "dim"), (f"{work.nature.value}: {numbers}{why}", "")]
    if e.seconds is not None:
        yield [("  time   ", "dim"), (f"{placement.engine} {time_text(e.seconds)}", "green")]
    for a in e.others:
        yield [("  else   ", "dim"), _elsewhere(a, e.seconds)]


def _elsewhere(a: Alternative, seconds: float | None) -> tuple[str, str]:
    from pimc.cli.layout import significant, time_text

    if a.illegal:
        return f"{a.engine} cannot: {a.illegal}", "dim"
    ratio = f", {significant(a.seconds / seconds)} times as long" if seconds else ""
    return f"{a.engine} {time_text(a.seconds)}{ratio}", ""
