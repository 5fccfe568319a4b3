"""Chrome traces (JSON) of a simulated run, which Perfetto and chrome://tracing open: one track for each engine.

A slice is a stretch in which an engine works for one op; slices of one track do not overlap. Times are microseconds,
as the format asks; `args` has them in clocks of the engine.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pimc.backends.assembly import ranks
from pimc.backends.program import Program
from pimc.backends.storage import write_atomically
from pimc.sim.accounts import BUSY, END, OP, START, Segments
from pimc.sim.timing import EngineTiming, Timing

MOST_SLICES = 200_000
PS_PER_US = 1e6


def write_trace(path: Path | str, program: Program, timing: Timing, *, limit: int = MOST_SLICES) -> None:
    """Write a trace; compressed if the name ends in .gz. Raises CompileError (FILE_UNWRITABLE)."""
    write_events(path, trace(program, timing, limit=limit))


def write_events(path: Path | str, plain: Mapping[str, Any]) -> None:
    """Write a trace that is plain data. Raises CompileError (FILE_UNWRITABLE)."""
    path = Path(path)
    text = json.dumps(plain, separators=(",", ":"), ensure_ascii=False)
    data = text.encode("utf-8", "replace")
    if path.suffix == ".gz":
        packed = io.BytesIO()
        with gzip.GzipFile("", "wb", 6, packed, mtime=0) as file:
            file.write(data)
        data = packed.getvalue()
    write_atomically(path, data)


def trace(program: Program, timing: Timing, *, limit: int = MOST_SLICES) -> dict[str, Any]:
    """The trace as plain data. Beyond `limit` slices, short ones are left out."""
    tracks = [_merged(e.segments) for e in timing.engines]
    lengths = np.concatenate([np.empty(0, np.int64), *(t[:, END] - t[:, START] for t in tracks)])
    shortest = int(np.sort(lengths)[-limit]) + 1 if len(lengths) > limit else 0
    events: list[dict[str, Any]] = []
    for number, (engine, segments) in enumerate(zip(timing.engines, tracks, strict=True)):
        events += _names(engine, number)
        events += _slices(program, engine, number, segments[segments[:, END] - segments[:, START] >= shortest])
    shown = sum(e["ph"] == "X" for e in events)
    return {
        "displayTimeUnit": "ns",
        "otherData": {
            "model": program.graph,
            "target": program.target_name,
            "clock_ps": timing.clock_ps,
            "cycles": timing.cycles,
            "slices_left_out": len(lengths) - shown,
        },
        "traceEvents": events,
    }


def _merged(segments: Segments) -> Segments:
    """Neighbours of one op that touch, as one."""
    if not len(segments):
        return segments
    apart = np.ones(len(segments), bool)
    apart[1:] = (segments[1:, OP] != segments[:-1, OP]) | (segments[1:, START] > segments[:-1, END])
    first = np.flatnonzero(apart)
    ends = np.maximum.reduceat(segments[:, END], first)
    busy = np.add.reduceat(segments[:, BUSY], first)
    return np.stack([segments[first, OP], segments[first, START], ends, busy], axis=1)


def _names(engine: EngineTiming, number: int) -> Iterator[dict[str, Any]]:
    rank = engine.devices[0]
    yield {"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"device {ranks(engine.devices)}"}}
    name = engine.name if engine.instances == (0,) else f"{engine.name} [{ranks(engine.instances)}]"
    yield {"ph": "M", "pid": rank, "tid": number, "name": "thread_name", "args": {"name": name}}
    yield {"ph": "M", "pid": rank, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}}


def _slices(program: Program, engine: EngineTiming, number: int, segments: Segments) -> Iterator[dict[str, Any]]:
    rows = segments.tolist()
    for i, (op, start, end, busy) in enumerate(rows):
        following = rows[i + 1][START] if i + 1 < len(rows) else end
        end = max(start, min(end, following))
        row = program.ops[op] if 0 <= op < len(program.ops) else None
        yield {
            "ph": "X",
            "pid": engine.devices[0],
            "tid": number,
            "name": row.name if row is not None else "-",
            "cat": row.op if row is not None else "-",
            "ts": start / PS_PER_US,
            "dur": (end - start) / PS_PER_US,
            "args": {
                "clock": start // engine.clock_ps,
                "clocks": -(-(end - start) // engine.clock_ps),
                "busy_clocks": -(-busy // engine.clock_ps),
                "phase": row.phase if row is not None else "",
                "layer": row.layer if row is not None else -1,
            },
        }
