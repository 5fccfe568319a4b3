"""The machine as passes see it where a target asks for CENT's published mapping."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pimc.backends.cent.decoder import Decoder, decoder_of
from pimc.backends.cent.program import Publisher
from pimc.backends.cent.rows import Rows, check_capacity
from pimc.backends.cent.split import Split, split_of
from pimc.backends.emission import op_rows, phase_of
from pimc.backends.machine import Machine
from pimc.backends.planning import Plan
from pimc.backends.program import Flight, MapEntry, OpRow, Program
from pimc.backends.target import TargetSpec, describe, target_hash
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.facts import Tile
from pimc.ir.graph import Graph, Node, Value
from pimc.ir.layout import Layout
from pimc.ir.memory import Home
from pimc.ir.target import Engine

NO_VALUES = (
    "CENT's published mapping writes where it should read (rotary), multiplies more columns than a row has, and stores "
    "values for one block of several; it has a time, and the target 'cent' computes"
)


@dataclass
class CentMachine(Machine):
    """Places everything as published: the mapping spreads blocks over devices by itself, and the graph stays whole."""

    @property
    def cuts_graphs(self) -> bool:
        return False

    def why_not(self, node: Node, engine: Engine) -> str:
        return "" if engine.kind == "pim" else "the published mapping has no choice of engines"

    def lying(self, node: Node, engine: Engine) -> Sequence[tuple[Value, Hashable]]:
        return ()

    def estimate(self, node: Node, engine: Engine) -> float:
        """There is nothing to choose between."""
        return 0.0

    def bound(self, node: Node, engine: Engine) -> str:
        return "as published"

    def tile(
        self, node: Node, engine: Engine, homes: Mapping[Value, Home], chain: Sequence[Node] = ()
    ) -> Tile | None:
        return None

    def plans(self, graph: Graph) -> Mapping[int, Plan]:
        return {}

    def homes(self, graph: Graph) -> Mapping[Value, Home]:
        """Rows of banks are the mapping's own business; what does not fit is refused."""
        decoder = decoder_of(graph)
        split = split_of(self.spec, len(decoder.blocks), self.parallel)
        check_capacity(self.spec, split, Publisher(self.spec, split, decoder, {}).rows, len(decoder.blocks), graph.name)
        return {}

    def emit(self, graph: Graph, dims: Mapping[str, int]) -> Program:
        if self.spec.analytic is None or self.spec.pim is None or self.spec.pim.style != "aim":
            raise fail(
                Kind.UNAVAILABLE, f"the mapping 'cent' needs GDDR6-AiM and the group 'analytic' in '{self.name}'"
            )
        decoder = decoder_of(graph)
        split = split_of(self.spec, len(decoder.blocks), self.parallel)
        nodes = graph.scheduled()
        publisher = Publisher(self.spec, split, decoder, {node: index for index, node in enumerate(nodes)})
        return Program(
            graph=graph.name,
            dims=dict(dims),
            phase=phase_of(graph).value,
            target=describe(self.spec),
            target_name=self.spec.name,
            target_hash=target_hash(self.spec),
            devices=split.used,
            streams=publisher.streams(),
            memory=tuple(_memory(publisher.rows, self.spec, split)),
            ops=tuple(_rows_of_ops(nodes, decoder, publisher.ops)),
            no_values=NO_VALUES,
            extent={"dram": self.spec.dram.bytes, "buffer": self.spec.buffer_bytes},
            flight=Flight(split.stages, len(decoder.blocks), len(decoder.positions)),
        )


def _rows_of_ops(nodes: Sequence[Node], decoder: Decoder, ops: Mapping[Node, int]) -> Iterator[OpRow]:
    """The table of ops; `layer` is the block, for what a block spends is told apart by it."""
    block_of = {ops[node]: index for index, block in enumerate(decoder.blocks) for node in block.nodes()}
    for index, row in enumerate(op_rows(nodes, _leaders(decoder, ops))):
        yield replace(row, layer=block_of.get(index, -1))


def _leaders(decoder: Decoder, ops: Mapping[Node, int]) -> Mapping[int, int]:
    """For ops of all blocks but the first, those of the first, whose commands theirs are."""
    first = tuple(decoder.blocks[0].nodes())
    return {
        ops[node]: ops[leader]
        for block in decoder.blocks[1:]
        for node, leader in zip(block.nodes(), first, strict=True)
    }


def _memory(rows: Rows, spec: TargetSpec, split: Split) -> list[MapEntry]:
    """What lies in which rows of every bank, for the first block of a device."""
    stride, storage = spec.dram.geometry.stride_row, spec.storage_dtype
    width = spec.element_bytes
    return [
        MapEntry(
            name=name,
            role="weight" if name.endswith("_weight") else "cache" if name in ("keys", "values") else "temporary",
            space="dram",
            dtype=storage,
            layout=Layout(first * stride, (((count, stride),), ((stride // width, width),))),
            logical=storage,
            devices=tuple(range(split.used)),
        )
        for name, first, count in rows.named()
    ]
