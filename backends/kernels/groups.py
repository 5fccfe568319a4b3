"""Ops whose value at an element needs others of its group, a stretch of a product's columns that is as wide as a head.

Such an op may read the product through views, as that of its columns in heads, transposed. On a tile of whole groups it
is computed like an element-wise op that has one more operand, which says which member of its pair an element is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod

from pimc.backends.kernels.lanes import Lanes, Ref, Source
from pimc.backends.kernels.places import given
from pimc.backends.kernels.pointwise import Recipe
from pimc.ir.graph import Node
from pimc.ir.layout import Digit, Layout
from pimc.ir.views import is_view_op, unviewed
from pimc.record import record


@record
class Group:
    """How an op works within groups of the last axis of its first operand."""

    members: tuple[Digit, ...]
    """the last axis, in which the address of an element is its number in the pair"""
    spread: Callable[[Layout], Layout]
    """the layout of another operand as one of the result's shape"""
    recipe: Recipe
    """its last source is where the members of pairs lie"""

    def places(self, shape: Sequence[int]) -> Layout:
        """`members`, of the result's shape."""
        return Layout(0, (*(((extent, 0),) for extent in shape[:-1]), self.members))


def group_of(node: Node) -> Group | None:
    """None of ops that have no groups, or whose groups do not fill their axis."""
    find = _GROUPS.get(node.op.name)
    return find(node) if find is not None else None


def _views_above(node: Node) -> list[Node]:
    """The views through which a node reads what is computed."""
    found: list[Node] = []
    value = given(node, 0)
    while value.owner is not None and is_view_op(value.owner):
        found.append(value.owner)
        value = given(value.owner, 0)
    return found[::-1]


def seen_before(views: Sequence[Node], layout: Layout) -> Layout | None:
    """The layout of what views show, given that of the last of them."""
    found: Layout | None = layout
    for node in reversed(views):
        found = None if found is None else unviewed(node, found)
    return found


def goes_by_groups(node: Node, product: Node) -> bool:
    """Whether a node can be computed on tiles of whole groups of a product's columns."""
    group = group_of(node)
    if group is None:
        return False
    views = _views_above(node)
    origin = given(views[0] if views else node, 0)
    if origin.type != product.result.type or node.result.type.dtype is not origin.type.dtype:
        return False
    places = seen_before(views, group.places(node.result.type.static_shape))
    return places is not None and not any(stride for digits in places.dims[:-1] for _, stride in digits)


def width_of(places: Layout) -> int:
    """How many columns next to each other have the members of all pairs that any of them belongs to."""
    counts, strides = zip(*places.dims[-1], strict=True)
    return prod(counts[next(i for i, stride in enumerate(strides) if stride) :])


def _pairs(node: Node) -> Group | None:
    """Of a rotation: pairs half a head apart, or neighbours."""
    shape, table = node.result.type.static_shape, given(node, 1).type
    half, interleaved = table.static_shape[-1], bool(node.attribute("interleaved"))
    if 2 * half != shape[-1] or table.elements == 1:
        return None

    def spread(layout: Layout) -> Layout:
        batch, positions, angles = layout.dims
        both = (*angles, (2, 0)) if interleaved else ((2, 0), *angles)
        return Layout(layout.offset, (batch, ((1, 0),), positions, both)).broadcast(shape)

    members = ((half, 0), (2, 1)) if interleaved else ((2, 1), (half, 0))
    return Group(members, spread, _rotation)


def _rotation(v: Lanes, sources: Sequence[Source], out: Ref) -> None:
    refs = [source for source in (*sources, out) if isinstance(source, Ref)]
    pair = next(axis for axis, stride in enumerate(refs[-2].strides) if stride)
    (x, second), (cos, _), (sin, _), _, results = (_members(ref, pair) for ref in refs)
    half = v.over([count for axis, count in enumerate(v.counts) if axis != pair])
    left, right = half.temp(), half.temp()
    for function, (a, b), result in zip(("sub", "add"), ((x, second), (second, x)), results, strict=True):
        half("mul", a, cos, out=left)
        half("mul", b, sin, out=right)
        half(function, left, right, out=result)


def _members(ref: Ref, pair: int) -> tuple[Ref, Ref]:
    """Both elements of all pairs."""
    strides = ref.strides[:pair] + ref.strides[pair + 1 :]
    first = replace(ref, strides=strides)
    return first, replace(first, address=ref.address + ref.strides[pair])


_GROUPS: dict[str, Callable[[Node], Group | None]] = {"rotary": _pairs}
