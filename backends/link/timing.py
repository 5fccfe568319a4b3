"""The time of exchanges between devices.

A step of n bytes takes the hop's latency and the time of n bytes (in whole packets, where the link has them) on a
device's port, which sends and receives at the same time. With g devices in a group and s bytes on each:

    ring:    all-reduce 2(g-1) steps of s/g; all-gather and reduce-scatter g-1 steps of one part
    switch:  the g-1 parts arrive one after another at a port, behind a single hop; all-reduce does that twice

Sums are made as values arrive, and cost nothing beyond. The switch's all-gather is the gather of CENT's CXL model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field

from pimc.backends.isa import Command
from pimc.backends.link.isa import AllReduce, Exchange, Export, Import, Receive, Regroup, Send
from pimc.backends.quantity import PS_PER_S
from pimc.backends.target import LinkSpec, TargetSpec
from pimc.backends.timing import EngineDecl, Issued, Resources
from pimc.ir.diagnostics import InternalError
from pimc.record import record


@record
class Port:
    """What a device's port costs."""

    link: LinkSpec
    bandwidth: int
    """bytes a second, each way"""

    def wire_bytes(self, size: int) -> int:
        """Bytes on the link for `size` bytes of values."""
        packet = self.link.packet
        return size if packet is None else -(-size // packet.payload) * packet.bytes

    def wire_ps(self, size: int, parts: int = 1) -> int:
        """How long `parts` pieces of `size` bytes hold a port."""
        return -(-parts * self.wire_bytes(size) * PS_PER_S // self.bandwidth)

    def rounds(self, size: int, others: int) -> int:
        """One round of parts of `size` bytes between a device and `others`."""
        if self.link.topology == "switch":
            return (self.link.latency if others else 0) + self.wire_ps(size, others)
        return others * (self.link.latency + self.wire_ps(size))


def exchange_ps(command: Exchange, port: Port) -> int:
    """How long an exchange takes from the moment at which all parties are there, until its values are everywhere."""
    if port.link.transfers == "free":
        return 0
    size = command.payload()
    if isinstance(command, AllReduce):
        return 2 * port.rounds(size, command.group - 1)
    if isinstance(command, Regroup):
        return port.rounds(size, command.group - 1)
    if isinstance(command, Send | Receive):
        return port.link.latency + port.wire_ps(size)
    raise InternalError(f"the link has no time for {command.mnemonic}")


def passing_ps(command: Export | Import, port: Port) -> int:
    """How long what comes from or goes to another machine holds the port. The hop in between is in neither."""
    return 0 if port.link.transfers == "free" else port.wire_ps(command.payload())


def sent_bytes(command: Exchange | Export | Import, port: Port) -> int:
    """Bytes that one device puts on the link."""
    if isinstance(command, Receive | Import):
        return 0
    steps = command.group - 1 if isinstance(command, AllReduce | Regroup) else 1
    return port.wire_bytes(command.payload()) * steps * (2 if isinstance(command, AllReduce) else 1)


@dataclass
class LinkTimer:
    """One device's port. Commands are offered once all parties have come, at the same moment to each of them."""

    clock_ps: int
    port: Port
    counters: Counter[str] = field(default_factory=Counter)
    free_at: int = 0

    def issue(self, command: Command, ready: int) -> Issued:
        start = max(ready, self.free_at)
        if isinstance(command, Exchange):
            done = start + exchange_ps(command, self.port)
        elif isinstance(command, Export | Import):
            done = start + passing_ps(command, self.port)
        else:
            raise InternalError(f"the link does not take {command.mnemonic}")
        # A sender is free once its last byte has left; the hop's latency is the receiver's.
        hop = self.port.link.latency if isinstance(command, Send) and done > start else 0
        free = done - hop
        cause = "link" if start > ready else ""
        self.free_at = free
        self.counters["link bytes"] += sent_bytes(command, self.port)
        return Issued(start, free, free if isinstance(command, Send) else done, free - start, cause)

    def relative(self, now: int) -> Hashable | None:
        return max(0, self.free_at - now)

    def shift(self, by: int, since: int) -> None:
        self.free_at += by


def make_timer(spec: TargetSpec, engine: EngineDecl, resources: Resources) -> LinkTimer:
    """The timer of a device's port; ports share nothing."""
    return LinkTimer(engine.clock_ps, Port(spec.system.link, spec.system.link_bandwidth))
