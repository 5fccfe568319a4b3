"""How CENT spreads a model over devices.

Pipeline mapping (one block a stage, or several stages a device): a block has some channels of one device to itself, and
the blocks of a device run in lock step. Every other mapping: groups of devices, each of which runs its share of the
blocks one after the other on all its channels; the weights of a block are spread over the group, all the rest is done
by the first device of it, the master.
"""

from __future__ import annotations

from collections.abc import Mapping

from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import Kind, fail
from pimc.record import record


@record
class Split:
    """The devices of one block, and of the model."""

    stages: int
    """pipeline stages, which are the queries in flight"""
    ranks: int
    """devices that share the weights of a block"""
    channels: int
    """of one block, on one device"""
    together: int
    """blocks of a device that run in lock step"""
    turns: int
    """blocks of a device that take turns on its PNM units, as published"""
    used: int
    """devices that take part"""
    devices: int
    """of the system"""
    device_channels: int

    @property
    def is_shared(self) -> bool:
        """Whether stages share devices: the pipeline mapping, in which only one vector goes from block to block."""
        return self.channels < self.device_channels

    @property
    def masters(self) -> tuple[int, ...]:
        """The devices that do more than multiply with weights."""
        return tuple(range(0, self.used, self.ranks))

    @property
    def helpers(self) -> tuple[int, ...]:
        return tuple(rank for rank in range(self.used) if rank % self.ranks)


def split_of(spec: TargetSpec, blocks: int, parallel: Mapping[str, int]) -> Split:
    """The split that `--parallel` asks for; without it all devices share every block.

    Raises CompileError (PARALLEL).
    """
    devices, width = spec.system.devices, spec.dram.channels
    ranks = parallel.get("tp", 1 if "pp" in parallel else devices)
    stages = parallel.get("pp", 1)
    if min(ranks, stages) < 1:
        raise fail(Kind.PARALLEL, f"pp={stages},tp={ranks}: degrees must be 1 or more")
    if stages > blocks:
        raise fail(Kind.PARALLEL, f"{blocks} blocks do not make {stages} pipeline stages", help=f"pp={blocks} at most")
    if ranks == 1 and (stages > devices or stages == blocks):
        return _shared(spec, stages, blocks)
    if ranks * stages > devices:
        raise fail(
            Kind.PARALLEL,
            f"pp={stages},tp={ranks} needs {ranks * stages} devices, but the system has {devices}",
            help=f"--set system.devices={ranks * stages}; stages share devices where tp=1",
        )
    return Split(stages, ranks, width, 1, 1, stages * ranks, devices, width)


def _shared(spec: TargetSpec, stages: int, blocks: int) -> Split:
    devices, width = spec.system.devices, spec.dram.channels
    turns = -(-stages // devices)
    channels = width // turns
    if not channels:
        raise fail(Kind.PARALLEL, f"{stages} stages on {devices} devices leave less than a channel for each")
    together = width // channels
    return Split(stages, 1, channels, together, turns, -(-stages // together), devices, width)
