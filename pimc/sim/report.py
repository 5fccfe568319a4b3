"""What a run is reported as: plain numbers for `--json`, and tables for people.

Times in the JSON are seconds, clocks are whole numbers. An op of a layer that was folded into a loop with identical
layers is reported with its share: the time of the loop's op divided by the layers that it stands for.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, field
from fractions import Fraction
from itertools import zip_longest
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from pimc.backends.assembly import ranks
from pimc.backends.engines import platform_of, spec_of
from pimc.backends.program import Choice, OpRow, Program
from pimc.backends.roofs import Roof, roofs_of
from pimc.backends.timing import SERVED
from pimc.record import record
from pimc.sim.accounts import END, OP, START
from pimc.sim.ahead import ahead_of
from pimc.sim.breakdown import Breakdown
from pimc.sim.channels import ChannelsReport, channels_of
from pimc.sim.energy import Energy, energy_of
from pimc.sim.moves import MoveReport, moves_of
from pimc.sim.paging import BlocksReport, cache_layout, paging_of
from pimc.sim.residence import BanksReport, MemoryReport, banks_of, memories_of
from pimc.sim.timeline import Timeline, timeline_of
from pimc.sim.timing import EngineTiming, Timing
from pimc.version import version

if TYPE_CHECKING:
    from pimc.sim.compare import Comparison

PS = 1e-12


@record
class EngineReport:
    """One engine of a class of devices; where its channels differ, their mean (cycles: the last one's)."""

    name: str
    kind: str
    devices: str
    instances: int
    cycles: int
    """own clock, from 0 to its last completion"""
    commands: int
    """as executed, over all channels of one device"""
    busy: float
    stalled: Mapping[str, float]
    idle: float
    counters: Mapping[str, int]


@record
class OpReport:
    """One op. `seconds`: how long at least one engine worked for it; ops that overlap count their common time twice."""

    name: str
    op: str
    source: str
    phase: str
    nature: str
    engine: str
    reason: str
    layer: int
    seconds: float
    bound_seconds: float
    flops: int
    bytes: int
    busy: Mapping[str, float]
    """by engine"""
    bound_by: str = ""
    """the engine or resource that works for `bound_seconds`"""
    ahead: float = 0.0
    """seconds for which its transfers went on while its engine was at work for other ops: what prefetch hides"""
    energy: float | None = None
    """joules of its commands over all devices; None: the target gives no constants"""
    costs: Mapping[str, float | str] = field(default_factory=dict)
    """by engine that placement asked: seconds of its own commands on an idle machine, or why it cannot run there"""
    weight: str = ""
    """the weight that it reads, where that is one"""


@record
class EnergyReport:
    """The energy of the run over all devices, in joules."""

    total_j: float
    power_w: float
    """the mean over the run"""
    static_j: float
    """power over the time of the run, which belongs to no op; all else is a sum over commands"""
    groups: Mapping[str, float]
    """by what it is spent on, as the target names it"""
    engines: Mapping[str, float]
    """what is counted, by engine; `static` is beside that"""


@record
class ResourceReport:
    """Something that engines share, and how long it was held."""

    name: str
    devices: str
    busy: float


@record
class PhaseReport:
    """The ops of one phase: how long at least one engine worked for one of them, and their work."""

    phase: str
    seconds: float
    flops: int
    bytes: int


@record
class PassReport:
    """A pass that ran: whether it changed the graph, and how many ops that had afterwards."""

    name: str
    changed: bool
    ops: int
    seconds: float | None = None
    """that the pass itself took on the user's computer: no part of a result, there where it was asked for"""


@record
class BeatReport:
    """One beat of a schedule with barriers between beats."""

    name: str
    cycles: int
    """of the main clock, from the end of the beat before"""
    seconds: float
    busy: Mapping[str, float]
    """by engine: the busiest of its kind"""


@record
class BackgroundReport:
    """Normal reads (one access each) that channels with PIM work were offered, and served meanwhile."""

    reads_per_cycle: int
    """offered to each channel, in its own clock"""
    reads_served: int
    """over all channels of all devices"""
    channels: int
    """that have PIM work"""
    bytes_per_cycle: float
    """served by a channel, their mean over the time of its stream"""


@record
class RequestReport:
    """One request of a batch."""

    id: str
    past: int
    """tokens that were cached"""
    new: int
    channel: int | None
    """where its keys and values lie, if those of a request lie in one channel"""


@record
class BatchReport:
    """A batch of requests with lengths of their own."""

    requests: int
    length_min: int
    """keys that a request's new tokens attend to, those of the new ones included"""
    length_mean: float
    length_max: int
    channels: int | None
    """among which requests were shared out"""
    channel_max: int | None
    """keys of all requests in the fullest channel"""
    channel_mean: float | None

    @property
    def imbalance(self) -> float | None:
        """The fullest channel against the mean of all: 1 is perfect."""
        return self.channel_max / self.channel_mean if self.channel_max and self.channel_mean else None


@record
class PipelineReport:
    """A pipeline with a query in every stage."""

    stages: int
    """as many queries are in flight"""
    turns: int
    """stages that take turns on the same devices"""
    parts: int
    """stages that work side by side on the same devices, each with a part of them"""
    tokens: int
    """of a query, which its pass is for"""
    latency_seconds: float
    """of the pass of one query, all of its waiting included"""
    tokens_per_s: float
    """of all queries: those in flight by the latency"""
    slowest_seconds: float
    """how long a query keeps devices busy, where that is longest: tokens can come no faster than one in that time"""
    balance: float
    """the mean of that over all devices against the longest: where it is not near 1, the pipeline falls short of
    `tokens_per_s` by as much"""


@record
class Report:
    """The whole run."""

    model: str
    target: str
    target_hash: str
    dims: Mapping[str, int]
    phase: str
    devices: int
    cycles: int
    """of the target's main clock"""
    seconds: float
    bound_seconds: float
    bound_share: float
    engines: Sequence[EngineReport]
    resources: Sequence[ResourceReport]
    ops: Sequence[OpReport]
    phases: Sequence[PhaseReport]
    bytes_moved: Mapping[str, int]
    """over all devices, by what moved them"""
    ahead: float = 0.0
    """seconds of transfers that went on while other ops were at work, over all ops (prefetch)"""
    background: BackgroundReport | None = None
    """of normal reads beside PIM work, where those were asked for"""
    values: Mapping[str, Any] | None = None
    requests: Sequence[RequestReport] = ()
    """in the user's order; empty where requests have no lengths of their own"""
    batch: BatchReport | None = None
    pipeline: PipelineReport | None = None
    choice: Choice | None = None
    """of how the model is spread over devices, where pimc has made it"""
    beats: Sequence[BeatReport] = ()
    """empty where the schedule has none"""
    energy: EnergyReport | None = None
    """None: the target gives no constants"""
    breakdown: Breakdown | None = None
    """of a token, where a published mapping has one"""
    pimc: str = ""
    """the version that made the report"""
    command: str = ""
    """the command line that gives it again, where one is known"""
    passes: Sequence[PassReport] = ()
    roofs: Sequence[Roof] = ()
    """what the units of one device could do at best"""
    memory: Sequence[MemoryReport] = ()
    """of the first device"""
    banks: BanksReport | None = None
    channels: ChannelsReport | None = None
    moves: Sequence[MoveReport] = ()
    timeline: Timeline | None = None
    cache_layout: str = ""
    """contiguous or paged; empty: there are no caches"""
    paging: Sequence[BlocksReport] = ()
    """the blocks of paged caches, on the first device"""
    sources: Mapping[str, str] = field(default_factory=dict)
    """where the numbers of the target come from, by their group"""

    def to_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        plain = asdict(self)
        for name in ("background", "values", "pipeline", "banks", "channels", "timeline", "energy", "breakdown"):
            if plain[name] is None:
                del plain[name]
        for row in plain["passes"]:
            if row["seconds"] is None:
                del row["seconds"]
        del plain["choice"]
        if self.choice is not None:
            plain["parallel"] = self.choice.to_json()
        for name in ("beats", "paging", "cache_layout"):
            if not plain[name]:
                del plain[name]
        if self.batch is None:
            del plain["requests"], plain["batch"]
        else:
            plain["batch"]["imbalance"] = self.batch.imbalance
        return plain


def build_report(
    program: Program,
    timing: Timing,
    *,
    model: str | None = None,
    comparison: Comparison | None = None,
    form: str = "wide",
    pass_seconds: Sequence[float] = (),
) -> Report:
    """The report of a simulated program, with the comparison of its values where there is one.

    model: the name to report instead of the graph's. pass_seconds: that each pass took, where that is to be told.
    """
    energy = energy_of(program, timing)
    ops = tuple(_ops(program, timing, energy))
    return Report(
        model=program.graph if model is None else model,
        target=program.target_name,
        target_hash=program.target_hash,
        dims=dict(program.dims),
        phase=program.phase,
        devices=program.devices,
        cycles=timing.cycles,
        seconds=timing.time * PS,
        bound_seconds=timing.bound * PS,
        bound_share=timing.bound_share,
        engines=tuple(_engines(timing)),
        resources=tuple(ResourceReport(r.name, ranks(r.devices), r.busy * PS) for r in timing.resources),
        ops=ops,
        ahead=sum(o.ahead for o in ops),
        phases=tuple(_phases(program, timing)),
        bytes_moved=_bytes_moved(timing),
        background=_background(program, timing),
        values=None if comparison is None else comparison.to_json(form),
        requests=request_rows(program),
        batch=_batch(program),
        pipeline=_pipeline(program, timing),
        choice=program.choice,
        beats=tuple(_beats(program, timing)),
        energy=_energy(energy, timing) if energy is not None else None,
        breakdown=_breakdown(program, timing, energy),
        pimc=version(),
        command=_command(program, timing),
        passes=tuple(
            PassReport(p.name, p.changed, p.ops, took) for p, took in zip_longest(program.passes, pass_seconds)
        ),
        roofs=roofs_of(spec_of(program)),
        memory=memories_of(program),
        banks=banks_of(program),
        channels=channels_of(program, timing),
        moves=moves_of(program, timing),
        timeline=timeline_of(program, timing),
        cache_layout=cache_layout(program),
        paging=paging_of(program),
        sources=dict(_sources(program.target)),
    )


def _breakdown(program: Program, timing: Timing, energy: Energy | None) -> Breakdown | None:
    """Only what a published mapping made has one, and only that needs to know of the mapping."""
    if program.flight is None:
        return None
    from pimc.sim.published_times import breakdown_of

    return breakdown_of(program, timing, energy)


def _command(program: Program, timing: Timing) -> str:
    if not program.command or timing.background is None:
        return program.command
    return f"{program.command} --background reads={timing.background}"


def _sources(group: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    """What groups of a description say of where they come from."""
    for name, member in group.items():
        if isinstance(member, Mapping):
            here = f"{path}.{name}" if path else name
            if isinstance(source := member.get("source"), str):
                yield here, source
            yield from _sources(member, here)


def request_rows(program: Program) -> tuple[RequestReport, ...]:
    """The requests of a program in the user's order."""
    ordered = sorted(program.requests, key=lambda r: r.row)
    return tuple(RequestReport(r.id, r.past, r.new, r.channel) for r in ordered)


def _batch(program: Program) -> BatchReport | None:
    if not program.requests:
        return None
    lengths = [r.past + r.new for r in program.requests]
    load: Counter[int] = Counter()
    for r in program.requests:
        if r.channel is not None:
            load[r.channel] += r.past + r.new
    channels = platform_of(program).geometry.channels if load else None
    return BatchReport(
        requests=len(lengths),
        length_min=min(lengths),
        length_mean=sum(lengths) / len(lengths),
        length_max=max(lengths),
        channels=channels,
        channel_max=max(load.values()) if load else None,
        channel_mean=sum(lengths) / channels if channels else None,
    )


def _pipeline(program: Program, timing: Timing) -> PipelineReport | None:
    if program.stages == 1 or not timing.time:
        return None
    tokens = prod(n for name, n in program.dims.items() if name in ("batch", "seq"))
    slowest = max((last - first for first, last in _spans(program, timing).values()), default=0)
    parts = spec_of(program).system.sharing
    seconds = timing.time * PS
    groups = -(-program.stages // program.turns)
    return PipelineReport(
        stages=program.stages,
        turns=program.turns,
        parts=parts,
        tokens=tokens,
        latency_seconds=seconds,
        tokens_per_s=program.stages * tokens / seconds,
        slowest_seconds=slowest * PS,
        balance=timing.time / timing.turns / groups / slowest if slowest else 1.0,
    )


def _spans(program: Program, timing: Timing) -> dict[int, tuple[int, int]]:
    """From when to when devices have a query: from what they receive first, or from the start."""
    receives = [i for i, row in enumerate(program.ops) if row.op == "receive"]
    spans: dict[int, tuple[int, int]] = {}
    for engine in (e for e in timing.engines if len(e.segments)):
        rank, found = engine.devices[0], engine.segments
        received = found[np.isin(found[:, OP], receives)]
        first, last = spans.get(rank, (0, 0))
        if len(received):
            first = int(received[:, START].min())
        spans[rank] = first, max(last, int(found[:, END].max()))
    return spans


def _engines(timing: Timing) -> Iterable[EngineReport]:
    groups: dict[tuple[str, tuple[int, ...]], list[EngineTiming]] = defaultdict(list)
    for engine in timing.engines:
        groups[engine.name, engine.devices].append(engine)
    several = len({devices for _, devices in groups}) > 1
    for (name, devices), members in groups.items():
        label = f"{name}@{ranks(devices)}" if several else name
        yield _engine(label, members)


def _engine(name: str, members: Sequence[EngineTiming]) -> EngineReport:
    """Groups of channels together: times are means over the channels, so that they still add up to the whole run."""
    instances = sum(len(m.instances) for m in members)
    stalled: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    for m in members:
        for cause, time in m.stalled.items():
            stalled[cause] += time * len(m.instances)
        for what, number in m.counters.items():
            counters[what] += number * len(m.instances)
    return EngineReport(
        name=name,
        kind=members[0].kind,
        devices=ranks(members[0].devices),
        instances=instances,
        cycles=max(m.cycles for m in members),
        commands=sum(m.commands * len(m.instances) for m in members),
        busy=sum(m.busy * len(m.instances) for m in members) / instances * PS,
        stalled={cause: time / instances * PS for cause, time in sorted(stalled.items())},
        idle=sum(m.idle * len(m.instances) for m in members) / instances * PS,
        counters=dict(sorted(counters.items())),
    )


def _energy(energy: Energy, timing: Timing) -> EnergyReport:
    return EnergyReport(
        total_j=float(energy.total),
        power_w=float(energy.total / (timing.time * Fraction(1, 10**12))) if timing.time else 0.0,
        static_j=float(energy.static),
        groups={name: float(joules) for name, joules in sorted(energy.groups.items())},
        engines={name: float(joules) for name, joules in sorted(energy.engines.items())},
    )


def _ops(program: Program, timing: Timing, energy: Energy | None) -> Iterable[OpReport]:
    sharers = Counter(_leader(i, row) for i, row in enumerate(program.ops))
    ahead = ahead_of(program, timing)
    for index, row in enumerate(program.ops):
        leader = _leader(index, row)
        found = timing.ops.get(leader)
        parts = sharers[leader]
        yield OpReport(
            name=row.name,
            op=row.op,
            source=row.source,
            phase=row.phase,
            nature=row.nature,
            engine=row.engine,
            reason=row.reason,
            layer=row.layer,
            seconds=found.active * PS / parts if found else 0.0,
            bound_seconds=found.bound * PS / parts if found else 0.0,
            flops=row.flops,
            bytes=row.bytes,
            busy={name: time * PS / parts for name, time in sorted(found.busy.items())} if found else {},
            bound_by=found.limit if found else "",
            ahead=ahead.get(leader, 0) * PS / parts,
            energy=float(energy.ops.get(leader, Fraction(0)) / parts) if energy is not None else None,
            costs={cost.engine: cost.illegal or cost.seconds for cost in row.costs},
            weight=row.weight,
        )


def _beats(program: Program, timing: Timing) -> Iterable[BeatReport]:
    """Beats in order. They follow each other without a gap: each ends with the last of its ops."""
    members: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(program.ops):
        if row.beat and index in timing.ops:
            members[row.beat].append(index)
    before = 0
    for name, ops in members.items():
        end = max(timing.ops[op].end for op in ops)
        busy: Counter[str] = Counter()
        for op in ops:
            busy.update(timing.ops[op].busy)
        yield BeatReport(
            name=name,
            cycles=round((end - before) / timing.clock_ps),
            seconds=(end - before) * PS,
            busy={engine: time * PS for engine, time in sorted(busy.items())},
        )
        before = end


def _phases(program: Program, timing: Timing) -> Iterable[PhaseReport]:
    active = timing.active({i: row.phase for i, row in enumerate(program.ops)})
    for phase, time in active.items():
        rows = [row for row in program.ops if row.phase == phase]
        yield PhaseReport(phase, time * PS, sum(r.flops for r in rows), sum(r.bytes for r in rows))


def _bytes_moved(timing: Timing) -> dict[str, int]:
    """What engines count as bytes, over all devices and channels."""
    total: Counter[str] = Counter()
    for engine in timing.engines:
        for name, number in engine.counters.items():
            if "bytes" in name:
                total[name] += number * len(engine.devices) * len(engine.instances)
    return dict(sorted(total.items()))


def _background(program: Program, timing: Timing) -> BackgroundReport | None:
    """The reads that PIM engines count as served."""
    if timing.background is None:
        return None
    access_bytes = spec_of(program).dram.access_bytes
    served = channels = cycles = 0
    for engine in (e for e in timing.engines if e.kind == "pim"):
        number = len(engine.devices) * len(engine.instances)
        served += engine.counters.get(SERVED, 0) * number
        cycles += engine.cycles * number
        channels += number
    return BackgroundReport(timing.background, served, channels, served * access_bytes / cycles if cycles else 0.0)


def _leader(index: int, row: OpRow) -> int:
    """The row whose commands are this op's."""
    return row.shares if row.shares >= 0 else index


# -- for people -------------------------------------------------------------------------------------------------------
