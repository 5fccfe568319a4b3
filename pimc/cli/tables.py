"""The report of a run, as people read it: headline, engines, where the time goes, memory, values."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from pimc.backends.program import MapEntry, OpRow, Program
from pimc.cli.layout import TIMES, Column, bar, count_text, grouped, memory_text, percent, size_text, table, time_text
from pimc.cli.screen import Line, line
from pimc.sim.compare import Comparison
from pimc.sim.engine_groups import merged_engines
from pimc.sim.op_groups import OpGroup, group_ops
from pimc.sim.paging import BlocksReport, blocks_of_requests
from pimc.sim.report import BatchReport, EngineReport, OpReport, PipelineReport, Report

BAR = 20
MOST_OPS = 16
MOST_CAUSES = 3
NAME_WIDTH = 44
_LASTING = ("weight", "constant", "cache", "input", "output", "table")


def report_page(found: Report, program: Program, *, verbose: int = 0) -> list[Line]:
    """Everything that `pimc compile` and `pimc sim` print about time."""
    page = [*headline(found), line(), *engine_table(found, verbose=verbose), line()]
    page += [*op_table(found, verbose=verbose), line()]
    page += [*energy_lines(found, verbose=verbose), *breakdown_lines(found)]
    page += [*ahead_lines(found, verbose=verbose), *traffic_lines(found), *paging_lines(found.paging)]
    page += memory_table(program, verbose=verbose)
    return page


def headline(found: Report) -> Iterator[Line]:
    """What was run, how long it takes, and what bounds it."""
    yield from title(found.model, found.target, found.phase, found.dims, found.devices)
    if found.batch is not None:
        yield batch_line(found.batch)
    if found.pipeline is not None:
        yield pipeline_line(found.pipeline)
    if found.choice is not None:
        best = found.choice.best
        yield line(f"  pp={best.pp},tp={best.tp}: {found.choice.reason}", "dim")
    name, seconds = busiest(found)
    yield [
        ("  ", ""),
        (time_text(found.seconds), "bold green"),
        (f" · {grouped(found.cycles)} cycles · ", ""),
        (f"{percent(found.bound_share)} of its bound", "bold"),
        (f": {name} is at work for {time_text(seconds)}", ""),
    ]


def energy_lines(found: Report, *, verbose: int = 0) -> Iterator[Line]:
    """What the run spends, on what, and where."""
    energy = found.energy
    if energy is None:
        return
    words = [f"{name} {energy_text(j)}" for name, j in sorted(energy.groups.items(), key=lambda each: -each[1]) if j]
    shown = words if verbose else words[:MOST_GROUPS]
    more = f", and {len(words) - len(shown)} more (-v)" if len(words) > len(shown) else ""
    yield [("  energy     ", "dim"), (energy_text(energy.total_j), "bold"), (f" · {energy.power_w:.3g} W", "")]
    yield line(f"             {', '.join(shown)}{more}", "dim")
    if verbose:
        parts = {**energy.engines, "static": energy.static_j}
        yield line("             by engine: " + ", ".join(f"{n} {energy_text(j)}" for n, j in parts.items()), "dim")


MOST_GROUPS = 4


def energy_text(joules: float) -> str:
    """An energy with three digits and a fitting unit."""
    for unit, size in (("J", 1.0), ("mJ", 1e-3), ("µJ", 1e-6), ("nJ", 1e-9)):
        if joules >= size:
            return f"{joules / size:.3g} {unit}"
    return f"{joules * 1e12:.3g} pJ"


def breakdown_lines(found: Report) -> Iterator[Line]:
    """A token's way under a published mapping."""
    table = found.breakdown
    if table is None:
        return
    cycles = f"{table.pim_cycles:,.10g}".replace(",", " ")
    block = f"PIM {cycles} cycles, CXL {table.cxl_latency_ms:.4g} ms, PNM {table.acc_latency_ms:.4g} ms"
    rate = f" · {table.tokens_per_s:.5g} tokens/s · {table.token_energy_mJ:.4g} mJ · {table.queries} in flight"
    yield [("  token      ", "dim"), (f"{table.token_latency_ms:.5g} ms", "bold"), (rate, "")]
    yield line(f"             a block: {block}; embedding and head {table.embedding_latency_ms:.4g} ms", "dim")


def pipeline_line(pipeline: PipelineReport) -> Line:
    """How many queries are in flight, and how many tokens a second that makes."""
    said = f"  {pipeline.stages} stages, a query in each · {pipeline.tokens_per_s:.1f} tokens/s"
    if pipeline.turns > 1:
        said += f" · {pipeline.turns} stages take turns on a device"
    if pipeline.parts > 1:
        said += f" · {pipeline.parts} stages share a device, a part of its channels each"
    return line(said, "dim")


def title(model: str, target: str, phase: str, dims: Mapping[str, int], devices: int) -> Iterator[Line]:
    settings = "  ".join(f"{name}={number}" for name, number in dims.items())
    several = f" · {devices} devices" if devices > 1 else ""
    yield [(model, "bold"), (" · ", "dim"), (target, "bold"), (f" · {phase or 'no phase'}", ""), (several, "")]
    if settings:
        yield line(f"  {settings}", "dim")


def batch_line(batch: BatchReport) -> Line:
    """How many requests there are, how long they are, and how well channels share them."""
    said = f"  {batch.requests} request{'s' * (batch.requests > 1)} of {grouped(batch.length_min)} to "
    said += f"{grouped(batch.length_max)} keys, {batch.length_mean:.1f} on average"
    if batch.imbalance is not None:
        said += f"; the fullest of {batch.channels} channels has {batch.imbalance:.2f} times the mean"
    return line(said, "dim")


def busiest(found: Report) -> tuple[str, float]:
    """The engine or shared resource that works longest, in words, and for how long."""
    busy = {f"engine {e.name}": e.busy for e in found.engines}
    for resource in found.resources:
        busy[resource.name] = max(busy.get(resource.name, 0.0), resource.busy)
    if not busy:
        return "nothing", 0.0
    name, seconds = max(busy.items(), key=lambda item: item[1])
    channels = [e.name for e in found.engines if e.instances > 1]
    if seconds < found.bound_seconds * 0.999 and channels:  # a report has means over channels
        return f"the busiest channel of {channels[0]}", found.bound_seconds
    return name, seconds


# -- engines ----------------------------------------------------------------------------------------------------------


def engine_table(found: Report, *, verbose: int = 0) -> list[Line]:
    """One row an engine: how much of the run it works, waits (for what) and has nothing to do."""
    whole = found.seconds or 1.0
    shown = [e for e in found.engines if e.commands] if not verbose else list(found.engines)
    groups = len({e.devices for e in shown})
    if groups > 1 and not verbose:
        shown = merged_engines(shown)
    columns = [Column("engine", "<", "bold"), Column(""), Column("busy", ">", "green")]
    columns += [Column("stalled", ">", "yellow"), Column("idle", ">", "dim"), Column("commands", ">")]
    columns += [Column("cycles", ">"), Column("stalled by")]
    page = table(columns, [_engine_row(e, whole) for e in shown])
    if groups > 1 and not verbose:
        page.append(line(f"  each the mean of {groups} groups of devices (-v shows them)", "dim"))
    if verbose:
        for e in shown:
            if e.counters:
                numbers = "  ".join(f"{name} {count_text(number)}" for name, number in e.counters.items())
                page.append(line(f"    {e.name}: {numbers}", "dim"))
    return page


def _engine_row(e: EngineReport, whole: float) -> list[str | Line]:
    stalled = sum(e.stalled.values())
    drawn = bar([(e.busy / whole, "█", "green"), (stalled / whole, "▒", "yellow"), (e.idle / whole, "░", "dim")], BAR)
    causes = sorted(e.stalled.items(), key=lambda item: (-item[1], item[0]))
    worst = [(cause, seconds / whole) for cause, seconds in causes[:MOST_CAUSES] if seconds >= whole / 1000]
    said = ", ".join(f"{_cause(cause)} {percent(share)}" for cause, share in worst)
    name = f"{e.name} {TIMES}{e.instances}" if e.instances > 1 else e.name
    shares = [percent(part / whole) for part in (e.busy, stalled, e.idle)]
    return [name, drawn, *shares, grouped(e.commands), grouped(e.cycles), said]


def _cause(cause: str) -> str:
    before, _, after = cause.partition(":")
    return f"waiting for {after}" if before == "wait" else cause


# -- ops --------------------------------------------------------------------------------------------------------------


def op_table(found: Report, *, verbose: int = 0) -> list[Line]:
    """Where the time goes: identical ops of identical layers in one row, the longest first."""
    groups = group_ops(found.ops)
    total = sum(g.seconds for g in groups) or 1.0
    shown = groups if verbose else _worth_showing(groups, total)
    columns = [Column("where the time goes", "<", "", 0 if verbose else NAME_WIDTH), Column("", ">"), Column("op")]
    columns += [Column("nature"), Column("engine", "<", "bold"), Column("time", ">"), Column("share", ">")]
    columns += [Column("of bound", ">"), Column("bound by"), Column("")]
    page = table(columns, [_op_row(g, total, verbose) for g in shown])
    left = groups[len(shown) :]
    if left:
        rest = sum(g.seconds for g in left)
        number = sum(len(g.ops) for g in left)
        page.append(line(f"  and {number} more ops: {time_text(rest)}, {percent(rest / total)}", "dim"))
    page += [line(), *placement_lines(found.ops)]
    return page


def _worth_showing(groups: Sequence[OpGroup], total: float) -> Sequence[OpGroup]:
    """The longest, down to a thousandth of the time."""
    worth = [g for g in groups if g.seconds >= total / 1000]
    return groups if len(groups) <= MOST_OPS else worth[:MOST_OPS]


def _op_row(g: OpGroup, total: float, verbose: int) -> list[str | Line]:
    first = g.ops[0]
    times = f"{TIMES}{len(g.ops)}" if len(g.ops) > 1 else ""
    reached = percent(g.bound / g.seconds) if g.seconds else ""
    share = g.seconds / total
    last: str | Line = first.reason if verbose > 1 else bar([(share, "█", "cyan")], 10)
    taken = time_text(g.seconds), percent(share), reached, g.bound_by
    return [g.name, times, first.op, first.nature, first.engine, *taken, last]


def placement_lines(ops: Iterable[OpReport | OpRow]) -> Iterator[Line]:
    """How many ops of which nature each engine has."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for o in ops:
        counts[o.engine][o.nature or o.op] += 1
    for number, (engine, natures) in enumerate(counts.items()):
        said = ", ".join(f"{count} {nature}" for nature, count in natures.most_common())
        yield [("  placement  " if not number else " " * 13, "dim"), (engine or "none", "bold"), (f": {said}", "")]


MOST_AHEAD = 3


def ahead_lines(found: Report, *, verbose: int = 0) -> Iterator[Line]:
    """What was prefetched, and how much of the transfers that hides."""
    if not found.ahead:
        return
    groups = sorted(((sum(o.ahead for o in g.ops), g) for g in group_ops(found.ops)), key=lambda each: -each[0])
    worth = [(seconds, g) for seconds, g in groups if seconds]
    shown = worth if verbose else worth[:MOST_AHEAD]
    said = ", ".join(f"{g.name}{f' {TIMES}{len(g.ops)}' * (len(g.ops) > 1)} {time_text(s)}" for s, g in shown)
    more = f", and {len(worth) - len(shown)} more (-v)" if len(worth) > len(shown) else ""
    yield [
        ("  prefetch   ", "dim"),
        (time_text(found.ahead), "bold"),
        (" of transfers went on while other ops were at work", ""),
    ]
    yield line(f"             {said}{more}", "dim")


def traffic_lines(found: Report) -> Iterator[Line]:
    """The phases, where there are several, and what was moved by whom."""
    if len(found.phases) > 1:
        said = ", ".join(f"{p.phase or 'none'} {time_text(p.seconds)}" for p in found.phases)
        yield [("  phases     ", "dim"), (said, "")]
    named = {name.replace("bytes", "").strip(): number for name, number in found.bytes_moved.items() if number}
    if found.background is not None:
        reads = found.background
        several = "s" * (reads.channels != 1)
        offered = f"{reads.reads_per_cycle} reads a cycle offered to {reads.channels} channel{several}"
        served = f"{grouped(reads.reads_served)} served, {reads.bytes_per_cycle:.1f} B a cycle and channel"
        yield [("  background ", "dim"), (f"{offered}: ", ""), (served, "bold")]
    moved = [f"{name} {size_text(number)}" for name, number in named.items()]
    if moved:
        yield [("  moved      ", "dim"), (", ".join(moved), "")]


def paging_lines(sizes: Sequence[BlocksReport]) -> Iterator[Line]:
    """The blocks of paged caches."""
    for number, b in enumerate(sizes):
        said = f": {grouped(b.blocks)} blocks of {grouped(b.block_tokens)} tokens in each of {b.caches} caches, "
        said += f"{percent(b.filled)} filled, out of pools of {grouped(b.pool_blocks)}"
        said += " a channel" if b.lanes > 1 else ""
        said += f"; {_count(b.tables, 'table')} of {memory_text(b.table_bytes)} for {_count(b.requests, 'request')}"
        yield [("  caches     " if not number else " " * 13, "dim"), ("paged", "bold"), (said, "")]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


# -- memory -----------------------------------------------------------------------------------------------------------


def memory_table(program: Program, *, verbose: int = 0) -> list[Line]:
    """What lies in the memories of one device, and how much room there is."""
    from pimc.backends.engines import platform_of

    spaces = platform_of(program).spaces
    page: list[Line] = []
    for space in dict.fromkeys([*spaces, *(e.space for e in program.memory)]):
        entries = [e for e in program.memory if e.space == space and 0 in e.devices]
        used = program.extent.get(space, 0)
        if not entries and not used:
            continue
        room = spaces.get(space)
        share = f"{memory_text(used)} of {memory_text(room)} ({percent(used / room)})" if room else memory_text(used)
        sums = Counter[str]()
        pools: set[tuple[int, int]] = set()
        for e in entries:
            pool = e.blocks.pool if e.blocks is not None else None
            sums[e.role] += 0 if pool in pools else entry_bytes(e)
            pools |= {pool} if pool is not None else set()
        roles = [role for role in (*_LASTING, "temporary") if sums[role]]
        said = ", ".join(f"{_plural(role)} {memory_text(sums[role])}" for role in roles)
        label = "  memory     " if not page else " " * 13
        page.append([(label, "dim"), (space, "bold"), (f": {share}" + (f" · {said}" if said else ""), "")])
    if verbose:
        page += [line(), *memory_map(program)]
    return page


def memory_map(program: Program, limit: int = 0) -> list[Line]:
    """Every tensor with its place."""
    columns = [Column("memory map", "<", "", NAME_WIDTH), Column("role"), Column("type"), Column("size", ">")]
    columns += [Column("space"), Column("first byte", ">"), Column("devices")]
    rows = [_map_row(e) for e in program.memory[: limit or None]]
    page = table(columns, rows)
    if limit and len(program.memory) > limit:
        page.append(line(f"  and {len(program.memory) - limit} more", "dim"))
    return page


def block_tables(program: Program, limit: int = 0) -> list[Line]:
    """Which blocks each request has, in the order of its tokens; nothing where caches are contiguous."""
    found = list(blocks_of_requests(program))
    if not found:
        return []
    rows = [(name, request, " ".join(map(str, blocks))) for name, request, blocks in found[: limit or None]]
    page = [line(), *table((Column("block table"), Column("request"), Column("blocks", "<", "", NAME_WIDTH)), rows)]
    if limit and len(found) > limit:
        page.append(line(f"  and {len(found) - limit} more", "dim"))
    return page


def _map_row(e: MapEntry) -> list[str | Line]:
    from pimc.backends.assembly import ranks

    shape = ", ".join(str(n) for n in e.shape)
    share = f" (1/{e.shard[1]} of axis {e.shard[0]})" if e.shard else ""
    place = [e.name, e.role, f"{e.dtype.text}[{shape}]{share}", memory_text(entry_bytes(e)), e.space]
    return [*place, f"0x{e.layout.offset:x}", ranks(e.devices)]


def entry_bytes(e: MapEntry) -> int:
    if e.blocks is not None:
        return e.blocks.pool[1]
    return e.layout.elements * max(1, e.dtype.bits // 8)


def _plural(role: str) -> str:
    return {"temporary": "temporaries"}.get(role, f"{role}s")


# -- values -----------------------------------------------------------------------------------------------------------


def values_lines(found: Comparison | None, form: str, outputs: int, tolerance: float) -> Iterator[Line]:
    """Whether the streams computed what they should."""
    label = ("  values     ", "dim")
    if found is None:
        yield [label, (f"computed {_outputs(outputs)} in {form} format; nothing to compare with", "")]
    elif found.ok:
        worst = f"largest relative error {found.max_rel_err:.2g} of at most {tolerance:.2g}"
        yield [label, ("ok", "bold green"), (f": {_outputs(len(found.outputs))}, {worst}, {form} format", "")]
    else:
        wrong = [o for o in found.outputs if o.problem]
        yield [
            label,
            ("differ", "bold red"),
            (f" in {len(wrong)} of {_outputs(len(found.outputs))}, {form} format", ""),
        ]


def _outputs(number: int) -> str:
    return f"{number} output{'s' * (number != 1)}"


def plain_ops(ops: Sequence[OpRow]) -> list[Line]:
    """The ops of a program that was not simulated."""
    counts = Counter((o.op, o.nature, o.engine) for o in ops)
    columns = [Column("op"), Column("", ">"), Column("nature"), Column("engine", "<", "bold")]
    rows = [(op, f"{TIMES}{n}" if n > 1 else "", nature, e) for (op, nature, e), n in counts.most_common()]
    return table(columns, rows)
