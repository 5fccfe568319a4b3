"""Devices that several pipeline stages share: side by side, or by turns. The target's mapping says which.

By turns, each stage has the whole device while it is at work. A query that is done with one stage waits for the others
of that device, which serve other queries and take as long: it is in each stage for as many times the stage's own time
as there are turns. Nothing of the other queries is simulated beyond that.

Side by side (CENT), each stage has a part of the channels and of the on-chip buffer. The parts work in lock-step: while
one query is in a stage, other queries are in the other stages of that device, and do the same there. What each channel
has of its own is not slowed by that. What a device has once (the units beside the memory controllers, the port of the
buffer, the queues of copies, the port of the link) does the work of all parts, one after the other: everything takes it
as many times as long as there are parts. That is CENT's own account (blocks of one device run in lock-step, its PNM
time counts once for each of them).

A part is a machine of its own for everything else: memory plans, lowering, and the simulator, which executes the
streams of one query.
"""

from __future__ import annotations

from pimc.backends.pim.mapping import mapping_of
from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import Kind, fail

ALIGNED = 64
"""Bytes to which the part of a buffer is rounded down."""


def is_divisible(spec: TargetSpec) -> bool:
    """Whether stages can share a device: nothing of it belongs to single channels, or to an NPU."""
    return spec.npu is None and spec.dma is not None and spec.pim is not None and spec.pim.style == "aim"


def turns_on(spec: TargetSpec, stages: int, group: int) -> int:
    """How many stages take turns on each device; 1 where there are enough devices, or they are shared otherwise."""
    devices = spec.system.devices * spec.system.sharing
    by_turns = is_divisible(spec) and not mapping_of(spec).stages_side_by_side
    return -(-stages * group // devices) if by_turns and group <= devices else 1


def shared(spec: TargetSpec, stages: int, group: int) -> TargetSpec:
    """The machine on which each of `stages` stages has its part of `group` devices.

    The machine itself where there are enough devices, or where stages do not share them side by side. Raises
    CompileError (PARALLEL) where a part would have no channel.
    """
    needed, devices = stages * group, spec.system.devices
    beside = is_divisible(spec) and mapping_of(spec).stages_side_by_side
    if needed <= devices or group > devices or not beside or spec.system.sharing > 1:
        return spec
    parts = -(-needed // devices)
    if parts > spec.dram.channels:
        fewest = -(-needed // spec.dram.channels)
        raise fail(
            Kind.PARALLEL,
            f"pp={stages},tp={group} on {devices} devices makes {parts} parts of a device, which has "
            f"{spec.dram.channels} channels",
            help=f"--set system.devices={fewest} at least",
        )
    channels = spec.dram.channels // parts
    buffer_bytes = spec.buffer.bytes // parts // ALIGNED * ALIGNED
    return spec.model_copy(
        update={
            "system": spec.system.model_copy(update={"sharing": parts}),
            "dram": spec.dram.model_copy(update={"channels": channels}),
            "buffer": spec.buffer.model_copy(update={"bytes": buffer_bytes}),
        }
    )
