"""Einsum as transpositions, sums and matrix products."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pimc.frontends.onnx_ops import OnnxNode, Unsupported
from pimc.frontends.onnx_steps import Steps
from pimc.ir.graph import Value
from pimc.record import record

Labels = tuple[str, ...]
"""One label for each dimension: letters of the equation, and numbers for dimensions that an ellipsis stands for."""


@record
class _Term:
    """A value with a label for each of its dimensions."""

    value: Value
    labels: Labels


def einsum(node: OnnxNode, s: Steps) -> Sequence[Value]:
    """Operands are multiplied from left to right; a label is summed over as soon as nobody needs it any more."""
    terms, result = _parse(node)
    first, *rest = (_diagonal(s, term) for term in terms)
    for index, term in enumerate(rest):
        needed = {*result, *(label for later in rest[index + 1 :] for label in later.labels)}
        first = _product(
            s, _summed(s, first, {*needed, *term.labels}), _summed(s, term, {*needed, *first.labels}), needed
        )
    first = _summed(s, first, set(result))
    made = _ordered(s, first, result)
    return (s.call("identity", made) if made in node.inputs else made,)


def _parse(node: OnnxNode) -> tuple[list[_Term], Labels]:
    equation = re.sub(r"\s", "", str(node.attributes.get("equation", "")))
    left, arrow, right = equation.partition("->")
    texts = left.split(",")
    operands = [v for v in node.inputs if v is not None]
    if len(texts) != len(operands):
        raise Unsupported(f"its equation '{equation}' is for {len(texts)} operands, not {len(operands)}")
    terms = [_Term(v, _labels(text, v.type.rank, equation)) for text, v in zip(texts, operands, strict=True)]
    spread = sorted({label for t in terms for label in t.labels if label.lstrip("-").isdigit()}, key=int)
    if arrow:
        parts = right.split("...")
        result = (*parts[0], *(spread if len(parts) > 1 else ()), *"".join(parts[1:]))
    else:  # labels that occur once, in the order of the alphabet
        letters = left.replace(",", "").replace("...", "")
        result = (*spread, *sorted(c for c in letters if letters.count(c) == 1))
    known = {label for t in terms for label in t.labels}
    if not set(result) <= known or len(set(result)) < len(result):
        raise Unsupported(f"its equation '{equation}' has a result that its operands do not give")
    return terms, tuple(result)


def _labels(text: str, rank: int, equation: str) -> Labels:
    """Dimensions of an ellipsis count from its end, so that they broadcast."""
    parts = text.split("...")
    hidden = rank - sum(map(len, parts))
    if hidden < 0 or (len(parts) == 1 and hidden) or len(parts) > 2:
        raise Unsupported(f"its equation '{equation}' does not fit an operand of rank {rank}")
    return (*parts[0], *(str(i - hidden) for i in range(hidden)), *"".join(parts[1:]))


def _diagonal(s: Steps, term: _Term) -> _Term:
    """Only elements whose positions agree along dimensions of the same label."""
    labels = term.labels
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice is None:
        return term
    first = labels.index(twice)
    second = labels.index(twice, first + 1)
    rest = [i for i in range(len(labels)) if i not in (first, second)]
    value = s.call("transpose", term.value, perm=(*rest, first, second))
    length = _extents(s, [(term, term, [twice])])
    zero, one = np.asarray(0, np.int64), np.asarray(1, np.int64)
    places = s.call("range", zero, s.call("reshape", length, np.asarray([], np.int64)), one)
    column = s.call("reshape", places, np.asarray([-1, 1], np.int64))
    shape = s.call("concat", s.call("shape", value, end=-1), one.reshape(1), axis=0)
    chosen = s.call("gather_elements", value, s.call("expand", column, shape), axis=-1)
    squeezed = s.call("squeeze", chosen, np.asarray([-1], np.int64))
    return _diagonal(s, _Term(squeezed, (*(labels[i] for i in rest), twice)))


def _summed(s: Steps, term: _Term, needed: set[str]) -> _Term:
    """Summed over labels that nobody needs."""
    gone = [i for i, label in enumerate(term.labels) if label not in needed]
    if not gone:
        return term
    value = s.call("reduce_sum", term.value, np.asarray(gone, np.int64), keepdims=0)
    return _Term(value, tuple(label for label in term.labels if label in needed))


def _ordered(s: Steps, term: _Term, labels: Labels) -> Value:
    perm = tuple(term.labels.index(label) for label in labels)
    return term.value if perm == tuple(range(len(perm))) else s.call("transpose", term.value, perm=perm)


def _product(s: Steps, a: _Term, b: _Term, needed: set[str]) -> _Term:
    """Both multiplied, summed over what they share and nobody needs: a batch of matrix products."""
    shared = [label for label in a.labels if label in b.labels]
    batch = [label for label in shared if label in needed]
    inner = [label for label in shared if label not in needed]
    rows = [label for label in a.labels if label not in shared]
    columns = [label for label in b.labels if label not in shared]
    if not inner:
        return _elementwise(s, a, b, batch, rows, columns)
    left = _grouped(s, a, batch, rows, inner)
    right = _grouped(s, b, batch, inner, columns)
    out = s.call("matmul", left, right)
    if len(rows) != 1 or len(columns) != 1:
        out = s.call("reshape", out, _extents(s, [(a, b, batch), (a, a, rows), (b, b, columns)]))
    return _Term(out, (*batch, *rows, *columns))


def _elementwise(s: Steps, a: _Term, b: _Term, batch: list[str], rows: list[str], columns: list[str]) -> _Term:
    """Nothing to sum over: an outer product."""
    left, right = _ordered(s, a, (*batch, *rows)), _ordered(s, b, (*batch, *columns))
    if columns:
        axes = np.arange(len(batch) + len(rows), len(batch) + len(rows) + len(columns))
        left = s.call("unsqueeze", left, axes.astype(np.int64))
    if rows:
        right = s.call("unsqueeze", right, np.arange(len(batch), len(batch) + len(rows), dtype=np.int64))
    return _Term(s.call("mul", left, right), (*batch, *rows, *columns))


def _grouped(s: Steps, term: _Term, batch: list[str], first: list[str], second: list[str]) -> Value:
    """[*batch, M, N] with each of the two groups as one dimension."""
    value = _ordered(s, term, (*batch, *first, *second))
    if len(first) == 1 and len(second) == 1:
        return value
    parts = [_extents(s, [(term, term, batch)]), *(_size(s, term, group) for group in (first, second))]
    return s.call("reshape", value, s.call("concat", *parts, axis=0))


def _size(s: Steps, term: _Term, labels: list[str]) -> Value:
    """How many elements a group of dimensions has, i64[1]."""
    return s.call("reduce_prod", _extents(s, [(term, term, labels)]), np.asarray([0], np.int64))


def _extents(s: Steps, groups: list[tuple[_Term, _Term, list[str]]]) -> Value:
    """The extents of labels, as an operand: for each the larger of the two terms that have it (one may be 1)."""
    empty = s.call("constant_of_shape", np.asarray([0], np.int64), value=0, dtype="i64")
    found = [empty]
    for one, other, labels in groups:
        for label in labels:
            dims = [_extent(s, term, label) for term in ((one,) if one is other else (one, other))]
            found.append(dims[0] if len(dims) == 1 else s.call("max", *dims))
    return s.call("concat", *found, axis=0)


def _extent(s: Steps, term: _Term, label: str) -> Value:
    axis = term.labels.index(label)
    return s.call("shape", term.value, start=axis, end=axis + 1)
