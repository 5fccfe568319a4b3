"""Requests that are decoded together, each with its own number of cached and of new tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from functools import cached_property

from pimc.ir.source import TextSpan
from pimc.ir.types import TensorType
from pimc.record import record


@record
class Request:
    """One request of a batch."""

    id: str
    past: int
    """tokens that are cached"""
    new: int = 1
    """tokens that this run adds"""
    channel: int | None = None
    """the memory channel that holds its keys and values, where those of a request lie in one"""
    row: int = 0
    """which request of the batch it is, as the user counts them"""
    source: TextSpan | None = None


@record
class Rows:
    """Which rows (axis 0) of a whole tensor a place holds, in order, and how many indices along an axis of each count.

    What lies behind those is 0. Without lengths all of them count.
    """

    rows: tuple[int, ...]
    whole: int
    """rows of the whole tensor"""
    lengths: tuple[int, ...] = ()
    axis: int = 1
    extent: int | None = None
    """of the whole tensor along that axis; None: as here"""


@record
class Batch:
    """The requests of a program in the order in which it holds them, and what is ragged in its graph.

    Tensors of the graph have the largest extents. A request's own elements come first along every axis.
    """

    requests: tuple[Request, ...]
    dims: Mapping[str, int] = field(default_factory=dict)
    """dimensions of the graph, with the largest numbers of tokens"""
    own_dims: tuple[Mapping[str, int], ...] = ()
    """for each request, those of the graph that is for it alone"""
    spread_dims: tuple[Mapping[str, int], ...] = ()
    """for each request, those of a batch whose members have all cached as much as this one"""
    inputs: Mapping[str, TensorType] = field(default_factory=dict)
    """types of the inputs whose axis 0 is that of the requests, in symbols"""
    outputs: frozenset[str] = frozenset()
    """outputs whose axis 0 is that of the requests"""
    ragged_inputs: frozenset[str] = frozenset()
    """inputs with an axis that is as long as what a request has cached, or will have"""
    room: int = 0
    """new tokens that all get room for, if these are more than any request adds"""
    groups: tuple[int, ...] = ()
    """how many requests are worked on together, one stretch of them after the other"""
    halves: tuple[Batch, ...] = ()
    """the sub-batches that the graph holds side by side, where it is split"""
    names: Mapping[str, str] = field(default_factory=dict)
    """of a sub-batch: what its inputs and outputs are called in the graph, and how the model calls them"""

    def called(self, name: str) -> tuple[str, Batch]:
        """How the model calls an input or output of the graph, and the requests that it is for."""
        return next(((half.names[name], half) for half in self.halves if name in half.names), (name, self))

    @cached_property
    def past(self) -> int:
        """The most tokens that a request has cached."""
        return max(r.past for r in self.requests)

    @cached_property
    def new(self) -> int:
        """The most tokens that a request adds; all get room for so many."""
        return max(self.room, *(r.new for r in self.requests))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Key positions of each request, the new ones included."""
        return tuple(r.past + self.new for r in self.requests)

    def rows_of(self, name: str, whole: Batch | None = None) -> Rows | None:
        """How a place that has room for all requests holds an input or output; None for one without requests.

        whole: the batch that this one is a part of.
        """
        order, all = tuple(r.row for r in self.requests), whole or self
        count = len(all.requests)
        if name in self.outputs:
            return Rows(order, count)
        if name not in self.inputs:
            return None
        type = self.inputs[name]
        shapes = [type.bind(dims).static_shape for dims in self.own_dims]
        extents = type.bind(all.dims).static_shape
        axis = next((i for i in range(len(extents) - 1, 0, -1) if any(s[i] != extents[i] for s in shapes)), None)
        if axis is None:
            return Rows(order, count)
        extent = None if all is self else extents[axis]
        return Rows(order, count, tuple(s[axis] for s in shapes), axis, extent)
