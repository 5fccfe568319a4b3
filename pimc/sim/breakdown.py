"""Where the time of a token goes under a published mapping: the columns of its authors' tables (CENT's result files).

`published_times.py` fills them in.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from pimc.record import record


@record
class Breakdown:
    """A token's way. Where a run is for several tokens of a query, one after the other, their mean."""

    pim_cycles: int | float
    """of one block, on the memory's clock"""
    cxl_latency_ms: float
    acc_latency_ms: float
    """of the near-memory units"""
    block_latency_ms: float
    embedding_latency_ms: float
    """of embedding and head together"""
    token_latency_ms: float
    tokens_per_s: float
    """of all queries in flight together"""
    token_energy_mJ: float  # noqa: N815  (the published column)
    total_power_W: float  # noqa: N815
    """of all devices while a block's trace runs"""
    device_utilization: float
    """part of the system's devices that are used"""
    tokens: int
    """of each query"""
    queries: int
    """in flight"""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
