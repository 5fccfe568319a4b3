"""From a placed graph with homes to a program: lower every node, fold repeated layers, split into streams."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import replace
from functools import cache, partial
from itertools import groupby, takewhile
from math import prod

from pimc.backends.dma.isa import MapBlocks
from pimc.backends.emitter import Emitter, MissingEngineError, Scratch
from pimc.backends.engines import packages
from pimc.backends.lowering import CHAIN_RULES, RULES, Cut, Lowering
from pimc.backends.lowering_memory import LoweringMemory, seen_by_rules
from pimc.backends.npu.fences import spare_fences
from pimc.backends.pim.mapping import mapping_of, why_no_values
from pimc.backends.planning import BufferSplit, Plan, nodes_by_stage
from pimc.backends.program import Cost, Item, Loop, MapEntry, OpRow, Program, Step, Stream
from pimc.backends.ragged import groups
from pimc.backends.repeats import Further, Repeats
from pimc.backends.roll import roll
from pimc.backends.synchronize import Barrier, split_streams
from pimc.backends.target import TargetSpec, describe, target_hash
from pimc.ir.blocks import Window
from pimc.ir.chains import chains_in, twin_in
from pimc.ir.diagnostics import InternalError, Kind, fail
from pimc.ir.facts import (
    Beat,
    Epilogue,
    Layer,
    Phase,
    Placement,
    Position,
    Prologue,
    Queue,
    Ragged,
    Stage,
    Tile,
    Work,
)
from pimc.ir.graph import Graph, Node, Role, Value
from pimc.ir.layout import Layout
from pimc.ir.memory import Home
from pimc.ir.op import OpClass
from pimc.ir.ops.caches import CACHE_AXIS, IN_PLACE
from pimc.ir.requests import Batch, Rows
from pimc.ir.source import Derived, Source, roots
from pimc.ir.types import DType
from pimc.ir.weights import Inline
from pimc.record import record


def load_rules(spec: TargetSpec) -> None:
    """Import the lowering rules of a target's engines, so that they register."""
    for kind in sorted({engine.kind for engine in spec.engines()}):
        _load_rules_of(kind)


@cache
def _load_rules_of(kind: str) -> None:
    """Some kinds have none."""
    package = packages().get(kind)
    if package is not None and importlib.util.find_spec(f"{package}.lower") is not None:
        importlib.import_module(f"{package}.lower")


PEERS = ("to", "from_")
"""Attributes that name another stage."""


@record
class Part:
    """The nodes that the devices of one pipeline stage execute, and their memory plan."""

    nodes: tuple[Node, ...]
    devices: tuple[int, ...]
    plan: Plan
    stage: int = 0
    first_op: int = 0
    """the row of its first node in the table of ops"""


@record
class Sequential:
    """What the devices of each pipeline stage do, one command after another."""

    parts: tuple[Part, ...]
    items: tuple[tuple[Item, ...], ...]
    """of each part; parts that do the same have the same object"""
    shared: Mapping[int, int]
    """for ops of layers that were folded into a loop, the op that stands for each"""
    barriers: tuple[tuple[Barrier, ...], ...] = ()
    """of each part; empty: there are none"""


def emit(graph: Graph, spec: TargetSpec, plans: Mapping[int, Plan], dims: Mapping[str, int]) -> Program:
    """The program of a placed graph. `plans` are the memory plans by pipeline stage."""
    return program_of(graph, spec, sequential(graph, spec, plans), dims)


def sequential(
    graph: Graph, spec: TargetSpec, plans: Mapping[int, Plan], memory: LoweringMemory | None = None
) -> Sequential:
    """Lower a placed graph. memory: of nodes that were lowered before."""
    load_rules(spec)
    ranks = _ranks(graph)
    parts: list[Part] = []
    offset = 0
    for position, own_nodes in enumerate(nodes_by_stage(graph).values()):
        nodes = tuple(own_nodes.scheduled)
        devices = tuple(range(position * ranks, (position + 1) * ranks))
        parts.append(Part(nodes, devices, plans[own_nodes.stage], position, offset))
        offset += len(nodes)
    items: list[tuple[Item, ...]] = []
    barriers: list[tuple[Barrier, ...]] = []
    shared: dict[int, int] = {}
    known: dict[Hashable, tuple[Part, tuple[Item, ...], tuple[Barrier, ...]]] = {}
    for part in parts:
        key = _work_of(part) if len(parts) > 1 else None
        if key in known:
            first, own, orders = known[key]
            twins = range(len(part.nodes))
            shared |= {part.first_op + i: shared.get(first.first_op + i, first.first_op + i) for i in twins}
        else:
            lowered = _lowered(part, spec, part.first_op, memory=memory)
            folded_items, folded, orders = _folded(_fenced_as_needed(lowered))
            own = tuple(folded_items)
            shared |= folded
            if key is not None:
                known[key] = part, own, orders
        items.append(own)
        barriers.append(orders)
    return Sequential(tuple(parts), tuple(items), shared, tuple(barriers))


def _work_of(part: Part) -> Hashable | None:
    """All that lowering looks at in a part: parts where that is equal do the same. None: too much to compare."""
    rows: list[Hashable] = []
    layers: dict[int, int] = {}
    for node in part.nodes:
        seen = _values_of(node, part)
        layer = node.fact(Layer)
        if seen is None:
            return None
        place = None if layer is None else layer.index - layers.setdefault(layer.group, layer.index)
        peers = [(n, v - part.stage if n in PEERS and isinstance(v, int) else v) for n, v in node.attributes.items()]
        facts = tuple(node.fact(kind) for kind in (Tile, Ragged, Beat, Epilogue, Prologue))
        placement = node.fact(Placement)
        engine = None if placement is None else (placement.engine, placement.channels)
        rows.append((node.op.name, tuple(sorted(peers)), place, engine, *facts, seen))
    ends = BufferSplit.ends(part.plan.homes.values())
    return tuple(rows), ends, part.plan.staging, len(part.devices)


def _values_of(node: Node, part: Part) -> Hashable | None:
    values = [*node.operands, *node.results]
    seen = [None if v is None else seen_by_rules(node, v, part.plan.homes) for v in values]
    missing = any(s is None and v is not None for s, v in zip(seen, values, strict=True))
    return None if missing else tuple(seen)


def program_of(graph: Graph, spec: TargetSpec, order: Sequential, dims: Mapping[str, int]) -> Program:
    """Split what was lowered into streams."""
    parts = order.parts
    rows = [row for part in parts for row in op_rows(part.nodes)]
    for op, first in order.shared.items():
        rows[op] = replace(rows[op], shares=first)
    streams = _all_streams(order, spec)
    extent: dict[str, int] = {}
    stages, turns = pipeline_of(graph)
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
        inputs=tuple(dict.fromkeys(_called(graph, v.name) for v in graph.inputs)),
        outputs=tuple(dict.fromkeys(_called(graph, name) for name, _ in graph.outputs)),
        requests=graph.batch.requests if graph.batch is not None else (),
        extent=extent,
        no_values=why_no_values(
            spec, streams, of_requests=any(n.fact(Ragged) is not None for part in parts for n in part.nodes)
        ),
        stages=stages,
        turns=turns,
    )


def emit_node(node: Node, spec: TargetSpec, plan: Plan, told: Callable[[Cut], None] | None = None) -> Program:
    """A program of one node alone, for estimates. told: is told how a contraction is cut."""
    return emit_nodes([node], spec, plan, told)


def emit_nodes(
    nodes: Sequence[Node], spec: TargetSpec, plan: Plan, told: Callable[[Cut], None] | None = None
) -> Program:
    """The same of a few nodes that follow each other."""
    load_rules(spec)
    group = nodes[0].attributes.get("group")
    part = Part(tuple(nodes), tuple(range(group if isinstance(group, int) else 1)), plan)
    rows = tuple(OpRow(node.name, node.op.name, "", (), "", "", _engine(node), "", 0, 0) for node in nodes)
    items, _, _ = _folded(_fenced_as_needed(_lowered(part, spec, 0, told)))
    return Program(
        graph=nodes[0].name, dims={}, phase="", target=describe(spec), target_name=spec.name, target_hash="",
        devices=len(part.devices), streams=tuple(streams_of(items, part.devices, spec)), memory=(), ops=rows,
        extent=dict(plan.used),
    )  # fmt: skip


def stage_of(node: Node) -> int:
    fact = node.fact(Stage)
    return fact.index if fact is not None else 0


def pipeline_of(graph: Graph) -> tuple[int, int]:
    """How many pipeline stages there are, and how many of them take turns on the same devices."""
    stages = {(fact.index, fact.turn) for n in graph.order() if (fact := n.fact(Stage)) is not None}
    return max(1, len(stages)), 1 + max((turn for _, turn in stages), default=0)


def phase_of(graph: Graph) -> Phase:
    """The phase that all nodes share, or mixed."""
    found = {fact for n in graph.order() if (fact := n.fact(Phase)) is not None}
    return found.pop() if len(found) == 1 else Phase.MIXED


def _ranks(graph: Graph) -> int:
    """How many devices execute one stage: the tensor-parallel group of its collectives."""
    groups = [g for n in graph.order() if isinstance(g := n.attributes.get("group"), int)]
    return max([1, *groups])


# -- streams ----------------------------------------------------------------------------------------------------------


def _all_streams(order: Sequential, spec: TargetSpec) -> list[Stream]:
    """The streams of all parts; what equal parts do is split once."""
    found: list[Stream] = []
    known: dict[int, list[Stream]] = {}
    barriers = order.barriers or ((),) * len(order.parts)
    for part, items, orders in zip(order.parts, order.items, barriers, strict=True):
        if id(items) not in known:
            known[id(items)] = list(streams_of(items, part.devices, spec, orders))
        found += [replace(stream, devices=part.devices) for stream in known[id(items)]]
    return found


def streams_of(
    items: Sequence[Item], devices: tuple[int, ...], spec: TargetSpec, barriers: Sequence[Barrier] = ()
) -> Iterator[Stream]:
    """One stream for each engine and group of its instances, of what these devices do one command after another."""
    instances = {e.name: e.instances for e in spec.engines()}
    split = split_streams(
        items,
        devices=devices[-1] + 1,
        instances=max(instances.values()),
        row_stride=spec.dram.geometry.stride_row,
        barriers=barriers,
    )
    for engine, stream in split.items():
        for group, own in _by_instance(stream, instances[engine]):
            yield Stream(engine, devices, group, own)


_BEATS, _ALONE = -2, -1
"""The groups of stretches that are beats, and of nodes outside of layers."""


@record
class _Stretch:
    """What one layer, one beat, or one node outside of layers emits."""

    group: int
    index: int
    items: tuple[Item, ...] | Further
    ops: range
    fences: tuple[int, ...] = ()
    """numbers of items before which nothing is brought for the op that they begin"""


_LOADING, _AFTER = frozenset({"load"}), frozenset({"npu", "store"})


def _lowered(
    part: Part,
    spec: TargetSpec,
    first_op: int,
    told: Callable[[Cut], None] | None = None,
    memory: LoweringMemory | None = None,
) -> Iterator[_Stretch]:
    split = BufferSplit.beside(spec, part.plan.homes.values())
    emitter = emitter_for(spec, part.plan.homes)
    mapped: set[Window] = set()
    scratch = scratch_areas(split, {_queue(n) for n in part.nodes})
    at = Lowering(
        spec,
        emitter,
        scratch[""],
        part.plan.homes,
        part.plan.staging,
        part.stage,
        len(part.devices),
        told=told,
        accumulators=_accumulators(spec),
    )
    current: tuple[int, int] | None = None
    fences: list[int] = []
    begin = first_op
    chains = {chain.start: [part.nodes[i] for i in chain.all] for chain in chains_in(part.nodes)}
    done = {node for nodes in chains.values() for node in nodes[1:]}
    areas = [area for area in (*scratch.values(), at.accumulators) if area is not None]
    repeats = Repeats(part.plan.homes)
    again: Further | None = None
    for offset, node in enumerate(part.nodes):
        if node in done:
            continue
        key = _stretch_of(node, offset)
        if key != current:
            if current is not None:
                items = again or emitter.take()
                repeats.end(items, at, areas)
                yield _Stretch(*current, items, range(begin, first_op + offset), tuple(fences))
                if key[0] != _ALONE:  # equal layers get equal addresses; others go on around the ring
                    for area in areas:
                        area.restart()
            current, fences, again = key, [], None
            emitter.op = begin = first_op + offset
            if key[0] >= 0 and memory is None:
                layer = list(takewhile(partial(_is_in, key), part.nodes[offset:]))
                again = repeats.begin(layer, at, areas)
                done.update(layer if again else ())
        if again is not None:
            continue
        position = node.fact(Position)
        if position is not None and not position.prefetch:
            fences.append(emitter.level[0])
        emitter.op = first_op + offset
        emitter.queue = _queue(node)
        own = scratch.get(emitter.queue, at.scratch)
        there = at if own is at.scratch else replace(at, scratch=own)
        nodes = chains.get(offset, [node])
        for each in nodes:
            _map_blocks(each, there, mapped)
        if memory is None:
            lower_chain(nodes, there)
        else:
            memory.lower(nodes, there, lower_chain)
    if current is not None:
        yield _Stretch(*current, again or emitter.take(), range(begin, first_op + len(part.nodes)), tuple(fences))


def _is_in(stretch: tuple[int, int], node: Node) -> bool:
    return _stretch_of(node, -1) == stretch


def _stretch_of(node: Node, offset: int) -> tuple[int, int]:
    """Group and index of the stretch that a node belongs to."""
    layer, beat = node.fact(Layer), node.fact(Beat)
    if beat is not None:
        return _BEATS, beat.index
    return (layer.group, layer.index) if layer is not None else (_ALONE, offset)


def _fenced_as_needed(lowered: Iterable[_Stretch]) -> list[_Stretch]:
    """Without the fences that nothing needs; each layer is looked at by itself, so that equal ones stay equal."""
    found: list[_Stretch] = []
    of_layer: frozenset[int] = frozenset()
    for _, run in groupby(enumerate(lowered), lambda each: -1 if each[1].group == _ALONE else each[0]):
        stretches = [stretch for _, stretch in run]
        items = stretches[0].items
        if isinstance(items, Further):
            found.append(replace(stretches[0], items=replace(items, without=of_layer)))
            continue
        spare = spare_fences([item for stretch in stretches for item in stretch.items])
        of_layer = spare if stretches[0].group >= 0 else of_layer
        found += _without(spare, stretches)
    return found


def _without(spare: Set[int], run: Sequence[_Stretch]) -> Iterator[_Stretch]:
    """Stretches that follow each other, without items of such numbers."""
    begin = 0
    for stretch in run:
        end = begin + len(tuple(stretch.items))
        gone = [number - begin for number in spare if begin <= number < end]
        begin = end
        if not gone:
            yield stretch
            continue
        items = tuple(item for number, item in enumerate(stretch.items) if number not in gone)
        fences = tuple(number - sum(n < number for n in gone) for number in stretch.fences)
        yield replace(stretch, items=items, fences=fences)


def emitter_for(spec: TargetSpec, homes: Mapping[Value, Home]) -> Emitter:
    moves = spec.dma.moves if spec.dma is not None else "load"
    lanes = {} if spec.npu is None else {"npu": spec.npu.vector.lanes}
    return Emitter(spec.engines(), moves, _windows(homes), lanes)


QUEUE_SHARES = {"pim": 4, "cache": 8, "link": 16}
"""One part in so many of the scratch is for nodes with such queues, so that none waits until the others are done.
What is held goes to its place at once."""


def scratch_areas(split: BufferSplit, queues: Set[str]) -> dict[str, Scratch]:
    """The scratch of nodes by the queues that they have (empty: those of their engines)."""
    areas: dict[str, Scratch] = {}
    end = split.resident + split.scratch
    for queue in sorted(queues & QUEUE_SHARES.keys()):
        size = split.scratch // QUEUE_SHARES[queue] // 4096 * 4096
        end -= size
        areas[queue] = Scratch(end, size)
    return {"": Scratch(split.resident, end - split.resident), **areas}


def _accumulators(spec: TargetSpec) -> Scratch | None:
    return None if spec.npu is None else Scratch(0, spec.npu.device_accumulator_bytes)


def _queue(node: Node) -> str:
    fact = node.fact(Queue)
    return fact.name if fact is not None else ""


def lower_chain(nodes: Sequence[Node], at: Lowering) -> int:
    """Emit a product and what is computed on its tiles; what cannot be comes before or behind, one after the other.

    Gives how many are computed on tiles of a product."""
    on_tiles = 0

    def alone(numbers: Iterable[int]) -> None:
        for number in numbers:
            if at.rehearsed and not is_cut(nodes[number]):
                continue
            with at.emit.of_op(number):
                lower(nodes[number], at)

    def following(start: int, stop: int) -> None:
        """A product with what comes behind it on its tiles, a second product with what is its own."""
        nonlocal on_tiles
        product, after = nodes[start], nodes[start + 1 : stop]
        fused: int | None = None
        if rule is not None and after:
            with at.emit.of_op(start):
                fused = rule([], product, after, _within_tile(product, at))
        second = twin_in(product, after)
        if fused is None and second is not None:
            following(start, start + 1 + second)
            following(start + 1 + second, stop)
        else:
            on_tiles += fused or 0
            alone(range(start if fused is None else start + 1 + fused, stop))

    chain = next(chains_in(nodes), None)
    product = nodes[chain.product if chain is not None else 0]
    rule = CHAIN_RULES.get((_kind(product, at.spec), product.op.name))
    if chain is None or rule is None:
        alone(range(len(nodes)))
        return 0
    before, after = [nodes[i] for i in chain.before], [nodes[i] for i in chain.after]
    fused = rule(before, product, after, _within_tile(product, at)) if before else None
    if fused is not None:
        alone(range(chain.product + 1 + fused, len(nodes)))
        return len(before) + fused
    alone(chain.before)
    following(chain.product, len(nodes))
    return on_tiles


def is_cut(node: Node) -> bool:
    """Whether the rule of a node, on an engine that cuts, tells how it does that, and what limits it."""
    return node.op.cls is OpClass.CONTRACTION or node.op.name == "attention"


def _within_tile(node: Node, at: Lowering) -> Lowering:
    tile = node.fact(Tile)
    return at if tile is None else replace(at, tile=tile)


def _kind(node: Node, spec: TargetSpec) -> str:
    """The kind of a node's engine."""
    engine = _engine(node)
    return next((e.kind for e in spec.engines() if e.name == engine), engine)


def lower(node: Node, at: Lowering) -> None:
    """Emit one node by the rule of its engine's kind. Raises CompileError where the machine lacks what that needs."""
    try:
        _lower(node, at)
    except MissingEngineError as missing:
        said = f"%{node.name} ({node.op.name}) runs on '{_engine(node)}', but what it works on lies so that an engine "
        said += f"'{missing}' has to bring it, which '{at.spec.name}' does not have"
        raise fail(Kind.ILLEGAL, said, node.source) from None


def _lower(node: Node, at: Lowering) -> None:
    kind = _kind(node, at.spec)
    rule = RULES.get((kind, node.op.name))
    if rule is None:
        raise InternalError(f"no lowering rule for {node.op.name} on {kind} (%{node.name})")
    at = _within_tile(node, at)
    if node.op.name == "cache_append" and node.fact(Ragged) is not None and not mapping_of(at.spec).appends_requests:
        return
    if node.fact(Ragged) is not None and kind != "pim":
        for part, there in groups(node, at):
            rule(part, there)
    else:
        rule(node, at)


def _windows(homes: Mapping[Value, Home]) -> Iterator[Window]:
    yield from (blocks.window for home in homes.values() for blocks in home.blocks)


def _map_blocks(node: Node, at: Lowering, mapped: set[Window]) -> None:
    """Have the block tables read of caches that a node is the first to use."""
    for value in (*node.operands, *node.results):
        home = at.places.get(value) if value is not None else None
        for blocks in home.blocks if home is not None else ():
            if blocks.window not in mapped:
                mapped.add(blocks.window)
                at.emit.issue("load", MapBlocks.of(blocks))


def _engine(node: Node) -> str:
    placement = node.fact(Placement)
    if placement is None:
        raise InternalError(f"%{node.name} has no placement")
    return placement.engine


def _folded(stretches: Sequence[_Stretch]) -> tuple[list[Item], dict[int, int], tuple[Barrier, ...]]:
    """Fold runs of layers of one group into loops; for each op folded away, the op that stands for it; and the barriers
    between and in beats."""
    last = ((*_variables(s.items),) for s in reversed(stretches))
    free = 1 + max(next(filter(None, last), (-1,)))  # they are counted on from stretch to stretch
    items: list[Item] = []
    shared: dict[int, int] = {}
    barriers: list[Barrier] = []
    at = 0
    while at < len(stretches):
        if stretches[at].group == _BEATS:
            barriers.append(Barrier(len(items)))
        barriers += [Barrier(len(items) + n, _LOADING, _AFTER) for n in stretches[at].fences]
        end = at + 1
        if stretches[at].group >= 0 and not stretches[at].fences:  # no loop has barriers inside
            while end < len(stretches) and stretches[end].group == stretches[at].group:
                end += 1
        run = stretches[at:end]
        again = {number for number, s in enumerate(run) if isinstance(s.items, Further)}
        for rolled in roll([s.items for s in run], free, again):
            free += 1
            items += rolled.items
            for position in range(rolled.first + rolled.period, rolled.first + rolled.period * rolled.count):
                first = run[rolled.first + (position - rolled.first) % rolled.period]
                shared |= dict(zip(run[position].ops, first.ops, strict=True))
        at = end
    return items, shared, tuple(barriers)


def _variables(items: Iterable[Item]) -> Iterator[int]:
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


def op_rows(nodes: Sequence[Node], leaders: Mapping[int, int] | None = None) -> Iterator[OpRow]:
    """The rows of nodes. leaders: for nodes that have no commands of their own, the row whose commands are theirs."""
    for index, node in enumerate(nodes):
        phase, work, placement, layer = node.fact(Phase), node.fact(Work), node.fact(Placement), node.fact(Layer)
        beat = node.fact(Beat)
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
            shares=-1 if leaders is None else leaders.get(index, -1),
            beat=beat.name if beat is not None else "",
            weight=node.weight(),
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
    yield from _tables(part)


def _tables(part: Part) -> Iterator[MapEntry]:
    """The block tables of paged caches."""
    tables = part.plan.tables
    for number, table in enumerate(tables):
        name = "block table" if len(tables) == 1 else f"block table {number}"
        yield MapEntry(
            name, "table", "dram", DType.I32, table.layout, DType.I32, part.devices, contents=Inline(table.entries)
        )  # fmt: skip


def _called(graph: Graph, name: str) -> str:
    """How the model calls an input or output of the graph."""
    return name if graph.batch is None else graph.batch.called(name)[0]


def _entries(
    name: str, value: Value, part: Part, role: str, graph: Graph, alias: str | None = None
) -> Iterator[MapEntry]:
    """The place of a tensor; one for each group of requests where these have lengths of their own."""
    home = part.plan.homes[value]
    shape, batch, all = value.type.static_shape, graph.batch, graph.batch
    if all is not None:
        name, batch = all.called(name)
        alias = None if alias is None else _called(graph, alias)
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
        rows=batch.rows_of(name, all) if batch is not None else None,
        blocks=home.blocks[0] if home.blocks else None,
    )
    if batch is None or all is None or not home.parts:
        yield whole
        return
    for group, layout, members in _request_places(home.parts, batch):
        requests = [batch.requests[i] for i in members]
        lengths = tuple(r.past + (r.new if role == "output" else 0) for r in requests)
        extent = all.past + (all.new if role == "output" else 0)
        rows = Rows(tuple(r.row for r in requests), len(all.requests), lengths, CACHE_AXIS, extent)
        extents = (len(members), shape[1], max(lengths), shape[3])
        blocks = home.blocks[group] if home.blocks else None
        yield replace(whole, layout=layout, rows=rows, extents=extents, blocks=blocks)


def _request_places(parts: Sequence[Layout], batch: Batch) -> Iterator[tuple[int, Layout, range]]:
    """Neighbouring requests of a group that need equally many rows of their channels, and no more than these rows.

    What a layout of a group has beyond them may belong to other requests; nobody looks at it.
    """
    start = 0
    for group, (layout, size) in enumerate(zip(parts, batch.groups, strict=True)):
        if batch.requests[start].channel is None:
            yield group, layout, range(start, start + size)
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
            yield group, cut, range(start + members[0], start + members[-1] + 1)
        start += size
