"""From a placed graph with homes to a program: lower every node, fold repeated layers, split into streams."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import groupby
from math import prod

from pimc.backends.emitter import Emitter, Scratch
from pimc.backends.engines import packages
from pimc.backends.lowering import RULES, Lowering
from pimc.backends.lowering_memory import LoweringMemory
from pimc.backends.pim.mapping import why_no_values
from pimc.backends.planning import BufferSplit, Plan
from pimc.backends.program import Cost, Item, Loop, MapEntry, OpRow, Program, Step, Stream
from pimc.backends.ragged import groups
from pimc.backends.roll import roll
from pimc.backends.synchronize import split_streams
from pimc.backends.target import TargetSpec, describe, target_hash
from pimc.ir.diagnostics import InternalError, Kind, fail
from pimc.ir.facts import Layer, Phase, Placement, Ragged, Stage, Tile, Work
from pimc.ir.graph import Graph, Node, Role, Value
from pimc.ir.layout import Layout
from pimc.ir.memory import Home
from pimc.ir.ops.caches import CACHE_AXIS, IN_PLACE
from pimc.ir.requests import Batch, Rows
from pimc.ir.source import Derived, Source, roots


@cache
def load_rules() -> None:
    """Import every package of engines that has lowering rules, so that they register."""
    for package in packages().values():
        if importlib.util.find_spec(f"{package}.lower") is not None:
            importlib.import_module(f"{package}.lower")


@dataclass(frozen=True, slots=True)
class Part:
    """The nodes that the devices of one pipeline stage execute, and their memory plan."""

    nodes: tuple[Node, ...]
    devices: tuple[int, ...]
    plan: Plan
    stage: int = 0


@dataclass(frozen=True, slots=True)
class Sequential:
    """What the devices of each pipeline stage do, one command after another."""

    parts: tuple[Part, ...]
    items: tuple[tuple[Item, ...], ...]
    """of each part"""
    shared: Mapping[int, int]
    """for ops of layers that were folded into a loop, the op that stands for each"""


def emit(graph: Graph, spec: TargetSpec, plans: Mapping[int, Plan], dims: Mapping[str, int]) -> Program:
    """The program of a placed graph. `plans` are the memory plans by pipeline stage."""
    return program_of(graph, spec, sequential(graph, spec, plans), dims)


def sequential(
    graph: Graph, spec: TargetSpec, plans: Mapping[int, Plan], memory: LoweringMemory | None = None
) -> Sequential:
    """Lower a placed graph. memory: of nodes that were lowered before."""
    load_rules()
    ranks = _ranks(graph)
    parts: list[Part] = []
    for position, stage in enumerate(sorted(plans)):
        nodes = tuple(n for n in graph.scheduled() if stage_of(n) == stage)
        parts.append(Part(nodes, tuple(range(position * ranks, (position + 1) * ranks)), plans[stage], position))
    items: list[tuple[Item, ...]] = []
    shared: dict[int, int] = {}
    offset = 0
    for part in parts:
        own, folded = _folded(list(_lowered(part, spec, offset, memory=memory)))
        items.append(tuple(own))
        shared |= folded
        offset += len(part.nodes)
    return Sequential(tuple(parts), tuple(items), shared)


def program_of(graph: Graph, spec: TargetSpec, order: Sequential, dims: Mapping[str, int]) -> Program:
    """Split what was lowered into streams."""
    parts = order.parts
    rows = [row for part in parts for row in _op_rows(part)]
    for op, first in order.shared.items():
        rows[op] = replace(rows[op], shares=first)
    streams = [s for part, items in zip(parts, order.items, strict=True) for s in _streams(items, part.devices, spec)]
    extent: dict[str, int] = {}
    for part in parts:
        for space, used in part.plan.used.items():
            extent[space] = max(extent.get(space, 0), used)
    return Program(
        graph=graph.name,
        dims=dict(dims),
        phase=phase_of(graph).value,
        target=describe(spec),
        target_name=spec.name,
        target_hash=target_hash(spec),
        devices=len(parts[0].devices) * len(parts) if parts else 1,
        streams=tuple(streams),
        memory=tuple(entry for part in parts for entry in _memory_map(part, graph)),
        ops=tuple(rows),
        inputs=tuple(v.name for v in graph.inputs),
        outputs=tuple(name for name, _ in graph.outputs),
        requests=graph.batch.requests if graph.batch is not None else (),
        extent=extent,
        no_values=why_no_values(spec, streams),
    )


def emit_node(node: Node, spec: TargetSpec, plan: Plan, limited: Callable[[str], None] | None = None) -> Program:
    """A program of one node alone, for estimates. limited: is told what limits a contraction."""
    load_rules()
    part = Part((node,), (0,), plan)
    row = OpRow(node.name, node.op.name, "", (), "", "", _engine(node), "", 0, 0)
    items, _ = _folded(list(_lowered(part, spec, 0, limited)))
    return Program(
        graph=node.name, dims={}, phase="", target=describe(spec), target_name=spec.name, target_hash="",
        devices=1, streams=tuple(_streams(items, (0,), spec)), memory=(), ops=(row,), extent=dict(plan.used),
    )  # fmt: skip


def stage_of(node: Node) -> int:
    fact = node.fact(Stage)
    return fact.index if fact is not None else 0


def phase_of(graph: Graph) -> Phase:
    """The phase that all nodes share, or mixed."""
    found = {fact for n in graph.order() if (fact := n.fact(Phase)) is not None}
    return found.pop() if len(found) == 1 else Phase.MIXED


def _ranks(graph: Graph) -> int:
    """How many devices execute one stage: the tensor-parallel group of its collectives."""
    groups = [g for n in graph.order() if isinstance(g := n.attributes.get("group"), int)]
    return max([1, *groups])


# -- streams ----------------------------------------------------------------------------------------------------------


def _streams(items: Sequence[Item], devices: tuple[int, ...], spec: TargetSpec) -> Iterator[Stream]:
    instances = {e.name: e.instances for e in spec.engines()}
    split = split_streams(
        items,
        devices=devices[-1] + 1,
        instances=max(instances.values()),
        row_stride=spec.dram.geometry.stride_row,
    )
    for engine, stream in split.items():
        for group, own in _by_instance(stream, instances[engine]):
            yield Stream(engine, devices, group, own)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """What one layer (or one node outside of layers) emits."""

    group: int
    index: int
    items: tuple[Item, ...]
    ops: range


def _lowered(
    part: Part,
    spec: TargetSpec,
    first_op: int,
    limited: Callable[[str], None] | None = None,
    memory: LoweringMemory | None = None,
) -> Iterator[_Stretch]:
    split = BufferSplit.beside(spec, part.plan.homes.values())
    emitter = Emitter()
    at = Lowering(
        spec,
        emitter,
        Scratch(split.resident, split.scratch),
        part.plan.homes,
        part.plan.staging,
        part.stage,
        len(part.devices),
        limited=limited,
    )
    current: tuple[int, int] | None = None
    begin = first_op
    for offset, node in enumerate(part.nodes):
        layer = node.fact(Layer)
        key = (layer.group, layer.index) if layer is not None else (-1, offset)
        if current is not None and key != current:
            yield _Stretch(*current, emitter.take(), range(begin, first_op + offset))
            at.scratch.restart()
            begin = first_op + offset
        current = key
        emitter.op = first_op + offset
        if memory is None:
            lower(node, at)
        else:
            memory.lower(node, at, lower)
    if current is not None:
        yield _Stretch(*current, emitter.take(), range(begin, first_op + len(part.nodes)))


def lower(node: Node, at: Lowering) -> None:
    """Emit one node by the rule of its engine's kind."""
    engine = _engine(node)
    kind = next((e.kind for e in at.spec.engines() if e.name == engine), engine)
    rule = RULES.get((kind, node.op.name))
    if rule is None:
        raise InternalError(f"no lowering rule for {node.op.name} on {kind} (%{node.name})")
    tile = node.fact(Tile)
    at = at if tile is None else replace(at, tile=tile)
    if node.fact(Ragged) is not None and kind != "pim":
        for part, there in groups(node, at):
            rule(part, there)
    else:
        rule(node, at)


def tile_of(node: Node, spec: TargetSpec, homes: Mapping[Value, Home]) -> Tile | None:
    """How the rule of a node's engine cuts it, found by lowering it for nothing."""
    load_rules()
    found: list[Tile] = []
    split = BufferSplit.beside(spec, homes.values())
    lower(node, Lowering(spec, Emitter(), Scratch(split.resident, split.scratch), homes, tiled=found.append))
    if not found:
        return None
    largest = max(found, key=lambda t: t.m * t.n * t.k)
    return replace(largest, tiles=sum(t.tiles for t in found))


def _engine(node: Node) -> str:
    placement = node.fact(Placement)
    if placement is None:
        raise InternalError(f"%{node.name} has no placement")
    return placement.engine


def _folded(stretches: Sequence[_Stretch]) -> tuple[list[Item], dict[int, int]]:
    """Fold runs of layers of one group into loops; also, for each op folded away, the op that stands for it."""
    free = 1 + max((v for s in stretches for v in _variables(s.items)), default=-1)
    items: list[Item] = []
    shared: dict[int, int] = {}
    at = 0
    while at < len(stretches):
        end = at + 1
        if stretches[at].group >= 0:
            while end < len(stretches) and stretches[end].group == stretches[at].group:
                end += 1
        run = stretches[at:end]
        for rolled in roll([s.items for s in run], free):
            free += 1
            items += rolled.items
            for position in range(rolled.first + rolled.period, rolled.first + rolled.period * rolled.count):
                first = run[rolled.first + (position - rolled.first) % rolled.period]
                shared |= dict(zip(run[position].ops, first.ops, strict=True))
        at = end
    return items, shared


def _variables(items: Sequence[Item]) -> Iterator[int]:
    for item in items:
        if isinstance(item, Loop):
            yield item.variable
            yield from _variables(item.body)


def _by_instance(stream: Sequence[Item], instances: int) -> Iterator[tuple[tuple[int, ...], tuple[Item, ...]]]:
    """Group the instances of an engine by what they execute; those that execute nothing are left out."""
    sets = {s.instances for s in _all_steps(stream) if s.instances is not None}
    if not sets:
        yield tuple(range(instances)), tuple(stream)
        return
    everyone = any(s.instances is None and s.command.unit for s in _all_steps(stream))
    groups: dict[tuple[bool, ...], list[int]] = {}
    for instance in range(instances):
        groups.setdefault(tuple(instance in members for members in sorted(sets)), []).append(instance)
    for key, members in groups.items():
        if any(key) or everyone:
            yield tuple(members), _only(stream, members[0])


def _only(items: Sequence[Item], instance: int) -> tuple[Item, ...]:
    kept: list[Item] = []
    for item in items:
        if isinstance(item, Loop):
            body = _only(item.body, instance)
            if body:
                kept.append(Loop(item.variable, item.count, body))
        elif item.instances is None or instance in item.instances:
            kept.append(Step(item.engine, item.command, item.op))
    return tuple(kept)


def _all_steps(items: Sequence[Item]) -> Iterator[Step]:
    for item in items:
        if isinstance(item, Loop):
            yield from _all_steps(item.body)
        else:
            yield item


# -- tables -----------------------------------------------------------------------------------------------------------


def _op_rows(part: Part) -> Iterator[OpRow]:
    for node in part.nodes:
        phase, work, placement, layer = node.fact(Phase), node.fact(Work), node.fact(Placement), node.fact(Layer)
        yield OpRow(
            name=node.name,
            op=node.op.name,
            source="; ".join(str(s) for s in roots(node.source)[:3]),
            passes=tuple(_passes(node.source)),
            phase=phase.value if phase is not None else "",
            nature=work.nature.value if work is not None else "",
            engine=_engine(node),
            reason=placement.reason if placement is not None else "",
            flops=work.flops if work is not None else 0,
            bytes=work.bytes if work is not None else 0,
            layer=layer.index if layer is not None else -1,
            costs=tuple(_costs(placement)) if placement is not None else (),
        )


def _costs(placement: Placement) -> Iterator[Cost]:
    """What the placement was decided by; nothing where there was nothing to decide."""
    if placement.seconds:
        yield Cost(placement.engine, placement.seconds)
        for other in placement.alternatives:
            yield Cost(other.engine, other.seconds, other.illegal)


def _passes(source: Source | None) -> Iterator[str]:
    while isinstance(source, Derived):
        yield source.pass_name
        source = source.origins[0] if source.origins else None


def _memory_map(part: Part, graph: Graph) -> Iterator[MapEntry]:
    results = {r for n in part.nodes for r in n.results}
    used = {v for n in part.nodes for v in n.inputs()}
    appended = {n.result: n.operands[0] for n in part.nodes if n.op.name in IN_PLACE}
    for value in part.plan.homes:
        if value.role is Role.RESULT:
            continue
        if value in used or value in graph.inputs or graph.is_output(value):
            yield from _entries(value.name, value, part, value.role.value, graph)
    named: dict[Value, str] = {}
    for name, value in graph.outputs:
        given = value.role is not Role.RESULT
        if value not in part.plan.homes or not (given or value in results) or (given and name == value.name):
            continue
        past = value if given else appended.get(value)
        alias = past.name if past is not None and past.role is not Role.RESULT else named.get(value)
        named.setdefault(value, name)
        yield from _entries(name, value, part, "output", graph, alias)


def _entries(
    name: str, value: Value, part: Part, role: str, graph: Graph, alias: str | None = None
) -> Iterator[MapEntry]:
    """The place of a tensor; one for each group of requests where these have lengths of their own."""
    home = part.plan.homes[value]
    shape, batch = value.type.static_shape, graph.batch
    if batch is not None and name in batch.outputs and shape[:1] != (len(batch.requests),):
        raise fail(
            Kind.REQUESTS_BAD,
            f"output '{name}' ({value.type}) has no axis of {len(batch.requests)} requests",
            value.source,
            help="give it the batch as its first axis",
        )
    whole = MapEntry(
        name=name,
        role=role,
        space=home.space,
        dtype=home.dtype,
        layout=home.layout,
        logical=value.type.dtype,
        devices=part.devices,
        shard=value.shard,
        contents=value.contents,
        alias=alias,
        extents=shape if shape != home.layout.shape else None,
        rows=batch.rows_of(name) if batch is not None else None,
    )
    if batch is None or not home.parts:
        yield whole
        return
    for layout, members in _request_places(home.parts, batch):
        requests = [batch.requests[i] for i in members]
        lengths = tuple(r.past + (r.new if role == "output" else 0) for r in requests)
        rows = Rows(tuple(r.row for r in requests), shape[0], lengths, CACHE_AXIS, shape[CACHE_AXIS])
        extents = (len(members), shape[1], max(lengths), shape[3])
        yield replace(whole, layout=layout, rows=rows, extents=extents)


def _request_places(parts: Sequence[Layout], batch: Batch) -> Iterator[tuple[Layout, range]]:
    """Neighbouring requests of a group that need equally many rows of their channels, and no more than these rows.

    What a layout of a group has beyond them may belong to other requests; nobody looks at it.
    """
    start = 0
    for layout, size in zip(parts, batch.groups, strict=True):
        if batch.requests[start].channel is None:
            yield layout, range(start, start + size)
            start += size
            continue
        (_, *inner) = layout.dims[CACHE_AXIS]
        period = prod(count for count, _ in inner)
        need = [-(-batch.lengths[start + i] // period) for i in range(size)]
        for rows, run in groupby(range(size), key=lambda i: need[i]):
            members = list(run)
            own = layout.sliced(0, members[0], members[-1] + 1) if len(members) < size else layout
            cut = own.sliced(CACHE_AXIS, 0, rows * period) if own is not None and inner else own
            if cut is None:
                raise InternalError(f"requests {start + members[0]} of {layout} are not a layout")
            yield cut, range(start + members[0], start + members[-1] + 1)
        start += size
