"""Attention of requests whose heads lie in several channels: that of more requests, each with a part of the heads."""

from __future__ import annotations

from dataclasses import replace

from pimc.backends.lowering import Lowering
from pimc.backends.pim.layouts import one_head_group_a_channel
from pimc.ir.diagnostics import InternalError
from pimc.ir.graph import Node, Value
from pimc.ir.layout import Layout
from pimc.ir.memory import Home
from pimc.ir.types import TensorType


def by_channel(node: Node, at: Lowering) -> tuple[Node, Lowering]:
    """A product of attention [B, H, S, X] with a cache [B, KV, T, D], each request of which lies in one channel."""
    x, cache = node.inputs()
    _, apart = one_head_group_a_channel(at.tensor(cache).layout, at.spec.dram.geometry)
    if apart == 1:
        return node, at
    places: dict[Value, Home] = {}

    def cut(value: Value) -> Value:
        home, (batch, heads, *rest) = at.tensor(value), value.type.static_shape
        shape = (batch * apart, heads // apart, *rest)
        layout: Layout | None
        if value is cache:
            layout, _ = one_head_group_a_channel(home.layout, at.spec.dram.geometry)
        else:
            layout = home.layout.reshaped(shape)
        if layout is None:
            raise InternalError(f"%{value.name}: cannot see {home.layout} as {shape}")
        made = Value(value.name, TensorType(value.type.dtype, shape), value.role)
        places[made] = replace(home, layout=layout)
        return made

    operands, results = tuple(cut(v) for v in (x, cache)), (cut(node.result),)
    made = replace(node, operands=operands, results=results)
    made.results[0].owner = made
    return made, replace(at, places=places)
