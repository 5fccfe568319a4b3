"""How caches are paged, as plain data, for the stored and the text form of programs."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from pimc.ir.blocks import Blocks, Window


def plain_blocks(blocks: Blocks) -> dict[str, Any]:
    """As a JSON object."""
    return asdict(blocks)


def blocks_from(plain: object) -> Blocks:
    """Raises ValueError for what `plain_blocks` does not write, and for blocks that cannot be."""
    own = _numbers(plain, Blocks, without="window")
    assert isinstance(plain, dict)
    window = Window(**_numbers(plain.get("window"), Window))
    lanes = window.lanes > 1 and not (window.lane_bytes > 0 and window.lane_turn > 0)
    if lanes or min(window.blocks, window.block_bytes, window.lanes, own["tokens"], own["pool_blocks"]) < 1:
        raise ValueError("a paged cache has no blocks")
    return Blocks(window, **own)


def _numbers(plain: object, cls: type[Blocks | Window], without: str = "") -> dict[str, int]:
    names = [f.name for f in fields(cls)]
    if not isinstance(plain, dict) or sorted(plain) != sorted(names):
        raise ValueError(f"{plain!r} is no description of blocks")
    found = {name: plain[name] for name in names if name != without}
    for value in found.values():
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise ValueError(f"{value!r} is not a number")
    return found
