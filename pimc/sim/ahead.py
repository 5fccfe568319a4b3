"""What was prefetched: transfers for an op that went on while its engine was at work for others.

Without prefetch an op's operands come when those before it are done. An op that is bound by memory takes as much longer
then; one whose tiles hide their own transfers, less (`schedule.prefetch=false` tells).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from pimc.backends.program import Program
from pimc.sim.accounts import BUSY, END, OP, START, Segments
from pimc.sim.timing import EngineTiming, Timing, united

LOADING = "load"
COMPUTING = ("npu", "pim", "pnm")


def ahead_of(program: Program, timing: Timing) -> Mapping[int, int]:
    """Picoseconds by row of the op table, over the first device of each class; empty where nothing is loaded."""
    found: Counter[int] = Counter()
    classes: dict[tuple[int, ...], list[EngineTiming]] = defaultdict(list)
    for engine in timing.engines:
        classes[engine.devices].append(engine)
    for engines in classes.values():
        loading = [e.segments for e in engines if e.name.partition("-")[0] == LOADING]
        for engine in (e for e in engines if e.name in COMPUTING):
            own = {i for i, row in enumerate(program.ops) if row.engine == engine.name}
            for segments in loading:
                found.update(_ahead(segments[np.isin(segments[:, OP], list(own))], engine.segments))
    return found


def _ahead(loads: Segments, work: Segments) -> Mapping[int, int]:
    """How long the loads of each op went on while there was work for others."""
    if not len(loads) or not len(work):
        return {}
    every = np.array(work[:, : END + 1])
    every[:, OP] = 0
    by_op = united(work[:, : END + 1])
    whole = united(every)
    found: dict[int, int] = {}
    for op in sorted({*loads[:, OP].tolist()}):
        mine = loads[loads[:, OP] == op]
        others = _covered(mine, whole) - _covered(mine, by_op[by_op[:, OP] == op])
        share = mine[:, BUSY] / np.maximum(1, mine[:, END] - mine[:, START])
        total = int((others * share).sum())
        if total > 0:
            found[op] = total
    return found


def _covered(spans: Segments, work: Segments) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """How much of each span lies within stretches that do not overlap."""
    if not len(work):
        return np.zeros(len(spans))
    edges = work[:, START : END + 1].reshape(-1).astype(np.float64)
    done = np.repeat(np.cumsum(work[:, END] - work[:, START]), 2).astype(np.float64)
    done[::2] -= work[:, END] - work[:, START]
    return np.interp(spans[:, END], edges, done) - np.interp(spans[:, START], edges, done)
