"""Splits a batch of requests in two, so that one half is in the banks while the other is on the NPU."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import Enum
from typing import ClassVar

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Placement, Queue, SubBatch
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.requests import Batch, Request
from pimc.ir.stage import GraphStage
from pimc.ir.target import MOST_HELD, Target
from pimc.passes.assign_requests import attention_seconds
from pimc.passes.beats import ATTENTION
from pimc.passes.held_weights import hold_weights
from pimc.passes.manager import Pass, PassContext
from pimc.passes.schedule import finish_seconds
from pimc.record import record

LEAST_SHARE = 8
"""Halves are looked at where attention in PIM takes at least one part in so many of the time: no more can be hidden."""



class Use(Enum):
    """Whether the batch is split."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


class Split(Enum):
    """How requests are shared out between the halves."""

    LOAD = "load"
    HALVES = "halves"


@record
class SubBatchesPass(Pass):
    """Split the batch of `--requests` in two sub-batches, which take turns on the NPU and in PIM.

        %s = attention_scores(%q, %k) : [64, ..]    %s/1 = attention_scores(%q/1, %k/1) : [32, ..]  #half=0
        %y = matmul(%x, %w)           : [64, ..] -> %y/2 = matmul(%x/2, %w)             : [32, ..]  #half=1
                                                    ..

    Each half is a graph of its own, whose weights are those of the other. "auto" splits where the estimated times of
    the ops, each engine working in order, end sooner so: every half reads all weights, which must be worth it.
    split: "load" gives each half the same estimated time of attention in every channel as far as possible; "halves" the
    first and the second half of each channel's requests in the order of the file, odd ones in turns.
    hold: the percentage of the on-chip buffer for weights that come once for both halves (`hold`); 0: none do.
    Does nothing without `--requests`.
    """

    name: ClassVar[str] = "sub-batches"
    before: ClassVar[GraphStage] = GraphStage.PLACED
    after: ClassVar[GraphStage] = GraphStage.PLACED

    use: Use = Use.AUTO
    split: Split = Split.LOAD
    hold: int = 75

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if not 0 <= self.hold <= MOST_HELD:
            raise fail(Kind.PASS_OPTION, f"sub-batches.hold is between 0 and {MOST_HELD}, not {self.hold}")
        batch, target, instance = graph.batch, context.target, context.instance
        if self.use is Use.OFF or batch is None or target is None:
            return
        load = attention_seconds(graph, target, 1) if self.split is Split.LOAD else None
        halves = _split(batch.requests, load)
        if not all(halves) or instance is None:
            if self.use is Use.ON:
                why = "there is one request" if not all(halves) else "its model is no file"
                raise fail(Kind.PASS_OPTION, f"sub-batches.use=on: the batch cannot be split, since {why}")
            return
        whole = finish_seconds(graph, target)
        if self.use is Use.AUTO and attention_in_pim(graph, target) * LEAST_SHARE < whole:
            return
        joined = join([instance(half) for half in halves], batch)
        hold_weights(joined, Rewriter(joined, self.name), target, self.hold)
        if self.use is Use.ON or finish_seconds(joined, target) < whole:
            rewriter.become(joined)


def attention_in_pim(graph: Graph, target: Target) -> float:
    """Estimated seconds of attention in PIM."""
    engines = {e.name: e for e in target.engines() if e.kind == "pim"}
    found = 0.0
    for node in graph.order():
        placement = node.fact(Placement)
        if node.op.name in ATTENTION and placement is not None and placement.engine in engines:
            found += target.estimate(node, engines[placement.engine])
    return found


Load = Callable[[int], float]
"""What a request with a number of keys is to PIM."""


def _split(requests: Sequence[Request], load: Load | None) -> tuple[list[Request], list[Request]]:
    """The requests of both halves, in the order of the user's file. load: None: by their number in each channel."""
    channels: dict[int, list[Request]] = defaultdict(list)
    for r in sorted(requests, key=lambda r: r.row):
        channels[-1 if r.channel is None else r.channel].append(r)
    halves: tuple[list[Request], list[Request]] = ([], [])
    more = 0
    for channel in sorted(channels):
        members = channels[channel]
        if load is not None:
            for half, chosen in zip(halves, _balanced(members, halves, load), strict=True):
                half += chosen
            continue
        middle = (len(members) + 1 - more) // 2
        more ^= len(members) % 2
        halves[0].extend(members[:middle])
        halves[1].extend(members[middle:])
    return tuple(sorted(half, key=lambda r: r.row) for half in halves)  # type: ignore[return-value]


def _balanced(
    members: Sequence[Request], before: Sequence[Sequence[Request]], load: Load
) -> tuple[list[Request], list[Request]]:
    """Requests of a channel, from the longest to the shortest, each to the half with less load in this channel, then
    with fewer requests so far."""
    chosen: tuple[list[Request], list[Request]] = ([], [])
    sums = [0.0, 0.0]
    for r in sorted(members, key=lambda r: (-r.past, r.row)):
        half = min((0, 1), key=lambda i: (sums[i], len(before[i]) + len(chosen[i]), i))
        chosen[half].append(r)
        sums[half] += load(r.past + r.new)
    return chosen


def join(graphs: Sequence[Graph], batch: Batch) -> Graph:
    """One graph of the graphs of both halves; weights and constants that both have are one.

    Values of the halves are called `name/1` and `name/2`.
    """
    joined = Graph(graphs[0].name)
    rewriter = Rewriter(joined, "sub-batches")
    parts: list[Batch] = []
    for index, graph in enumerate(graphs):
        own = graph.batch
        assert own is not None
        names = rewriter.absorb(graph, f"/{index + 1}")
        parts.append(replace(own, names=names))
        for node in joined.order():
            if node.fact(SubBatch) is None:
                rewriter.set_fact(node, SubBatch(index))
                if node.op.name in ATTENTION:
                    rewriter.set_fact(node, Queue("pim"))
    requests = tuple(r for part in parts for r in part.requests)
    rewriter.set_batch(replace(batch, requests=requests, halves=tuple(parts), groups=()))
    joined.defaults.update(graphs[0].defaults)
    return joined
