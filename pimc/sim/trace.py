"""Chrome traces (JSON) of a simulated run, which Perfetto and chrome://tracing open: one track for each engine.

A slice is a stretch in which an engine works for one op; slices of one track do not overlap. Times are microseconds,
as the format asks; `args` has them in clocks of the engine.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pimc.backends.assembly import ranks
from pimc.backends.program import Program
from pimc.backends.storage import write_atomically
from pimc.sim.accounts import Segment
from pimc.sim.timing import EngineTiming, Timing

MOST_SLICES = 200_000
PS_PER_US = 1e6


def write_trace(path: Path | str, program: Program, timing: Timing, *, limit: int = MOST_SLICES) -> None:
    """Write a trace; compressed if the name ends in .gz. Raises CompileError (FILE_UNWRITABLE)."""
    path = Path(path)
    text = json.dumps(trace(program, timing, limit=limit), separators=(",", ":"), ensure_ascii=False)
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
    total = sum(len(t) for t in tracks)
    shortest = 0
    if total > limit:
        lengths = sorted((s.end - s.start for t in tracks for s in t), reverse=True)
        shortest = lengths[limit] + 1
    events: list[dict[str, Any]] = []
    for number, (engine, segments) in enumerate(zip(timing.engines, tracks, strict=True)):
        events += _names(engine, number)
        events += _slices(program, engine, number, [s for s in segments if s.end - s.start >= shortest])
    shown = sum(e["ph"] == "X" for e in events)
    return {
        "displayTimeUnit": "ns",
        "otherData": {
            "model": program.graph,
            "target": program.target_name,
            "clock_ps": timing.clock_ps,
            "cycles": timing.cycles,
            "slices_left_out": total - shown,
        },
        "traceEvents": events,
    }


def _merged(segments: Sequence[Segment]) -> list[Segment]:
    """Neighbours of one op that touch, as one."""
    out: list[Segment] = []
    for s in segments:
        if out and out[-1].op == s.op and s.start <= out[-1].end:
            out[-1] = Segment(s.op, out[-1].start, max(out[-1].end, s.end), out[-1].busy + s.busy)
        else:
            out.append(s)
    return out


def _names(engine: EngineTiming, number: int) -> Iterator[dict[str, Any]]:
    rank = engine.devices[0]
    yield {"ph": "M", "pid": rank, "name": "process_name", "args": {"name": f"device {ranks(engine.devices)}"}}
    name = engine.name if engine.instances == (0,) else f"{engine.name} [{ranks(engine.instances)}]"
    yield {"ph": "M", "pid": rank, "tid": number, "name": "thread_name", "args": {"name": name}}
    yield {"ph": "M", "pid": rank, "tid": number, "name": "thread_sort_index", "args": {"sort_index": number}}


def _slices(
    program: Program, engine: EngineTiming, number: int, segments: Sequence[Segment]
) -> Iterator[dict[str, Any]]:
    for i, s in enumerate(segments):
        following = segments[i + 1].start if i + 1 < len(segments) else s.end
        end = max(s.start, min(s.end, following))
        row = program.ops[s.op] if 0 <= s.op < len(program.ops) else None
        yield {
            "ph": "X",
            "pid": engine.devices[0],
            "tid": number,
            "name": row.name if row is not None else "-",
            "cat": row.op if row is not None else "-",
            "ts": s.start / PS_PER_US,
            "dur": (end - s.start) / PS_PER_US,
            "args": {
                "clock": s.start // engine.clock_ps,
                "clocks": -(-(end - s.start) // engine.clock_ps),
                "busy_clocks": -(-s.busy // engine.clock_ps),
                "phase": row.phase if row is not None else "",
                "layer": row.layer if row is not None else -1,
            },
        }
