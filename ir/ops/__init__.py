"""The built-in ops. Importing this package declares them all; find one by `pimc.ir.op.lookup`."""

from pimc.ir.ops import (
    activation,
    attention,
    collective,
    contraction,
    contrib,
    elementwise,
    indexing,
    movement,
    normalization,
    onnx_attention,
    quantization,
    reduction,
    shape,
)

__all__ = [
    "activation",
    "attention",
    "collective",
    "contraction",
    "contrib",
    "elementwise",
    "indexing",
    "movement",
    "normalization",
    "onnx_attention",
    "quantization",
    "reduction",
    "shape",
]
