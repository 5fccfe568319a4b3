"""Find the nature of each node's work: matrix product, vector product, element-wise, reduction or movement."""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import ClassVar

from pimc.ir.facts import Nature, Ragged, Work
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import OpClass
from pimc.ir.ops.caches import IN_PLACE
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.passes.match import is_constant, operand, skip
from pimc.record import record

_VIEWS = frozenset({"reshape", "squeeze", "unsqueeze", "flatten", "identity"})
_PRODUCTS = frozenset({"attention", "attention_scores", "attention_context"})
_INDEXED = frozenset({"gather", "gather_nd", "gather_elements"})
_BY_CLASS = {
    OpClass.ELEMENTWISE: Nature.ELEMENTWISE,
    OpClass.REDUCTION: Nature.REDUCTION,
    OpClass.MOVEMENT: Nature.MOVEMENT,
    OpClass.CONSTANT: Nature.MOVEMENT,
    OpClass.COLLECTIVE: Nature.MOVEMENT,
    OpClass.CONTRACTION: Nature.REDUCTION,
    OpClass.COMPOSITE: Nature.ELEMENTWISE,
}


@record
class TagNaturePass(Pass):
    """Every node gets a `Work`: its nature, operations, bytes and, for products, their sizes and what made them so.

        %y = matmul(%x[8,1,4096], %w[4096,4096])
    ->  same   // skinny_gemm m=8 n=4096 k=4096, "batch of 8 shares the weight"

    A product moves m rows past one stationary operand of k x n, `count` times independently. Rows are gathered from
    wherever they share that operand: from a batch or a sequence that shares a weight, from query heads that share K
    and V. One row (or one column) is a GEMV, few are a skinny GEMM, more are a GEMM; a contraction of length 1 is
    element-wise. Whether the weight or the vector stands on the left makes no difference.
    """

    name: ClassVar[str] = "tag-nature"
    before: ClassVar[GraphStage] = GraphStage.CANONICAL
    after: ClassVar[GraphStage | None] = GraphStage.TAGGED

    gemv_rows: int = 1
    """A product of at most so many rows is a GEMV. 1: each element of the stationary operand is used once."""
    skinny_rows: int = 16
    """A product of at most so many rows is a skinny GEMM: below 16 operations per byte of 16-bit weights, which is
    less than any published machine needs to be bound by arithmetic."""
    float_bytes: int = 2
    """Bytes of a floating-point element in memory, whatever the model's type; 0: as in the model."""

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        rows = RowOrigins.of(graph)
        for node in graph.order():
            rewriter.set_fact(node, self.work(node, rows))

    def work(self, node: Node, rows: RowOrigins) -> Work:
        """The work of one node of a graph whose requests and tokens are known."""
        ragged = node.fact(Ragged)
        counts = ragged is not None and node.op.name in _KEYED
        share = ragged.share if ragged is not None and counts else Fraction(1)
        bytes_moved, flops = self._bytes(node), int(node.flops() * share)
        if counts:
            whole = sum(self._size(v) for v in _without_keys(node))
            bytes_moved = whole + int((bytes_moved - whole) * share)
        product = _product(node, rows)
        if product is None:
            return Work(_plain_nature(node), flops, bytes_moved)
        nature = self._nature(product)
        return Work(nature, flops, bytes_moved, product.m, product.n, product.k, product.count, product.why)

    def _nature(self, product: _Product) -> Nature:
        if product.k <= 1:
            return Nature.ELEMENTWISE
        rows = min(product.m, product.n)
        if rows <= self.gemv_rows:
            return Nature.GEMV
        return Nature.SKINNY_GEMM if rows <= self.skinny_rows else Nature.GEMM

    def _bytes(self, node: Node) -> int:
        """Bytes read and written, each operand once; what stays in place or is only seen otherwise costs nothing."""
        name = node.op.name
        written = sum(self._size(r) for r in node.results)
        if name in _VIEWS:
            return 0
        if name in IN_PLACE:
            return 2 * self._size(node.operands[1])
        if name in _INDEXED:
            return 2 * written + self._size(node.operands[1])
        if name == "expert_matmul":
            x, w, ids = node.operands
            assert w is not None
            matrix = self._size(w) // w.type.static_shape[0]
            read = min(w.type.static_shape[0], math.prod(_shape(ids))) * matrix
            return written + self._size(x) + self._size(ids) + read
        if name in ("scatter_nd", "scatter_elements"):
            return 2 * self._size(node.operands[2]) + self._size(node.operands[1])
        if name in ("slice", "split"):
            return 2 * written
        return written + sum(self._size(v) for v in dict.fromkeys(node.inputs()))

    def _size(self, value: Value | None) -> int:
        if value is None:
            return 0
        if value.type.dtype.is_float and self.float_bytes:
            return value.type.elements * self.float_bytes
        return value.type.bytes


@record
class RowOrigins:
    """How many requests and new tokens of each a graph works on, to say where rows come from."""

    batch: int = 0
    tokens: int = 0

    @staticmethod
    def of(graph: Graph) -> RowOrigins:
        for node in graph.order():
            q = node.operands[0] if node.op.name in ("attention", "attention_scores") else None
            if q is not None:
                return RowOrigins(q.type.static_shape[0], q.type.static_shape[2])
        return RowOrigins()

    def explain(self, rows: int, shared: str) -> str:
        """What makes up the rows that share a stationary operand."""
        if rows == 1:
            return f"one row uses {shared} once"
        if rows == self.batch * self.tokens and self.tokens > 1:
            batch = f"batch of {self.batch} x " if self.batch > 1 else ""
            return f"{batch}{self.tokens} tokens share {shared}"
        if rows == self.batch:
            return f"batch of {rows} shares {shared}"
        return f"{rows} rows share {shared}"


@record
class _Product:
    m: int
    n: int
    k: int
    count: int
    why: str


_KEYED = frozenset({"attention", "attention_scores", "attention_softmax", "attention_context"})
"""Ops whose work grows with the number of keys."""


def _without_keys(node: Node) -> Iterator[Value]:
    """Operands and results of attention and its parts that have no axis of key positions."""
    first = node.operands[0]
    if node.op.name in ("attention", "attention_scores") and first is not None:
        yield first
    if node.op.name in ("attention", "attention_context"):
        yield node.result


def _plain_nature(node: Node) -> Nature:
    if node.op.cls is OpClass.COMPOSITE and "norm" in node.op.name:
        return Nature.REDUCTION
    return _BY_CLASS[node.op.cls]


def _product(node: Node, rows: RowOrigins) -> _Product | None:
    name = node.op.name
    if name in _PRODUCTS:
        return _attention(node)
    if name in ("matmul", "matmul_integer", "ms_fused_matmul"):
        return _matmul(node, rows)
    if name == "gemm":
        return _gemm(node, rows)
    if name in ("ms_matmul_nbits", "quantized_matmul"):
        return _nbits(node, rows)
    return _experts(node) if name == "expert_matmul" else None


def _shape(value: Value | None) -> tuple[int, ...]:
    assert value is not None
    return value.type.static_shape


def _attention(node: Node) -> _Product:
    if node.op.name == "attention_context":
        weights, values = (_shape(v) for v in node.operands[:2])
        batch, heads, queries, k = weights
        shared, n = values[1], values[3]
    else:
        q, keys = (_shape(v) for v in node.operands[:2])
        batch, heads, queries, k = q
        shared, n = keys[1], keys[2]
    group = heads // shared
    several = [f"{group} query heads"] * (group > 1) + [f"{queries} queries"] * (queries > 1)
    why = f"{' x '.join(several)} share K and V" if several else "one query of one head uses its K and V once"
    return _Product(group * queries, n, k, batch * shared, why)


def _matmul(node: Node, rows: RowOrigins) -> _Product:
    x, y = _shape(node.operands[0]), _shape(node.operands[1])
    x, y = _plain_operands(node, x, y)
    x = (1, *x) if len(x) == 1 else x
    y = (*y, 1) if len(y) == 1 else y
    m, k, n, count = x[-2], x[-1], y[-1], 1
    rank = max(len(x), len(y)) - 2
    left, right = (1,) * (rank + 2 - len(x)) + x[:-2], (1,) * (rank + 2 - len(y)) + y[:-2]
    for a, b in zip(left, right, strict=True):
        if b == 1:
            m *= a
        elif a == 1:
            n *= b
        else:
            count *= a
    return _described(node, _Product(m, n, k, count, ""), rows)


def _plain_operands(node: Node, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Operand shapes as `x @ y` needs them, where the op transposes them itself."""
    if node.op.name == "ms_fused_matmul":
        x = (*x[:-2], x[-1], x[-2]) if _flag(node, "transA") else x
        y = (*y[:-2], y[-1], y[-2]) if _flag(node, "transB") else y
    return x, y


def _flag(node: Node, *names: str) -> bool:
    return any(bool(node.attribute(n)) for n in names if n in node.op.attributes)


def _described(node: Node, product: _Product, rows: RowOrigins) -> _Product:
    """The product with its stationary operand on the right, and the reason for its number of rows."""
    x, y = node.operands[0], node.operands[1]
    assert x is not None
    assert y is not None
    if _is_weight(y):
        return _with_why(product, rows.explain(product.m, "the weight"))
    turned = _Product(product.n, product.m, product.k, product.count, "")
    if _is_weight(x):
        return _with_why(turned, rows.explain(turned.m, "the weight"))
    if product.n == 1 < product.m:
        return _with_why(turned, rows.explain(1, "the matrix"))
    return _with_why(product, rows.explain(product.m, "an activation"))


def _with_why(product: _Product, why: str) -> _Product:
    return _Product(product.m, product.n, product.k, product.count, why)


def _is_weight(value: Value) -> bool:
    """Whether an operand is a weight, a rearranged one, or rows of one chosen by an index."""
    value = skip(value, "transpose", "cast", "dequantize_linear", *_VIEWS)
    node = value.owner
    if node is not None and node.op.name in _INDEXED and node.operands[0] is not None:
        return _is_weight(node.operands[0])
    return is_constant(value)


def _experts(node: Node) -> _Product:
    tokens, each, _ = node.result.type.static_shape
    experts, n, k = _shape(node.operands[1])
    who = "the token picks" if tokens == 1 else f"each of {tokens} tokens picks"
    return _Product(1, n, k, tokens * each, f"{who} {each} of {experts} experts by itself")


def _gemm(node: Node, rows: RowOrigins) -> _Product:
    x, y = _shape(node.operands[0]), _shape(node.operands[1])
    m, k = x[::-1] if _flag(node, "transA") else x
    n = y[0] if _flag(node, "transB") else y[1]
    return _described(node, _Product(m, n, k, 1, ""), rows)


def _nbits(node: Node, rows: RowOrigins) -> _Product:
    x, result = _shape(operand(node, 0)), node.result.type.static_shape
    m = math.prod(x[:-1])
    return _Product(m, result[-1], x[-1], 1, rows.explain(m, "the weight"))
