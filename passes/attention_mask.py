"""What an additive or boolean attention mask with known contents says."""

from __future__ import annotations

import numpy as np

from pimc.ir.op import Array
from pimc.record import record

HIDDEN = -6e4
"""An additive mask this low hides a key: exp(-6e4) is 0 in every float type, and half precision goes little lower."""


@record
class MaskPattern:
    """Keys are visible up to the query's own position (causal), the last `window` of them (0: all)."""

    causal: bool = False
    window: int = 0

    @property
    def hides_nothing(self) -> bool:
        return not self.causal and not self.window


def visibility(mask: Array) -> Array | None:
    """Which keys a mask shows; None where it weighs them instead of hiding or showing."""
    if mask.dtype == np.bool_:
        return mask
    shown = mask == 0
    return shown if bool(np.all(shown | (mask <= HIDDEN))) else None


def classify(mask: Array, queries: int, keys: int) -> MaskPattern | None:
    """The pattern of a mask [..., S|1, T|1], or None if it has none, or a query that sees no key at all.

    Queries are the last ones of the keys: query i stands at key `i + keys - queries`.
    """
    shown = visibility(mask)
    if shown is None:
        return None
    if bool(shown.all()):
        return MaskPattern()
    if shown.ndim < 2 or shown.shape[-1] != keys or shown.shape[-2] != queries:
        return None
    rows = shown.reshape(-1, queries, keys)
    if not bool((rows == rows[0]).all()) or not bool(rows[0].any(axis=1).all()):
        return None
    at = (np.arange(queries) + keys - queries)[:, None]
    key = np.arange(keys)[None, :]
    causal = key <= at
    if np.array_equal(rows[0], causal):
        return MaskPattern(causal=True)
    window = int(rows[0, -1].sum())
    if np.array_equal(rows[0], causal & (key > at - window)):
        return MaskPattern(causal=True, window=window)
    return None


def is_triangular(mask: Array) -> bool:
    """Whether the first matrix of a mask lets each query see up to its own position, and no further.

    Weaker than `classify`: keys before that may be hidden too, so that it also holds of one step of a computation.
    """
    if mask.ndim < 2 or mask.shape[-2] < 2 or mask.shape[-1] < mask.shape[-2]:
        return False
    shown = visibility(mask) if mask.dtype.kind in "bf" else mask != 0
    if shown is None:
        return False
    first = shown.reshape(-1, *shown.shape[-2:])[0]
    queries, keys = first.shape
    last_shown = keys - 1 - np.argmax(first[:, ::-1], axis=1)
    return bool(first.any(axis=1).all()) and np.array_equal(last_shown, np.arange(queries) + keys - queries)
