"""Products with quantized weights, which stay as small in memory as the model keeps them."""

from __future__ import annotations

from typing import ClassVar

from pimc.ir.graph import Graph, Node, Rewriter
from pimc.ir.quantized import expanded_name
from pimc.ir.stage import GraphStage
from pimc.ir.types import DType, TensorType
from pimc.passes.building import Builder, operand_at
from pimc.passes.expand_quantized import expanded_contents
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import is_constant, opdef, operand, owner
from pimc.record import record

_LEVELS = frozenset({DType.I4, DType.U4, DType.I8, DType.U8})


@record
class FuseQuantizedPass(Pass):
    """Products read quantized weights as they are; what else is dequantized becomes a plain weight.

        %w = dequantize_linear(%levels, %scale, %zero) {axis=1, block_size=32}
        %y = matmul(%x, transpose(%w))
    ->  %y = quantized_matmul(%x, %levels, %scale, %zero) {axis=1, block_size=32, transposed=1}

    Engines that cannot expand levels as they read them get the weight by its values: `place` decides, and says so.
    """

    name: ClassVar[str] = "fuse-quantized"
    before: ClassVar[GraphStage] = GraphStage.CANONICAL

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        for node in graph.order():
            if node.op.name == "matmul":
                _fuse(node, rewriter)
        rewriter.remove_dead()
        for node in graph.order():
            if node.op.name == "dequantize_linear" and not graph.is_output(node.result):
                _expand(node, rewriter)


def _fuse(node: Node, rewriter: Rewriter) -> None:
    weight, transposed = operand_at(node, 1), 0
    while (step := owner(weight, "transpose", "cast")) is not None:
        if step.op.name == "transpose":
            transposed = 1 - transposed
        weight = operand_at(step, 0)
    source = owner(weight, "dequantize_linear")
    if source is None or weight.type.rank != 2 or not _is_low_bit(source):
        return
    levels, scale = operand_at(source, 0), operand_at(source, 1)
    attributes = {
        "axis": int(str(source.attribute("axis"))) % 2,
        "block_size": source.attribute("block_size"),
        "transposed": transposed,
    }
    operands = (operand_at(node, 0), levels, scale, operand(source, 2))
    rewriter.replace(node, opdef("quantized_matmul"), operands, attributes)


def _is_low_bit(source: Node) -> bool:
    """Whether a weight is made of levels that lie in memory, with scales of a shape that a matrix can have."""
    levels, scale = operand_at(source, 0), operand_at(source, 1)
    if levels.type.dtype not in _LEVELS or not all(is_constant(v) for v in source.inputs()):
        return False
    return scale.type.rank in (0, 1) or (scale.type.rank == 2 and bool(source.attribute("block_size")))


def _expand(node: Node, rewriter: Rewriter) -> None:
    """A dequantized weight that something else than a product reads: by its values, worked out before the run."""
    if not all(is_constant(v) and v.contents is not None for v in node.inputs()):
        return
    levels, scale = operand_at(node, 0), operand_at(node, 1)
    kind = TensorType(node.result.type.dtype, node.result.type.shape)
    axis, block = (int(str(node.attribute(name))) for name in ("axis", "block_size"))
    contents = expanded_contents(levels, scale, operand(node, 2), axis, block, kind.dtype)
    Builder(rewriter, node).replace(rewriter.weight(expanded_name(levels.name), kind, contents, source=levels.source))
