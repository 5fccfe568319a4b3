"""Random inputs that a model accepts: indices in the range of what they index, masks that mask nothing."""

from __future__ import annotations

import numpy as np

from pimc.ir.graph import Graph, Value
from pimc.ir.op import Array
from pimc.ir.types import DType

_PASSES_INDICES = frozenset(
    {"cast", "reshape", "unsqueeze", "squeeze", "expand", "identity", "flatten", "slice", "concat"}
)
_CHAIN = 8


def random_inputs(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """An array for every input of a bound graph, the same for the same graph and seed.

    Floats are normal. Integers that index something (token ids, positions) are drawn from what can be indexed; others
    (attention masks, lengths of one) are ones. Booleans are true.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    arrays: dict[str, Array] = {}
    for value in graph.inputs:
        shape, dtype = value.type.static_shape, value.type.dtype
        if dtype.is_float:
            arrays[value.name] = generator.standard_normal(shape, np.float32).astype(dtype.numpy)
        elif dtype is DType.BOOL:
            arrays[value.name] = np.ones(shape, np.bool_)
        else:
            bound = index_bound(graph, value)
            drawn = generator.integers(0, bound, shape) if bound is not None else np.ones(shape, np.int64)
            arrays[value.name] = drawn.astype(dtype.numpy)
    return arrays


def index_bound(graph: Graph, value: Value) -> int | None:
    """How many entries the smallest table has that a value indexes; None if it indexes nothing."""
    found: list[int] = []
    reached = [value]
    for _ in range(_CHAIN):
        following: list[Value] = []
        for each in reached:
            for node in graph.users(each):
                if node.op.name == "gather" and node.operands[1] is each and node.operands[0] is not None:
                    axis = node.attribute("axis")
                    extent = node.operands[0].type.static_shape[axis if isinstance(axis, int) else 0]
                    found.append(extent)
                elif node.op.name == "expert_matmul" and node.operands[2] is each and node.operands[1] is not None:
                    found.append(node.operands[1].type.static_shape[0])
                elif node.op.name in _PASSES_INDICES and node.operands[0] is each:
                    following += node.results
        reached = following
    return min(found) if found else None
