"""Times the trace of a published simulator on the controller of a target."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, Literal

from pimc.backends.pim.aim_device import AimDevice
from pimc.backends.pim.aim_rules import AimRules
from pimc.backends.pim.aim_states import States
from pimc.backends.pim.aim_steps import SteppedDevice
from pimc.backends.pim.aim_trace import TraceReader
from pimc.backends.pim.issues import IssueSink
from pimc.backends.target import TargetSpec
from pimc.ir.diagnostics import Kind, fail
from pimc.record import record


@record
class ChannelRun:
    """What one channel did."""

    channel: int
    cycles: int
    """clock of its last command; 0: none"""
    commands: Counter[str]


@record
class Replay:
    """The time of a trace: the clocks in which the memory system was at work."""

    cycles: int
    seconds: float
    lines: int
    channels: tuple[ChannelRun, ...]

    @property
    def commands(self) -> Counter[str]:
        """DRAM commands over all channels."""
        total: Counter[str] = Counter()
        for channel in self.channels:
            total.update(channel.commands)
        return total

    def to_json(self) -> dict[str, Any]:
        return {
            "cycles": self.cycles,
            "seconds": self.seconds,
            "lines": self.lines,
            "commands": dict(sorted(self.commands.items())),
            "channels": [
                {"channel": c.channel, "cycles": c.cycles, "commands": dict(sorted(c.commands.items()))}
                for c in self.channels
            ],
        }


def replay(
    name: str,
    texts: Iterable[str],
    spec: TargetSpec,
    *,
    engine: Literal["fast", "plain"] = "fast",
    issues: IssueSink | None = None,
) -> Replay:
    """Time the lines of a trace called `name`; `plain` steps through every clock.

    Raises CompileError: SYNTAX, UNAVAILABLE.
    """
    if spec.pim is None or spec.pim.style != "aim":
        raise fail(
            Kind.UNAVAILABLE, f"target '{spec.name}' has no GDDR6-AiM to run the trace on", help="use -t aim-pinned"
        )
    rules = AimRules.of(spec)
    reader = TraceReader(name, rules.channels, rules.banks)
    device = SteppedDevice(rules, issues) if engine == "plain" else AimDevice(States(rules), issues)
    lines = 0
    for line in reader.lines(texts):
        device.decode(line)
        lines += 1
    cycles = device.finish()
    ran = zip(device.last_issued(), device.counts(), strict=True)
    channels = tuple(ChannelRun(i, last, counts) for i, (last, counts) in enumerate(ran))
    return Replay(cycles, cycles * spec.dram.clock_ps * 1e-12, lines, channels)
