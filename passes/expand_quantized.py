"""Quantized products as engines without low-bit formats take them: plain products with the weight by its values."""

from __future__ import annotations

from dataclasses import replace

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.quantized import Dequantized, expanded_name
from pimc.ir.types import DType, TensorType
from pimc.ir.weights import Contents, Sharded
from pimc.passes.building import operand_at
from pimc.passes.match import opdef, operand


def expanded_contents(
    levels: Value, scale: Value, zero: Value | None, axis: int, block_size: int, dtype: DType
) -> Dequantized:
    """The contents of the whole weight that levels, scales and zero points (or a device's parts of them) stand for."""
    at = axis % max(1, levels.type.rank)
    zeros = _whole(zero) if zero is not None else None
    return Dequantized(_whole(levels), _whole(scale), zeros, at, block_size, dtype)


def _whole(value: Value) -> Contents:
    assert value.contents is not None
    return value.contents.whole if isinstance(value.contents, Sharded) else value.contents


def _weight_of(node: Node) -> tuple[TensorType, Dequantized]:
    """Type and contents of the weight [K, N] that the levels of a quantized product stand for."""
    x, levels, scale = (operand_at(node, i) for i in range(3))
    axis, block = (int(str(node.attribute(name))) for name in ("axis", "block_size"))
    contents = expanded_contents(levels, scale, operand(node, 3), axis, block, x.type.dtype)
    shape = levels.type.shape
    if node.attribute("transposed"):
        contents, shape = replace(contents, transposed=True), shape[::-1]
    return TensorType(x.type.dtype, shape), contents


def expanded_product(node: Node) -> Node:
    """A node, in no graph, that computes the same with a plain weight: for questions about it."""
    kind, contents = _weight_of(node)
    weight = Value(expanded_name(operand_at(node, 1).name), kind, Role.WEIGHT, contents=contents)
    return replace(node, op=opdef("matmul"), operands=(operand_at(node, 0), weight), attributes={})


def expand_weight(node: Node, rewriter: Rewriter) -> Node:
    """The product with a plain weight in the place of a quantized one; products that share a weight share this too."""
    kind, contents = _weight_of(node)
    levels = operand_at(node, 1)
    found = rewriter.graph.value(expanded_name(levels.name))
    if found is None or found.type != kind:
        shard = None
        if levels.shard is not None:
            axis, count = levels.shard
            shard = (1 - axis if contents.transposed else axis), count
        held = contents if shard is None else Sharded(contents, *shard)
        found = rewriter.weight(expanded_name(levels.name), kind, held, source=levels.source)
        found.shard = shard
    return rewriter.replace(node, opdef("matmul"), (operand_at(node, 0), found))
