"""The program of a decoder under CENT's published mapping.

What a token goes through is a sum, as published: for each block the time of its trace, then that of its PNM units, then
that of its link; before the blocks the trace of embedding and head, at the end the host. The streams of a device wait
for each other in this order. All devices that do the same share their streams; while a token takes its way, every stage
works for a query of its own, so that a run gives one token of each query in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial

from pimc.backends.analytic.isa import BroadcastVector, GatherVector, HostToken, Norm, Rotate, SendVector, Softmax
from pimc.backends.cent.decoder import Block, Decoder
from pimc.backends.cent.rows import Geometry, Rows, rows_of
from pimc.backends.cent.split import Split
from pimc.backends.cent.stream import Writer
from pimc.backends.emitter import Emitter
from pimc.backends.isa import Command, Signal, Wait
from pimc.backends.pim.aim_isa import BeginTrace, EndTrace
from pimc.backends.program import Item, Step, Stream, steps
from pimc.backends.target import TargetSpec
from pimc.ir.graph import Node
from pimc.record import record

BLOCK, EMBEDDING = 0, 1
"""The traces of a program."""
PIM, PNM, LINK, HOST = "pim", "pnm", "link", "host"
TRACE_DONE, PNM_DONE, LINK_DONE, MODEL_DONE = range(4)
"""Semaphores."""
SIGMOID = "sigmoid"


@dataclass
class Streams:
    """What the engines of one device do, as it is written."""

    emitters: dict[str, Emitter] = field(default_factory=lambda: {name: Emitter() for name in (PIM, PNM, LINK, HOST)})

    def issue(self, engine: str, command: Command, op: int) -> None:
        self.emitters[engine].op = op
        self.emitters[engine].issue(engine, command)

    def take(self, written: Iterable[Step]) -> None:
        for step in written:
            self.issue(step.engine, step.command, step.op)

    def items(self, engine: str) -> tuple[Item, ...]:
        return self.emitters[engine].take()


@record
class Publisher:
    """Writes the streams of a decoder. ops: the row of each node in the table of ops."""

    spec: TargetSpec
    split: Split
    decoder: Decoder
    ops: Mapping[Node, int]

    @property
    def geometry(self) -> Geometry:
        return Geometry.of(self.spec, self.split)

    @property
    def rows(self) -> Rows:
        return rows_of(self.decoder.sizes, self.geometry)

    def writer(self, emit: Emitter) -> Writer:
        return Writer(self.spec, self.split, self.decoder.sizes, self.geometry, self.rows, emit)

    def streams(self) -> tuple[Stream, ...]:
        """Those of the masters, and those of the devices that only multiply with weights."""
        master, helper = self._master(), self._helper() if self.split.helpers else Streams()
        streams = [Stream(name, self.split.masters, (0,), master.items(name)) for name in (PIM, PNM, LINK, HOST)]
        streams += [Stream(name, self.split.helpers, (0,), helper.items(name)) for name in (PIM, PNM, LINK)]
        return tuple(s for s in streams if s.items)

    def items(self, write: Callable[[Writer], None]) -> tuple[Item, ...]:
        """What is written, by itself."""
        emit = Emitter()
        write(self.writer(emit))
        return emit.take()

    def _master(self) -> Streams:
        streams, blocks = Streams(), self.decoder.blocks
        emitters = streams.emitters
        first = self.ops[blocks[0].norm]
        for keys in self.decoder.positions:
            if self.decoder.head is not None:
                self._traced(emitters[PIM], EMBEDDING, self.embedding_alone)
            with emitters[PIM].loop(len(blocks)), emitters[PNM].loop(len(blocks)), emitters[LINK].loop(len(blocks)):
                self._traced(emitters[PIM], BLOCK, partial(self.block, keys=keys))
                streams.issue(PIM, Signal(TRACE_DONE), first)
                streams.issue(PNM, Wait(TRACE_DONE), first)
                streams.take(self.units(keys))
                streams.issue(PNM, Signal(PNM_DONE), first)
                streams.issue(LINK, Wait(PNM_DONE), first)
                streams.take(self.transfers())
                streams.issue(LINK, Signal(LINK_DONE), first)
                streams.issue(PIM, Wait(LINK_DONE), first)
            if self.decoder.head is not None:
                last = self.ops[self.decoder.head]
                streams.issue(PIM, Signal(MODEL_DONE), last)
                streams.issue(HOST, Wait(MODEL_DONE), last)
                streams.issue(HOST, HostToken(), last)
                streams.issue(HOST, Signal(MODEL_DONE + 1), last)
                streams.issue(PIM, Wait(MODEL_DONE + 1), last)
        return streams

    def _helper(self) -> Streams:
        """A device that is no master. It is waited for by nobody, since it has less to do; its units and its link are
        taken to do what the master's do, as CENT counts their energy."""
        streams, count = Streams(), len(self.decoder.blocks)
        emitters = streams.emitters
        for keys in self.decoder.positions:
            if self.decoder.head is not None:
                self._traced(emitters[PIM], EMBEDDING, lambda writer: self._embedding(writer, lambda _: None))
            with emitters[PIM].loop(count):
                self._traced(emitters[PIM], BLOCK, self.products_alone)
            with emitters[PNM].loop(count):
                streams.take(self.units(keys))
            with emitters[LINK].loop(count):
                streams.take(self.transfers())
        return streams

    # -- traces ---------------------------------------------------------------------------------------------------

    def _at(self, writer: Writer, node: Node) -> Writer:
        """Commands that follow are this node's."""
        writer.emit.op = self.ops[node]
        return writer

    def _traced(self, emit: Emitter, number: int, write: Callable[[Writer], None]) -> None:
        """Commands that are timed by themselves. Their beginning and end are put down to the first and the last op."""
        items = self.items(write)
        emit.op = next(steps(items)).op
        emit.issue(PIM, BeginTrace(number))
        write(self.writer(emit))
        emit.issue(PIM, EndTrace())

    def block(self, writer: Writer, keys: int) -> None:
        """The commands of a block, in the published order."""
        self.before_keys(writer)
        for part in self.of_keys():
            part(writer, keys)
        self.after_keys(writer)

    def before_keys(self, writer: Writer) -> None:
        """The part of a block that comes before the cache, and does not depend on its length."""
        block, rows = self.decoder.blocks[0], self.rows
        self._at(writer, block.norm).norm(rows.x, rows.x_copy, rows.norm, (0, 1))
        for product in self._block_products(writer, block)[:3]:
            product()
        writer.rotary(self.ops[block.rotate_query], self.ops[block.rotate_key])

    def of_keys(self) -> tuple[Callable[[Writer, int], None], ...]:
        """The parts that depend on the number of keys, in order."""
        block = self.decoder.blocks[0]
        return (
            lambda writer, keys: self._at(writer, block.keys).append_key(keys),
            lambda writer, keys: self._at(writer, block.values).append_value(keys),
            lambda writer, keys: self._at(writer, block.scores).scores(keys),
            lambda writer, keys: self._at(writer, block.softmax).softmax(keys),
            lambda writer, keys: self._at(writer, block.context).context(keys),
        )

    def after_keys(self, writer: Writer) -> None:
        """The rest of a block."""
        block, rows = self.decoder.blocks[0], self.rows
        output, gate, up, down = self._block_products(writer, block)[3:]
        output()
        self._at(writer, block.attention_sum).add()
        self._at(writer, block.ffn_norm).norm(rows.sum_copy, rows.sum_copy, rows.ffn_norm, (1, 0))
        gate()
        up()
        writer.gated(self.ops[block.activation], self.ops[block.product])
        down()
        self._at(writer, block.ffn_sum).add()

    def _block_products(self, writer: Writer, block: Block) -> tuple[Callable[[], None], ...]:
        """What writes each product with a weight, in order."""
        sizes, rows = self.decoder.sizes, self.rows
        products = (
            (block.query, sizes.hidden, sizes.query_width, rows.query_weight, ""),
            (block.key, sizes.hidden, sizes.key_width, rows.key_weight, ""),
            (block.value, sizes.hidden, sizes.key_width, rows.value_weight, ""),
            (block.output, sizes.query_width, sizes.hidden, rows.output_weight, ""),
            (block.gate, sizes.hidden, sizes.ffn, rows.gate_weight, SIGMOID),
            (block.up, sizes.hidden, sizes.ffn, rows.up_weight, ""),
            (block.down, sizes.ffn, sizes.hidden, rows.down_weight, ""),
        )

        def of(node: Node, inputs: int, outputs: int, row: int, function: str) -> Callable[[], None]:
            return lambda: self._at(writer, node).gemv(inputs, outputs, row, function)

        return tuple(of(*each) for each in products)

    def _embedding(self, writer: Writer, norm: Callable[[Writer], None]) -> None:
        """The table times a vector with a single 1, the rest of a norm, and the head; in a block's rows."""
        decoder, rows = self.decoder, self.rows
        assert decoder.embedding is not None and decoder.head is not None
        writer.emit.op = self.ops[decoder.embedding]
        writer.gemv(decoder.vocabulary, decoder.sizes.hidden, rows.query_weight)
        norm(writer)
        self._at(writer, decoder.head).gemv(decoder.sizes.hidden, decoder.vocabulary, rows.output_weight)

    def embedding_alone(self, writer: Writer) -> None:
        """The same on a master, outside of a trace."""
        self._embedding(writer, self._norm)

    def _norm(self, writer: Writer) -> None:
        assert self.decoder.final_norm is not None
        rows = self.rows
        self._at(writer, self.decoder.final_norm).norm(rows.x, rows.x_copy, rows.norm, (1,), is_written=False)

    def products_alone(self, writer: Writer) -> None:
        """What devices that are no masters do for a block."""
        block = self.decoder.blocks[0]
        writer.emit.op = self.ops[block.query]
        for write in self._block_products(writer, block):
            write()

    # -- closed forms ---------------------------------------------------------------------------------------------

    def units(self, keys: int) -> Iterator[Step]:
        """The PNM shares of a block."""
        block, sizes, turns = self.decoder.blocks[0], self.decoder.sizes, self.split.turns
        shares = (
            (block.norm, Norm(sizes.hidden, turns)),
            (block.rotate_query, Rotate(sizes.query_width, turns)),
            (block.rotate_key, Rotate(sizes.key_width, turns)),
            (block.softmax, Softmax(sizes.heads, keys, turns)),
            (block.ffn_norm, Norm(sizes.hidden, turns)),
        )
        for node, command in shares:
            yield Step(PNM, command, self.ops[node])

    def transfers(self) -> Iterator[Step]:
        """What a block moves between devices. In groups every product's input goes out to all and its result comes
        back; gate and up share both ways, and keys and values count as much as queries, as published."""
        block, sizes, ranks = self.decoder.blocks[0], self.decoder.sizes, self.split.ranks
        if self.split.is_shared:
            yield Step(LINK, SendVector(sizes.hidden), self.ops[block.ffn_sum])
            return
        hidden = BroadcastVector(sizes.hidden), GatherVector(sizes.hidden, ranks)
        moves: list[tuple[Node, Command]] = [
            (node, command) for node in (block.query, block.key, block.value, block.output) for command in hidden
        ]
        moves += [
            (block.gate, hidden[0]),
            (block.up, GatherVector(sizes.ffn, ranks)),
            (block.down, BroadcastVector(sizes.ffn)),
            (block.down, hidden[1]),
        ]
        for node, command in moves:
            yield Step(LINK, command, self.ops[node])
