"""Programs: what is emitted, stored, verified and executed.

A program holds one stream per engine (streams that many devices or channels share are stored once), the memory map
(where every tensor lies), and for each command the op that it came from. Streams hold commands and counted loops; the
unrolled stream is the meaning of the loop. Streams synchronise by SIGNAL and WAIT alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import field
from functools import cached_property
from typing import Any, Literal

from pimc.backends.isa import Command
from pimc.ir.blocks import Blocks
from pimc.ir.layout import Layout
from pimc.ir.requests import Request, Rows
from pimc.ir.types import DType
from pimc.ir.weights import Contents
from pimc.record import record

FORMAT_VERSION = 3


@record
class Step:
    """One command for one engine; `op` indexes the program's op table (-1: none).

    instances: which of the engine's instances (channels) take it; None for all that the program uses.
    """

    engine: str
    command: Command
    op: int = -1
    instances: tuple[int, ...] | None = None


@record
class Loop:
    """`body` repeated `count` times while `variable` counts from 0."""

    variable: int
    count: int
    body: tuple[Item, ...]


Item = Step | Loop


@record
class Stream:
    """The commands of one engine, in order.

    devices: ranks that execute it; instances: numbers of the engine's instances (channels) that execute it, each for
    itself. All those are in lock-step with respect to content, not to time.
    """

    engine: str
    devices: tuple[int, ...]
    instances: tuple[int, ...]
    items: tuple[Item, ...]


@record
class MapEntry:
    """Where a tensor lies: space, layout, and for weights what fills it.

    role: input, cache, weight, constant, output, table (of blocks) or temporary. `devices` are the ranks that hold it;
    with `shard` = (axis, count) rank r holds slice r % count of the whole tensor.
    """

    name: str
    role: str
    space: str
    dtype: DType
    """element type in the machine's storage"""
    layout: Layout
    logical: DType
    """element type in the graph"""
    devices: tuple[int, ...] = (0,)
    shard: tuple[int, int] | None = None
    contents: Contents | None = None
    alias: str | None = None
    """the input whose memory an output shares (a cache appended in place)"""
    extents: tuple[int, ...] | None = None
    """the tensor's shape where the layout has room to spare (a cache that will grow, rows padded to whole banks)"""
    rows: Rows | None = None
    """the requests that this place is for, where a batch has an order of its own or lengths that differ"""
    blocks: Blocks | None = None
    """how the layout's addresses come to blocks of the memory, if the cache is paged"""

    @property
    def shape(self) -> tuple[int, ...]:
        return self.layout.shape if self.extents is None else self.extents

    @property
    def memory(self) -> tuple[Layout, int]:
        """What it takes up of its space, and the bytes of an element of that: of a paged cache, its pool."""
        if self.blocks is None:
            return self.layout, max(1, self.dtype.bits // 8)
        first, length = self.blocks.pool
        return Layout(first, (((length, 1),),)), 1

    @property
    def whole_shape(self) -> tuple[int, ...]:
        """That of the tensor as users see it: of all devices, and of all requests."""
        shape = list(self.shape)
        if self.shard is not None:
            shape[self.shard[0]] *= self.shard[1]
        if self.rows is not None:
            shape[0] = self.rows.whole
            if self.rows.extent is not None:
                shape[self.rows.axis] = self.rows.extent
        return tuple(shape)


@record
class Cost:
    """Seconds of an op's own commands on an engine of an idle machine, or why that cannot run it."""

    engine: str
    seconds: float
    illegal: str = ""


@record
class PassRow:
    """A pass that ran, whether it changed the graph, and how many ops that had afterwards."""

    name: str
    changed: bool
    ops: int


@record
class OpRow:
    """What the report says of one op, and the provenance of its commands."""

    name: str
    op: str
    source: str
    """the places in the user's files"""
    passes: tuple[str, ...]
    """the passes that made it, outermost first"""
    phase: str
    nature: str
    engine: str
    reason: str
    flops: int
    bytes: int
    layer: int = -1
    shares: int = -1
    """the row whose commands, in a loop over identical layers, are this op's too; -1: it has its own"""
    costs: tuple[Cost, ...] = ()
    """what it takes by itself, on each engine that was asked"""
    beat: str = ""
    """the beat of the schedule that it belongs to, where there are barriers between beats"""
    weight: str = ""
    """the weight that it reads, where that is one"""


@record
class Flight:
    """What a run gives where queries follow each other through a pipeline: a token or more of each of them."""

    queries: int
    """in flight, one in each stage"""
    blocks: int
    """that a token goes through"""
    tokens: int
    """of each query, one after the other"""


Objective = Literal["latency", "throughput"]
"""What a split over devices is chosen for: the time of a query, or tokens a second of all queries."""


@record
class SplitCost:
    """A way to spread a model over devices, and what it would take: estimates, or why it is not possible."""

    pp: int
    """pipeline stages, which are the queries in flight"""
    tp: int
    """devices that share a stage's weights and heads"""
    latency_seconds: float = 0.0
    tokens_per_s: float = 0.0
    """of all queries: those in flight by the latency"""
    illegal: str = ""


@record
class Choice:
    """How a model is spread over devices, where pimc has chosen that."""

    objective: Objective
    best: SplitCost
    others: tuple[SplitCost, ...]
    """in their order, those that are not possible at the end"""
    reason: str

    @property
    def degrees(self) -> dict[str, int]:
        return {"pp": self.best.pp, "tp": self.best.tp}

    def to_json(self) -> dict[str, Any]:
        """As plain data, from which `choice_from` makes it again."""
        return {
            **self.degrees,
            "objective": self.objective,
            "reason": self.reason,
            "splits": [_plain_cost(cost) for cost in (self.best, *self.others)],
        }


def _plain_cost(cost: SplitCost) -> dict[str, Any]:
    if cost.illegal:
        return {"pp": cost.pp, "tp": cost.tp, "illegal": cost.illegal}
    return {
        "pp": cost.pp,
        "tp": cost.tp,
        "latency_seconds": cost.latency_seconds,
        "tokens_per_s": cost.tokens_per_s,
    }


def choice_from(plain: Any) -> Choice:
    """The choice of such data. Raises ValueError for what is none."""
    try:
        best, *others = (SplitCost(**cost) for cost in plain["splits"])
        objective: Objective = "throughput" if plain["objective"] == "throughput" else "latency"
        return Choice(objective, best, tuple(others), str(plain["reason"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"it lacks or has what it should not: {error}") from None


@record
class Program:
    """A compiled model. `target` is the resolved description of the machine (plain data), so that a stored program
    can be simulated by itself."""

    graph: str
    dims: Mapping[str, int]
    phase: str
    target: Mapping[str, Any]
    target_name: str
    target_hash: str
    devices: int
    streams: tuple[Stream, ...]
    memory: tuple[MapEntry, ...]
    ops: tuple[OpRow, ...]
    version: int = FORMAT_VERSION
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    no_values: str = ""
    """why it has a time and computes nothing; empty: it computes"""
    stages: int = 1
    """Of a pipeline; as many queries are in flight. The streams are the pass of one of them."""
    turns: int = 1
    """Stages that take turns on the same devices: a query that is done with one waits while the others, which serve
    other queries, take as long."""
    requests: tuple[Request, ...] = ()
    """The requests that the program is for, in the order in which it holds them, if they have lengths of their own."""
    flight: Flight | None = None
    extent: Mapping[str, int] = field(default_factory=dict)
    """Bytes of each space that the program uses, from address 0."""
    command: str = ""
    """The command line that compiles it, where one is known."""
    passes: tuple[PassRow, ...] = ()
    """The passes that made it, in their order."""
    choice: Choice | None = None
    """How it was decided over which devices the model is spread, where nobody said it."""

    @cached_property
    def target_text(self) -> str:
        """The description as JSON, the same for the same machine."""
        return json.dumps(self.target)

    @cached_property
    def known(self) -> set[str]:
        """What has been found out about it and need not be looked for again."""
        return set()

    def entry(self, name: str) -> MapEntry | None:
        return next((e for e in self.memory if e.name == name), None)


def steps(items: tuple[Item, ...]) -> Iterator[Step]:
    """Every command as written, loops not unrolled."""
    for item in items:
        if isinstance(item, Loop):
            yield from steps(item.body)
        else:
            yield item


def unrolled(items: tuple[Item, ...], variables: dict[int, int] | None = None) -> Iterator[Step]:
    """Every command as executed, operands resolved."""
    env = {} if variables is None else variables
    for item in items:
        if isinstance(item, Loop):
            for i in range(item.count):
                env[item.variable] = i
                yield from unrolled(item.body, env)
            env.pop(item.variable, None)
        else:
            yield Step(item.engine, item.command.resolved(env), item.op) if item.command.is_affine else item


def count(items: tuple[Item, ...]) -> int:
    """How many commands are executed."""
    return sum(item.count * count(item.body) if isinstance(item, Loop) else 1 for item in items)
