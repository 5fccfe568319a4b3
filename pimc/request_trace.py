"""The Chrome trace of a request on two machines: every part as it was simulated, at the time at which it begins.

The pieces of a transfer are shown as the ends have them by themselves: where the other end is slower, they are spread
over the time of the track `transfer`, which shows when each cache is on its way.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pimc.disaggregated import Request
from pimc.sim.trace import PS_PER_US, trace, write_events

MACHINES = {"prefill": 0, "send": 0, "receive": 1, "decode": 1}
"""Which of the two machines a part runs on."""
TRANSFER = 2


def write_request_trace(path: Path | str, request: Request) -> None:
    """Write a trace; compressed if the name ends in .gz. Raises CompileError (FILE_UNWRITABLE)."""
    write_events(path, request_trace(request))


def request_trace(request: Request) -> dict[str, Any]:
    """The trace as plain data."""
    events: list[dict[str, Any]] = []
    left_out = 0
    ranks = max(program.devices for _, program, _ in request.parts())
    for (name, program, timing), begin in zip(request.parts(), _begins(request), strict=True):
        if request.by_layer and name in ("send", "receive"):
            continue
        plain = trace(program, timing)
        left_out += plain["otherData"]["slices_left_out"]
        events += (_moved(e, name, MACHINES[name] * ranks, begin) for e in plain["traceEvents"])
    events += _transfer(request, TRANSFER * ranks)
    return {
        "displayTimeUnit": "ns",
        "otherData": {
            "model": request.generation.model,
            "target": ":".join(request.targets),
            "seconds": request.seconds,
            "slices_left_out": left_out,
        },
        "traceEvents": events,
    }


def _begins(request: Request) -> list[int]:
    """When the parts begin, in picoseconds."""
    found = request.handover
    prefill = request.prefill.timing.time
    arrived = prefill + found.exposed_ps(by_layer=request.by_layer)
    return [0, prefill, arrived - found.receiver.timing.time, arrived]


def _moved(event: dict[str, Any], part: str, first: int, begin: int) -> dict[str, Any]:
    """An event of one part, in its machine's process and at its time."""
    found = {**event, "pid": event["pid"] + first}
    if "tid" in event:
        found["tid"] = event["tid"] + (_SEND_TRACKS if part in ("send", "receive") else 0)
    if event["ph"] == "X":
        found["ts"] = event["ts"] + begin / PS_PER_US
    elif event["name"] == "process_name":
        which = "prefill" if MACHINES[part] == 0 else "decode"
        found["args"] = {"name": f"{which}: {event['args']['name']}"}
    elif event["name"] == "thread_name" and part in ("send", "receive"):
        found["args"] = {"name": f"{part}: {event['args']['name']}"}
    return found


_SEND_TRACKS = 1000
"""Tracks of the transfer are below those of the phases."""


def _transfer(request: Request, process: int) -> Iterator[dict[str, Any]]:
    found = request.handover
    starts = found.schedule(by_layer=request.by_layer)
    end = request.prefill.timing.time + found.exposed_ps(by_layer=request.by_layer)
    yield {"ph": "M", "pid": process, "name": "process_name", "args": {"name": "transfer of the caches"}}
    yield {"ph": "M", "pid": process, "tid": 0, "name": "thread_name", "args": {"name": "on their way"}}
    for passage, start, until in zip(found.passages, starts, [*starts[1:], end], strict=True):
        yield {
            "ph": "X",
            "pid": process,
            "tid": 0,
            "name": passage.source.name,
            "cat": "transfer",
            "ts": start / PS_PER_US,
            "dur": max(0, until - start) / PS_PER_US,
            "args": {"bytes": passage.bytes, "layer": passage.layer, "same_layout": passage.same_order},
        }
