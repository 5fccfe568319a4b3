"""ONNX Runtime one node at a time: values while a model is being made, and how much rounding can change them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, helper

Array = NDArray[Any]

ROUNDING = {np.dtype(np.float32): 2.0**-22, np.dtype(np.float16): 2.0**-11}
"""The relative noise that stands for one operation's rounding."""

LARGEST = {"f": 1e4, "i": 2**30, "u": 2**31, "b": 1}
"""Results beyond this are not kept: types would overflow, in some implementations earlier than in others."""

onnxruntime.set_default_logger_severity(4)


class Rejected(Exception):
    """ONNX Runtime refuses the node, or its result is not fit to be compared."""


@dataclass(frozen=True, eq=False)
class Value:
    """A value of the model being made.

    `twin` is what it would be if every operation rounded otherwise; where it is far away, the value is ill-conditioned.
    `coarse`: half-precision values have gone into it.
    """

    name: str
    array: Array
    twin: Array
    coarse: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def rank(self) -> int:
        return self.array.ndim

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def is_float(self) -> bool:
        return self.array.dtype.kind == "f"

    def tolerance(self) -> float:
        """The largest absolute error that rounding explains."""
        if not self.is_float or not self.array.size:
            return 0.0
        finite = np.isfinite(self.array)
        wide, twin = self.array.astype(np.float64)[finite], self.twin.astype(np.float64)[finite]
        scale = float(np.max(np.abs(wide), initial=0.0))
        spread = float(np.max(np.abs(wide - twin), initial=0.0))
        return (8e-3 if self.coarse else 1e-4) * max(scale, 1e-3) + (16 if self.coarse else 100) * spread


def session(model: ModelProto | str) -> onnxruntime.InferenceSession:
    """A session of a model or the path of one, on one thread. Raises Rejected where ONNX Runtime does not accept it."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        data = model if isinstance(model, str) else model.SerializeToString()
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common base
        raise Rejected(str(error)) from None


def run(made: onnxruntime.InferenceSession, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by name; raises Rejected where ONNX Runtime cannot run it."""
    wanted = [i.name for i in made.get_inputs()]
    try:
        results = made.run(None, {name: inputs[name] for name in wanted if name in inputs})
    except Exception as error:
        raise Rejected(str(error)) from None
    names = [o.name for o in made.get_outputs()]
    return {n: a for n, a in zip(names, results, strict=True) if isinstance(a, np.ndarray)}


@dataclass(frozen=True)
class Eager:
    """Runs nodes of one opset. `noise` perturbs the twins."""

    opset: int
    noise: np.random.Generator

    def node(
        self,
        op_type: str,
        operands: Sequence[Value | None],
        names: Sequence[str],
        attributes: Mapping[str, Any],
        domain: str = "",
    ) -> list[Value]:
        """The results of one node. Raises Rejected."""
        while operands and operands[-1] is None:  # an absent last operand makes ONNX Runtime crash
            operands = operands[:-1]
        given = {f"i{n}": v for n, v in enumerate(operands) if v is not None}
        node = helper.make_node(
            op_type,
            ["" if v is None else f"i{n}" for n, v in enumerate(operands)],
            [f"o{n}" for n in range(len(names))],
            domain=domain,
            **attributes,
        )
        graph = helper.make_graph(
            [node],
            "one",
            [
                helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
                for n, v in given.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in node.output],
        )
        made = session(make_model(graph, self.opset))
        arrays = run(made, {n: v.array for n, v in given.items()})
        twins = run(made, {n: v.twin for n, v in given.items()})
        coarse = any(v.coarse for v in given.values())
        found = []
        for name, output in zip(names, node.output, strict=True):
            array, twin = arrays[output], twins[output]
            _check(array, twin)
            found.append(Value(name, array, self.shaken(twin), coarse or array.dtype == np.float16))
        return found

    def shaken(self, array: Array) -> Array:
        """An array with every float a little larger or smaller."""
        size = ROUNDING.get(array.dtype)
        if size is None:
            return array
        signs = self.noise.choice((-1.0, 1.0), array.shape)
        with np.errstate(invalid="ignore"):
            return np.asarray(array.astype(np.float64) * (1 + size * signs)).astype(array.dtype)


def _check(array: Array, twin: Array) -> None:
    """Raises Rejected for results that cannot be compared: undefined, too large, or decided by rounding."""
    if array.dtype.kind not in LARGEST or (array.dtype.kind == "f" and np.isnan(array).any()):
        raise Rejected("undefined")
    if twin.shape != array.shape or (array.dtype.kind != "f" and not np.array_equal(array, twin)):
        raise Rejected("decided by rounding")
    if array.dtype == np.float16 and not np.isfinite(array).all():
        raise Rejected("beyond half precision")
    finite = array[np.isfinite(array)] if array.dtype.kind == "f" else array
    if finite.size and float(np.max(np.abs(finite.astype(np.float64)))) > LARGEST[array.dtype.kind]:
        raise Rejected("too large")
    if array.dtype.kind == "f" and not np.array_equal(np.isfinite(array), np.isfinite(twin)):
        raise Rejected("decided by rounding")


def make_model(graph: Any, opset: int) -> ModelProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=min(10, max(4, opset - 6)), producer_name="")
