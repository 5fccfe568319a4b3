"""Decides which channel holds the keys and values of each request, and in which order requests are worked on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from functools import cache as remembered
from itertools import groupby, pairwise
from typing import ClassVar

from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail
from pimc.ir.graph import Graph, Rewriter, Role, Value
from pimc.ir.lengths import between_lengths
from pimc.ir.op import lookup
from pimc.ir.requests import Batch, Request
from pimc.ir.target import Engine, Target
from pimc.ir.types import DType, TensorType
from pimc.passes.manager import Pass, PassContext
from pimc.record import record

MOST_GROUPS = 32
"""Stretches of requests that are worked on one after the other, where they need not lie in channels of their own."""
GRAIN = 16
"""Key positions to which lengths are rounded up for estimates: PIM takes them by whole columns."""


class Balance(Enum):
    """How requests are shared out among channels."""

    AUTO = "auto"
    GREEDY = "greedy"
    ROUND_ROBIN = "round-robin"
    FILE = "file"


@record
class AssignRequestsPass(Pass):
    """Give each request of `--requests` a channel, on machines that keep keys and values of a request in one.

    "greedy" takes requests from the longest to the shortest and gives each to the channel with the least work so far,
    by the estimated time of its attention (greedy min-load bin packing); "round-robin" deals them out in the order of
    the file; "file" follows the column `channel`; "auto" does so if there is one, and is greedy otherwise. On other
    machines channels of the file mean nothing.

    Requests are then worked on in waves, the longest of each channel first. Machines without channels of requests take
    them from the longest to the shortest, in at most 32 groups of about the same length.
    """

    name: ClassVar[str] = "assign-requests"

    balance: Balance = Balance.AUTO

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        batch, target = context.batch, context.target
        if batch is None:
            return
        channels = target.request_channels if target is not None else 0
        if target is None or not channels:
            rewriter.set_batch(_by_length(batch))
            return
        requests = self._assigned(batch, channels, graph, target, context.parallel.get("tp", 1))
        rewriter.set_batch(_in_waves(batch, requests))

    def _assigned(self, batch: Batch, channels: int, graph: Graph, target: Target, ways: int) -> list[Request]:
        balance = self.balance
        if balance is Balance.AUTO:
            given = all(r.channel is not None for r in batch.requests)
            balance = Balance.FILE if given else Balance.GREEDY
        if balance is Balance.FILE:
            return _as_given(batch.requests, channels)
        if balance is Balance.ROUND_ROBIN:
            return [replace(r, channel=i % channels) for i, r in enumerate(batch.requests)]
        return _greedy(batch, channels, attention_seconds(graph, target, ways))


def _as_given(requests: Sequence[Request], channels: int) -> list[Request]:
    wrong: list[Diagnostic] = []
    for r in requests:
        if r.channel is None:
            said = f"request '{r.id}' has no channel, which assign-requests.balance=file asks for"
            wrong.append(Diagnostic(Kind.REQUESTS_BAD, said, r.source, help="fill the column 'channel'"))
        elif r.channel >= channels:
            said = f"request '{r.id}' is in channel {r.channel}, but the machine's are 0 to {channels - 1}"
            hint = "let pimc choose: --pass-config assign-requests.balance=greedy"
            wrong.append(Diagnostic(Kind.REQUESTS_BAD, said, r.source, help=hint))
    if wrong:
        raise CompileError(wrong)
    return list(requests)


def _greedy(batch: Batch, channels: int, seconds: Callable[[int], float]) -> list[Request]:
    """The longest first, each to the channel with the least load. Channels with many requests are neighbours then, so
    that the last of them are worked on together."""
    load = [0.0] * channels
    chosen: dict[int, int] = {}
    for r in sorted(batch.requests, key=lambda r: -r.past):
        best = min(range(channels), key=lambda c: load[c])
        load[best] += seconds(r.past + batch.new)
        chosen[r.row] = best
    requests = Counter(chosen.values())
    place = {c: i for i, c in enumerate(sorted(range(channels), key=lambda c: -requests[c]))}
    return [replace(r, channel=place[chosen[r.row]]) for r in batch.requests]


def attention_seconds(graph: Graph, target: Target, ways: int) -> Callable[[int], float]:
    """The estimated time of one request's attention with a number of keys; that number where there is no estimate.

    Heads are those of the graph's first cache, on one of `ways` devices.
    """
    cache = next((v for v in graph.inputs if v.type.rank == 4 and v.type.dtype.is_float), None)
    pim = next((e for e in target.engines() if e.kind == "pim"), None)
    heads, depth = cache.type.shape[1::2] if cache is not None else (None, None)
    if cache is None or pim is None or not isinstance(heads, int) or not isinstance(depth, int):
        return float
    shard = max(1, heads // ways)
    known = remembered(lambda tokens: _estimate(target, pim, cache.type.dtype, (shard, tokens, depth)))
    return lambda tokens: between_lengths(known, tokens, GRAIN)


def _estimate(target: Target, engine: Engine, dtype: DType, sizes: tuple[int, int, int]) -> float:
    """Seconds of the two products of attention for one new token of one request; its keys where it cannot run there."""
    heads, tokens, depth = sizes
    rewriter = Rewriter(Graph("estimate"), "estimate")

    def cache(name: str) -> Value:
        return rewriter.input(name, TensorType(dtype, (1, heads, tokens, depth)), role=Role.CACHE)

    q = rewriter.input("q", TensorType(dtype, (1, heads, 1, depth)))
    scores = rewriter.add(lookup("attention_scores"), (q, cache("keys")), {"scale": 1.0})
    context = rewriter.add(lookup("attention_context"), (scores.result, cache("values")))
    if any(target.why_not(node, engine) for node in (scores, context)):
        return float(tokens)
    return sum(target.estimate(node, engine) for node in (scores, context))


# -- order ------------------------------------------------------------------------------------------------------------


def _ordered(batch: Batch, requests: Sequence[Request], groups: Sequence[int]) -> Batch:
    place = {r.row: i for i, r in enumerate(batch.requests)}
    order = [place[r.row] for r in requests]
    return replace(
        batch,
        requests=tuple(requests),
        own_dims=tuple(batch.own_dims[i] for i in order),
        spread_dims=tuple(batch.spread_dims[i] for i in order),
        groups=tuple(groups),
    )


def _in_waves(batch: Batch, requests: Sequence[Request]) -> Batch:
    """The n-th longest requests of all channels are wave n; a group is a run of neighbouring channels of a wave.

    Waves of equal lengths in the same channels are one group.
    """
    lists: dict[int, list[Request]] = defaultdict(list)
    for r in sorted(requests, key=lambda r: -r.past):
        if r.channel is None:
            raise fail(Kind.REQUESTS_BAD, f"request '{r.id}' has no channel", r.source)
        lists[r.channel].append(r)
    runs: list[list[Request]] = []
    for turn in range(max(len(x) for x in lists.values())):
        wave = [(c, lists[c][turn]) for c in sorted(lists) if len(lists[c]) > turn]
        for _, members in groupby(enumerate(wave), key=lambda m: m[1][0] - m[0]):
            run = [r for _, (_, r) in members]
            if runs and _alike(runs[-1], run):
                runs[-1] += run
            else:
                runs.append(run)
    return _ordered(batch, [r for run in runs for r in run], [len(run) for run in runs])


def _alike(before: Sequence[Request], run: Sequence[Request]) -> bool:
    """Whether a run of a wave repeats the group before: the same channels again, and one length for all."""
    turns = len(before) // len(run)
    same = [r.channel for r in before] == [r.channel for r in run] * turns
    return same and len({r.past for r in (*before, *run)}) == 1


def _by_length(batch: Batch) -> Batch:
    """From the longest to the shortest, in groups that waste as little as possible on their longest member."""
    requests = [replace(r, channel=None) for r in sorted(batch.requests, key=lambda r: -r.past)]
    runs = [list(members) for _, members in groupby(requests, key=lambda r: r.past)]
    while len(runs) > MOST_GROUPS:
        waste = [len(b) * (a[0].past - b[0].past) for a, b in pairwise(runs)]
        at = waste.index(min(waste))
        runs[at : at + 2] = [runs[at] + runs[at + 1]]
    return _ordered(batch, requests, [len(run) for run in runs])
