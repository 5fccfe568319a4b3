"""What the units of one device could do at best: the roofs of a roofline model, from the target's numbers alone."""

from __future__ import annotations

from collections.abc import Iterator

from pimc.backends.target import NpuSpec, PimSpec, PnmSpec, TargetSpec
from pimc.record import record


@record
class Roof:
    """A unit of one device. Peak operations a second (a multiply-accumulate is two), and bytes a second from where its
    operands lie."""

    name: str
    engine: str
    flops: float
    bandwidth: float
    memory: str
    """what the bandwidth is that of"""


def roofs_of(spec: TargetSpec) -> tuple[Roof, ...]:
    """The roofs of one device of a target."""
    return tuple(_roofs(spec))


def _roofs(spec: TargetSpec) -> Iterator[Roof]:
    if spec.npu is not None:
        yield from _npu(spec, spec.npu)
    if spec.pim is not None:
        yield _pim(spec, spec.pim)
    if spec.pnm is not None:
        yield _pnm(spec, spec.pnm)


def _npu(spec: TargetSpec, npu: NpuSpec) -> Iterator[Roof]:
    """The arrays, and the vector unit with one operation a lane and clock. Their operands come out of the DRAM."""
    bandwidth = spec.dram.bandwidth
    if spec.dma is not None and spec.dma.bandwidth is not None:
        bandwidth = min(bandwidth, spec.dma.bandwidth * npu.cores)
    yield Roof("arrays", "npu", 2.0 * npu.macs_per_cycle * npu.clock, float(bandwidth), "DRAM bus")
    vector = npu.vector
    yield Roof("vector unit", "npu", float(npu.cores * vector.width * npu.clock), float(bandwidth), "DRAM bus")


def _pim(spec: TargetSpec, pim: PimSpec) -> Roof:
    """A column access in every bank of every channel, as closely as columns may follow each other."""
    clocks = max(spec.cycles["nCCDS"], spec.cycles["nBL"])
    accesses = spec.dram.channels * spec.dram.banks * spec.dram.clock / clocks
    macs = pim.macs_per_bank * accesses
    return Roof("banks", "pim", 2 * macs, macs * spec.element_bytes, "inside the banks")


def _pnm(spec: TargetSpec, pnm: PnmSpec) -> Roof:
    """One slot after the other through the port of the shared buffer, a result for each at no cost."""
    lanes = pnm.lanes * pnm.clock / pnm.buffer_read
    return Roof("units", "pnm", lanes, 2 * lanes * spec.element_bytes, "buffer port")
