"""Ops that are matrix products, as views of their operands: what a machine needs is one function that contracts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from pimc.backends.affine import Scalar
from pimc.backends.kernels.experts import lower_experts
from pimc.backends.kernels.lanes import Lanes, Ref, Source, VectorMachine
from pimc.backends.kernels.movement import fill
from pimc.backends.kernels.places import given, operand, place
from pimc.backends.kernels.pointwise import pointwise
from pimc.backends.kernels.quantized import lower_quantized
from pimc.backends.lowering import RULES, Lowering, Tensor, lowers
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout

Moves = tuple[Scalar, Scalar, Scalar]
"""How far the first addresses of a, b and the result move with loops around a product."""


class Contract(Protocol):
    """`out[batch, m, n] = scale * a[batch, m, k] @ b[batch, k, n]` by a machine's commands."""

    def __call__(
        self, at: Lowering, a: Tensor, b: Tensor, out: Tensor, batch: Sequence[int], m: int, n: int, k: int,
        scale: float = 1.0, moved: Moves = (0, 0, 0),
    ) -> None: ...  # fmt: skip


Rule = Callable[[Node, Lowering, VectorMachine, Contract], None]


def matmul(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    """numpy's `@`: vectors are matrices of one row or column."""
    a, b, out = place(at, given(node, 0)), place(at, given(node, 1)), place(at, node.result)
    _product(at, contract, a, b, out, 1.0)


def _product(
    at: Lowering, contract: Contract, a: Tensor, b: Tensor, out: Tensor, scale: float, moved: Moves = (0, 0, 0)
) -> None:
    result = list(out.layout.dims)
    one: tuple[Digit, ...] = ((1, 0),)
    if len(a.shape) == 1:
        a = _with_dims(a, (one, *a.layout.dims))
        result.insert(len(result) - (len(b.shape) > 1), one)
    if len(b.shape) == 1:
        b = _with_dims(b, (*b.layout.dims, one))
        result.append(one)
    out = _with_dims(out, tuple(result))
    *batch, m, n = out.shape
    contract(at, a, b, out, batch, m, n, a.shape[-1], scale, moved)


def _with_dims(tensor: Tensor, dims: tuple[tuple[Digit, ...], ...]) -> Tensor:
    return replace(tensor, layout=Layout(tensor.layout.offset, dims))


def _transposed(tensor: Tensor) -> Tensor:
    dims = tensor.layout.dims
    return _with_dims(tensor, (*dims[:-2], dims[-1], dims[-2]))


def gemm(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    """The product first, then the addend in place."""
    a, b, out = place(at, given(node, 0)), place(at, given(node, 1)), place(at, node.result)
    a = _transposed(a) if node.attribute("transA") else a
    b = _transposed(b) if node.attribute("transB") else b
    _product(at, contract, a, b, out, _number(node, "alpha"))
    addend = operand(node, 2)
    if addend is not None:
        beta = _number(node, "beta")

        def write(v: Lanes, sources: Sequence[Source], result: Ref) -> None:
            total, c = sources
            v("mul_add", c, beta, total, out=result)

        pointwise(at, machine, [out, place(at, addend)], out, node.result.type.static_shape, write)


def fused_matmul(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    factors = []
    for index, name in enumerate("AB"):
        tensor = place(at, given(node, index))
        if node.attribute(f"transBatch{name}"):
            first, *batch, last = tensor.layout.dims
            tensor = _with_dims(tensor, (*batch, first, last))
        factors.append(_transposed(tensor) if node.attribute(f"trans{name}") else tensor)
    _product(at, contract, factors[0], factors[1], place(at, node.result), _number(node, "alpha"))


def quantized_matmul(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    """Chunks of the weight's columns are expanded on chip, and multiplied from there."""

    def product(at: Lowering, a: Tensor, b: Tensor, out: Tensor, *, moved: Moves, first: Scalar) -> bool:
        _product(at, contract, a, b, out, 1.0, moved)
        return True

    lower_quantized(node, at, machine, product)


def expert_matmul(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    lower_experts(node, at, machine, contract)


def attention_scores(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    q, k = place(at, given(node, 0)), place(at, given(node, 1))
    batch, heads, queries, depth = given(node, 0).type.static_shape
    keys = _transposed(_for_heads(k, heads // given(node, 1).type.static_shape[1]))
    positions = node.result.type.static_shape[3]
    out = place(at, node.result)
    contract(at, q, keys, out, (batch, heads), queries, positions, depth, _number(node, "scale"))


def attention_context(node: Node, at: Lowering, machine: VectorMachine, contract: Contract) -> None:
    weights, v = place(at, given(node, 0)), place(at, given(node, 1))
    batch, heads, queries, positions = given(node, 0).type.static_shape
    width = node.result.type.static_shape[3]
    values = _for_heads(v, heads // given(node, 1).type.static_shape[1])
    contract(at, weights, values, place(at, node.result), (batch, heads), queries, width, positions, 1.0)


def _for_heads(cache: Tensor, group: int) -> Tensor:
    """Keys or values [B, KV, T, D] seen by query heads: each kv head serves a group of neighbours."""
    dims = cache.layout.dims
    groups: tuple[Digit, ...] = (*dims[1], (group, 0))
    return _with_dims(cache, (dims[0], groups, *dims[2:]))


def _number(node: Node, name: str) -> float:
    value = node.attribute(name)
    assert isinstance(value, int | float)
    return float(value)


PRODUCTS: dict[str, Rule] = {
    "matmul": matmul,
    "matmul_integer": matmul,
    "gemm": gemm,
    "ms_fused_matmul": fused_matmul,
    "quantized_matmul": quantized_matmul,
    "expert_matmul": expert_matmul,
    "attention_scores": attention_scores,
    "attention_context": attention_context,
}


def register_products(machine: VectorMachine, contract: Contract) -> None:
    """Make the product ops rules of a machine's engine."""

    def bound(rule: Rule) -> Callable[[Node, Lowering], None]:
        def lower(node: Node, at: Lowering) -> None:
            shape = node.result.type.static_shape
            if 0 in given(node, 0).type.static_shape and 0 not in shape:  # sums of nothing
                fill(at, machine, place(at, node.result), shape, 0.0)
            rule(node, at, machine, contract)

        return lower

    for name, rule in PRODUCTS.items():
        if (machine.kind, name) not in RULES:
            lowers(machine.kind, name)(bound(rule))
