"""The built-in ops. Importing this package declares them all; find one by `pimc.ir.op.lookup`."""

from pimc.ir.ops import (
    activation,
    attention,
    caches,
    collective,
    contraction,
    contrib,
    elementwise,
    experts,
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
    "caches",
    "collective",
    "contraction",
    "contrib",
    "elementwise",
    "experts",
    "indexing",
    "movement",
    "normalization",
    "onnx_attention",
    "quantization",
    "reduction",
    "shape",
]
