"""Canonical numbers for loop variables: the depth of the loop, outermost 0.

Lowering numbers loops as it goes; what is printed, stored and compared numbers them by depth, so that equal streams
are equal texts and equal bytes.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from pimc.backends.affine import Affine, Scalar, affine
from pimc.backends.isa import mapped
from pimc.backends.program import Item, Loop, Program, Stream


def canonical(program: Program) -> Program:
    """The same program with canonical loop variables."""
    return dataclasses.replace(program, streams=tuple(canonical_stream(s) for s in program.streams))


def canonical_stream(stream: Stream) -> Stream:
    return dataclasses.replace(stream, items=_numbered(stream.items, {}, 0))


def _numbered(items: tuple[Item, ...], names: Mapping[int, int], depth: int) -> tuple[Item, ...]:
    def renamed(scalar: Scalar) -> Scalar:
        if not isinstance(scalar, Affine):
            return scalar
        return affine(scalar.base, {names.get(v, v): c for v, c in scalar.terms})

    trivial = all(old == new for old, new in names.items())
    out: list[Item] = []
    for item in items:
        if isinstance(item, Loop):
            inner = {**names, item.variable: depth}
            out.append(Loop(depth, item.count, _numbered(item.body, inner, depth + 1)))
        elif trivial:
            out.append(item)
        else:
            out.append(dataclasses.replace(item, command=mapped(item.command, renamed)))
    return tuple(out)
