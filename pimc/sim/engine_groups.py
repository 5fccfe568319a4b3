"""The same engine of several groups of devices, as one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from pimc.sim.report import EngineReport


def merged_engines(engines: Sequence[EngineReport]) -> list[EngineReport]:
    """The same engine of several groups of devices as one, with mean times and the last one's cycles."""
    groups: dict[str, list[EngineReport]] = defaultdict(list)
    for e in engines:
        groups[e.name.partition("@")[0]].append(e)
    merged = []
    for name, members in groups.items():
        causes = dict.fromkeys(cause for e in members for cause in e.stalled)
        n = len(members)
        merged.append(
            replace(
                members[0],
                name=name,
                cycles=max(e.cycles for e in members),
                commands=sum(e.commands for e in members) // n,
                busy=sum(e.busy for e in members) / n,
                stalled={cause: sum(e.stalled.get(cause, 0.0) for e in members) / n for cause in causes},
                idle=sum(e.idle for e in members) / n,
            )
        )
    return merged
