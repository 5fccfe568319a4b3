"""Makes a random ONNX model together with its inputs and the outputs that it must have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from tests.fuzz.eager import Array, Eager, Rejected, Value, make_model

EXTENTS = (1, 1, 2, 3, 4, 5, 7, 8, 16, 17)
"""Lengths of axes; zero is drawn apart."""

FLOATS = (np.float32, np.float32, np.float32, np.float16)
MOST_ELEMENTS = 6000


@dataclass(frozen=True)
class Sample:
    """A model, inputs for it, and what its outputs are."""

    model: ModelProto
    inputs: dict[str, Array]
    expected: dict[str, Array]
    tolerances: dict[str, float]
    ops: tuple[str, ...]


@dataclass
class Builder:
    """The model so far. Everything random comes from `chance`."""

    chance: np.random.Generator
    opset: int = 18
    inputs: list[Value] = field(default_factory=list)
    pool: list[Value] = field(default_factory=list)
    """values that nodes may read, without constants"""
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    constants: list[Value] = field(default_factory=list)
    count: int = 0

    def __post_init__(self) -> None:
        self.eager = Eager(self.opset, np.random.Generator(np.random.PCG64(99)))

    # -- chance -------------------------------------------------------------------------------------------------------

    def below(self, count: int) -> int:
        return int(self.chance.integers(count))

    def maybe(self, probability: float = 0.5) -> bool:
        return bool(self.chance.random() < probability)

    def pick(self, items: Sequence[Any]) -> Any:
        return items[self.below(len(items))]

    def extent(self) -> int:
        return 0 if self.maybe(0.015) else int(self.pick(EXTENTS))

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        wanted = self.pick((0, 1, 2, 2, 3, 3, 4)) if rank is None else rank
        return tuple(self.extent() for _ in range(wanted))

    def name(self, stem: str = "v") -> str:
        self.count += 1
        return f"{stem}{self.count}"

    # -- values -------------------------------------------------------------------------------------------------------

    def array(self, dtype: Any, shape: Sequence[int]) -> Array:
        kind = np.dtype(dtype).kind
        if kind == "f":
            drawn = self.chance.standard_normal(tuple(shape)) * self.pick((0.3, 1.0, 1.0, 3.0))
            return np.asarray(np.round(drawn * 64) / 64 if self.maybe() else drawn).astype(dtype)
        if kind == "b":
            return self.chance.random(tuple(shape)) < 0.6
        low, high = self.pick(((0, 4), (-5, 6), (0, 60)))
        return self.chance.integers(max(low, 0) if kind == "u" else low, high, tuple(shape)).astype(dtype)

    def input(self, array: Array) -> Value:
        value = Value(self.name("in"), array, self.eager.shaken(array), array.dtype == np.float16)
        self.inputs.append(value)
        self.pool.append(value)
        return value

    def constant(self, array: Any, dtype: Any = None) -> Value:
        """An initializer, or the result of a Constant node."""
        made = np.asarray(array, dtype)
        value = Value(self.name("c"), made, made, made.dtype == np.float16)
        if self.maybe(0.7):
            self.initializers.append(numpy_helper.from_array(made, value.name))
        else:
            tensor = numpy_helper.from_array(made, value.name if self.maybe() else "")
            self.nodes.append(helper.make_node("Constant", [], [value.name], value=tensor))
        self.constants.append(value)
        return value

    def ints(self, values: Sequence[int]) -> Value:
        return self.constant(values, np.int64)

    def fresh(self, dtype: Any, shape: Sequence[int]) -> Value:
        """A new input or constant."""
        array = self.array(dtype, shape)
        return self.constant(array) if self.maybe() else self.input(array)

    def value(self, accept: Callable[[Value], bool] = lambda _: True, dtype: Any = None) -> Value:
        """A value of the pool that is accepted, mostly a late one; else Rejected."""
        fit = [v for v in self.pool if (dtype is None or v.dtype == dtype) and accept(v)]
        if not fit:
            raise Rejected("nothing to take")
        late = fit[-4:] if self.maybe(0.7) else fit
        return late[self.below(len(late))]

    def floats(self, least_rank: int = 0) -> Value:
        return self.value(lambda v: v.is_float and v.rank >= least_rank)

    # -- nodes --------------------------------------------------------------------------------------------------------

    def node(
        self, op_type: str, *operands: Value | None, outputs: int = 1, domain: str = "", **attributes: Any
    ) -> list[Value]:
        """Add a node; its results. Raises Rejected, and then nothing is added."""
        if self.opset < SINCE.get(op_type, 1) and not domain:
            raise Rejected("of a later opset")
        names = [self.name() for _ in range(outputs)]
        results = self.eager.node(op_type, operands, names, attributes, domain)
        if any(r.array.size > MOST_ELEMENTS for r in results):
            raise Rejected("large")
        label = self.name(op_type.lower()) if self.maybe(0.8) else ""
        read = ["" if v is None else v.name for v in operands]
        self.nodes.append(helper.make_node(op_type, read, names, label, domain=domain, **attributes))
        self.pool += results
        return results

    def op(self, op_type: str, *operands: Value | None, domain: str = "", **attributes: Any) -> Value:
        return self.node(op_type, *operands, domain=domain, **attributes)[0]

    def listed(self, op_type: str, x: Value, name: str, values: Sequence[int], since: int, **attributes: Any) -> Value:
        """A node with a list of integers that is an operand since an opset, and was an attribute before."""
        if self.opset >= since:
            return self.op(op_type, x, self.ints(values), **attributes)
        if not len(values):
            raise Rejected("an empty list of integers has no type")
        return self.node(op_type, x, **{**attributes, name: list(values)})[0]

    # -- the model ----------------------------------------------------------------------------------------------------

    def finish(self) -> Sample:
        """The model with outputs chosen, dimensions partly symbolic, and what an exporter might leave behind."""
        outputs = self._outputs()
        graph = helper.make_graph(
            self.nodes,
            "fuzz",
            self._input_infos(),
            [self._output_info(v) for v in outputs],
            self.initializers,
        )
        if self.maybe(0.2):  # as files of IR version 3 do
            kept = self.initializers[: self.below(3)]
            graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in kept)
        return Sample(
            make_model(graph, self.opset),
            {v.name: v.array for v in self.inputs},
            {v.name: v.array for v in outputs},
            {v.name: v.tolerance() for v in outputs},
            tuple(n.op_type for n in self.nodes),
        )

    def _outputs(self) -> list[Value]:
        made = [v for v in self.pool if v not in self.inputs] or self.pool
        read = {name for n in self.nodes for name in n.input}
        chosen = {id(v): v for v in made if v.name not in read and self.maybe(0.85)}
        for _ in range(1 + self.below(2)):
            extra = self.pick(self.pool if self.maybe(0.15) else made)
            chosen[id(extra)] = extra
        if self.constants and self.maybe(0.04):
            extra = self.pick(self.constants)
            chosen[id(extra)] = extra
        return list(chosen.values())

    def _input_infos(self) -> list[ValueInfoProto]:
        symbolic = self.chance.random() if self.maybe(0.4) else 0.0
        infos = []
        for value in self.inputs:
            dims: list[int | str | None] = [
                self.pick((f"n{d}", f"{value.name}_{i}", None)) if self.maybe(symbolic) else d
                for i, d in enumerate(value.shape)
            ]
            infos.append(_info(value, dims))
        return infos

    def _output_info(self, value: Value) -> ValueInfoProto:
        if self.maybe(0.1):
            return helper.make_empty_tensor_value_info(value.name)
        return _info(value, [None if self.maybe(0.1) else d for d in value.shape])


def _info(value: Value, dims: Sequence[int | str | None]) -> ValueInfoProto:
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(value.dtype), dims)


SINCE = {
    "Gelu": 20, "RMSNormalization": 23, "RotaryEmbedding": 23, "Attention": 23, "Swish": 24, "Mish": 18,
    "LayerNormalization": 17, "BitwiseAnd": 18, "BitwiseOr": 18, "BitwiseXor": 18, "BitwiseNot": 18, "HardSwish": 14,
    "Trilu": 14,
}  # fmt: skip
"""The first opset of ops that are younger than the oldest one drawn."""
