"""What a canonical graph is to CENT's mapping: an embedding, equal decoder blocks of Llama's shape, and a head.

Blocks are recognised by how their ops are wired, and all sizes are those of the ops' types.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

from pimc.ir.diagnostics import CompileError, Kind, fail
from pimc.ir.graph import Graph, Node, Value
from pimc.ir.views import is_view_op
from pimc.record import record


@record
class Block:
    """The ops of one decoder block."""

    norm: Node
    query: Node
    key: Node
    value: Node
    rotate_query: Node
    rotate_key: Node
    keys: Node
    """the append to the cache"""
    values: Node
    scores: Node
    softmax: Node
    context: Node
    output: Node
    attention_sum: Node
    ffn_norm: Node
    gate: Node
    up: Node
    activation: Node
    product: Node
    down: Node
    ffn_sum: Node

    def nodes(self) -> Iterator[Node]:
        for field in fields(self):
            yield getattr(self, field.name)


@record
class BlockSizes:
    """The sizes of a block."""

    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int

    @property
    def queries(self) -> int:
        """Query heads that share a key and value head."""
        return self.heads // self.kv_heads

    @property
    def query_width(self) -> int:
        return self.heads * self.head_size

    @property
    def key_width(self) -> int:
        return self.kv_heads * self.head_size


@record
class Decoder:
    """A model as the mapping sees it."""

    blocks: tuple[Block, ...]
    sizes: BlockSizes
    positions: tuple[int, ...]
    """for each new token, the keys that it attends to: its position + 1"""
    embedding: Node | None
    final_norm: Node | None
    head: Node | None
    vocabulary: int
    """0: there is neither embedding nor head"""

    @property
    def outside(self) -> tuple[Node, ...]:
        """The ops before and after the blocks, in the order of their commands."""
        return tuple(n for n in (self.embedding, self.final_norm, self.head) if n is not None)


def decoder_of(graph: Graph) -> Decoder:
    """Read a graph. Raises CompileError (UNAVAILABLE) where it is none that the mapping has a place for."""
    anchors = [n for n in graph.order() if n.op.name == "attention_scores"]
    if not anchors:
        raise _no_place(graph, None, "it has no attention over keys and values that are appended to caches")
    blocks = tuple(_block(graph, node) for node in anchors)
    sizes = {_sizes(block) for block in blocks}
    if len(sizes) > 1:
        raise _no_place(graph, None, f"its blocks are of {len(sizes)} different sizes")
    rest = _rest(graph, blocks)
    query = blocks[0].scores.operands[0]
    assert query is not None
    batch, _, tokens, _ = query.type.static_shape
    if batch != 1:
        raise fail(
            Kind.UNAVAILABLE,
            f"the published mapping takes one request, not a batch of {batch}",
            help="its batch is the number of pipeline stages: --parallel pp=N, one query in each",
        )
    keys = blocks[0].keys.result.type.static_shape[2]
    positions = tuple(range(keys - tokens + 1, keys + 1))
    vocabulary = 0 if rest.head is None else rest.head.result.type.static_shape[-1]
    return Decoder(blocks, sizes.pop(), positions, rest.embedding, rest.norm, rest.head, vocabulary)


def _no_place(graph: Graph, node: Node | None, why: str) -> CompileError:
    what = f"'{graph.name}'" if node is None else f"%{node.name} ({node.op.name})"
    return fail(
        Kind.UNAVAILABLE,
        f"the published mapping has no place for {what}: {why}",
        None if node is None else node.source,
        help="it maps decoders of Llama's shape; the target 'cent' takes any model",
    )


# -- blocks -----------------------------------------------------------------------------------------------------------


class _Way:
    """Steps from op to op through views."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph

    def before(self, node: Node, index: int, wanted: str) -> Node:
        """The op that computes an operand."""
        value = node.operands[index]
        while value is not None and value.owner is not None and is_view_op(value.owner):
            value = value.owner.operands[0]
        owner = None if value is None else value.owner
        if owner is None or owner.op.name != wanted:
            found = "an input" if owner is None else owner.op.name
            raise _no_place(self.graph, node, f"its operand {index} comes from {found}, not from {wanted}")
        return owner

    def after(self, node: Node, wanted: str, index: int = 0) -> Node:
        """The one op of a kind that reads a result."""
        found = [n for n in self.readers(node.results[index]) if n.op.name == wanted]
        if len(found) != 1:
            raise _no_place(self.graph, node, f"{len(found)} ops {wanted} read it, not one")
        return found[0]

    def readers(self, value: Value) -> list[Node]:
        found: list[Node] = []
        for node in dict.fromkeys(self.graph.users(value)):
            found += self.readers(node.result) if is_view_op(node) else [node]
        return found


def _block(graph: Graph, scores: Node) -> Block:
    way = _Way(graph)
    rotate_query, keys = way.before(scores, 0, "rotary"), way.before(scores, 1, "cache_append")
    rotate_key = way.before(keys, 1, "rotary")
    query, key = way.before(rotate_query, 0, "matmul"), way.before(rotate_key, 0, "matmul")
    softmax = way.after(scores, "attention_softmax")
    context = way.after(softmax, "attention_context")
    values = way.before(context, 1, "cache_append")
    value = way.before(values, 1, "matmul")
    norm = way.before(query, 0, "rms_norm")
    output = way.after(context, "matmul")
    attention_sum = way.after(output, "add")
    ffn_norm = way.after(attention_sum, "rms_norm")
    wide = [n for n in way.readers(ffn_norm.result) if n.op.name == "matmul"]
    gates = [n for n in wide if any(u.op.name == "silu" for u in way.readers(n.result))]
    if len(wide) != 2 or len(gates) != 1:
        raise _no_place(graph, ffn_norm, f"{len(wide)} products read it, {len(gates)} of them through silu")
    gate = gates[0]
    activation = way.after(gate, "silu")
    product = way.after(activation, "mul")
    down = way.after(product, "matmul")
    return Block(
        norm, query, key, value, rotate_query, rotate_key, keys, values, scores, softmax, context, output,
        attention_sum,
        ffn_norm, gate, next(n for n in wide if n is not gate), activation, product, down, way.after(down, "add"),
    )  # fmt: skip


def _sizes(block: Block) -> BlockSizes:
    query = block.scores.operands[0]
    assert query is not None
    _, heads, _, head_size = query.type.static_shape
    kv_heads = block.keys.result.type.static_shape[1]
    hidden = block.norm.result.type.static_shape[-1]
    return BlockSizes(hidden, heads, kv_heads, head_size, block.gate.result.type.static_shape[-1])


# -- the rest ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Rest:
    embedding: Node | None = None
    norm: Node | None = None
    head: Node | None = None


def _rest(graph: Graph, blocks: Sequence[Block]) -> _Rest:
    """What is left: at most an embedding table, a norm and a head."""
    taken = {node for block in blocks for node in block.nodes()}
    rest = _Rest()
    slots = {"gather": "embedding", "rms_norm": "norm", "matmul": "head"}
    for node in graph.order():
        if node in taken or is_view_op(node):
            continue
        slot = slots.get(node.op.name)
        if slot is None or getattr(rest, slot) is not None:
            raise _no_place(graph, node, "it is no part of a block, an embedding or a head")
        setattr(rest, slot, node)
    parts = [rest.embedding, rest.norm, rest.head]
    if any(p is None for p in parts) and any(p is not None for p in parts):
        found = next(p for p in parts if p is not None)
        raise _no_place(graph, found, "embedding, final norm and head come together or not at all")
    return rest
