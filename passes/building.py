"""Writing several nodes in the place of one."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from pimc.ir.graph import Node, Rewriter, Role, Value
from pimc.ir.op import Array, Attribute, lookup
from pimc.record import record


@record
class Builder:
    """Adds nodes that stand for `node`, and puts their values in the place of its results."""

    rewriter: Rewriter
    node: Node

    def call(self, op: str, *operands: Value | None, **attributes: Attribute) -> Value:
        """The first result of a new node."""
        return self.rewriter.add(lookup(op), operands, attributes, origins=(self.node,)).result

    def constant(self, array: Array | Sequence[int], name: str = "constant") -> Value:
        return self.rewriter.constant(f"{self.node.name}.{name}", np.asarray(array), source=self.node.source)

    def ints(self, values: Sequence[int], name: str = "constant") -> Value:
        return self.constant(np.asarray(values, np.int64), name)

    def number(self, value: float, like: Value) -> Value:
        """A scalar of the element type of `like`."""
        return self.constant(np.asarray(value, like.type.dtype.numpy), "number")

    def reshape(self, x: Value, shape: Sequence[int]) -> Value:
        """`x` in another shape; itself where it has it already."""
        if x.type.shape == tuple(shape):
            return x
        return self.call("reshape", x, self.ints(shape, "shape"), allowzero=int(0 in shape))

    def transpose(self, x: Value, *perm: int) -> Value:
        return x if list(perm) == sorted(perm) else self.call("transpose", x, perm=perm)

    def expand(self, x: Value, shape: Sequence[int]) -> Value:
        return x if x.type.shape == tuple(shape) else self.call("expand", x, self.ints(shape, "shape"))

    def slice(self, x: Value, axis: int, start: int, end: int) -> Value:
        """Indices `start` to `end` of one axis; `x` itself where that is all of it."""
        if (start, end) == (0, x.type.static_shape[axis]):
            return x
        bounds = (self.ints([n], word) for n, word in ((start, "start"), (end, "end"), (axis, "axis")))
        return self.call("slice", x, *bounds)

    def cast(self, x: Value, like: Value) -> Value:
        """`x` in the element type of `like`."""
        return x if x.type.dtype is like.type.dtype else self.call("cast", x, to=like.type.dtype.text)

    def replace(self, *values: Value | None) -> None:
        """Let `values` take over from the results of the node (None: a result that nobody reads), and remove it.

        A value that stood nowhere else bears the old name from now on.
        """
        labels = [r.name for r in self.node.results]
        for old, new in zip(self.node.results, values, strict=False):
            if new is not None:
                self.rewriter.replace_uses(old, new)
        youngest = self.node.uid
        self.rewriter.remove(self.node)
        for label, new in zip(labels, values, strict=False):
            if new is not None and new.role is Role.RESULT and new.owner is not None and new.owner.uid > youngest:
                self.rewriter.rename(new, label)

    def is_read(self, index: int) -> bool:
        """Whether anything reads result `index` of the node."""
        return index < len(self.node.results) and self.rewriter.graph.use_count(self.node.results[index]) > 0


def content_name(array: Array) -> str:
    """A name for a constant that depends on nothing but its element type, shape and elements."""
    digest = hashlib.sha256(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return f"const.{digest.hexdigest()[:12]}"


def operand_at(node: Node, index: int) -> Value:
    """An operand that the op's declaration makes sure is there."""
    value = node.operands[index]
    assert value is not None
    return value
