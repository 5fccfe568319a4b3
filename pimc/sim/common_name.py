"""One name for several that differ in numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence


def common_name(names: Sequence[str]) -> str:
    """One name for several that differ in numbers: `layers.*.q_proj`."""
    parts = [re.split(r"(\d+)", name) for name in names]
    if len(names) == 1 or len({len(p) for p in parts}) != 1:
        return names[0]
    columns = list(zip(*parts, strict=True))
    if any(len(set(column)) > 1 for column in columns[::2]):
        return names[0]
    return "".join(column[0] if len(set(column)) == 1 else "*" for column in columns)
