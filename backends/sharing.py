"""Devices that several pipeline stages share: each stage has a part of the channels and of the on-chip buffer.

The parts of a device work in lock-step: while one query is in a stage, other queries are in the other stages of that
device, and do the same there. What each channel has of its own is not slowed by that. What a device has once (the
units beside the memory controllers, the port of the buffer, the queues of copies, the port of the link) does the work
of all parts, one after the other: everything takes it as many times as long as there are parts. That is CENT's own
account (blocks of one device run in lock-step, its PNM time counts once for each of them).

A part is a machine of its own for everything else: memory plans, lowering, and the simulator, which executes the
streams of one query.
"""

from __future__ import annotations

from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import Kind, fail

ALIGNED = 64
"""Bytes to which the part of a buffer is rounded down."""


def shared(spec: TargetSpec, stages: int, group: int) -> TargetSpec:
    """The machine on which each of `stages` stages has its part of `group` devices.

    The machine itself where there are enough devices, or where devices cannot be divided: with an NPU, or with PIM
    whose streams belong to single channels. Raises CompileError (PARALLEL) where a part would have no channel.
    """
    needed, devices = stages * group, spec.system.devices
    divides = spec.npu is None and spec.dma is not None and spec.pim is not None and spec.pim.style == "aim"
    if needed <= devices or group > devices or not divides or spec.system.sharing > 1:
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
