"""GDDR6-AiM as the checker knows it: distances are the target's table; commands after the AiM simulator (2eb1ee0)."""

from __future__ import annotations

from pimc.backends.pim.issues import TRAFFIC
from pimc.backends.target import TargetSpec
from pimc.sim.check.part import BANK, CHANNEL, CommandRule, Distance, Mode, Part, RefreshRule, Use

ROW = "row buffer"
BUFFER, SUMS, ACTIVATED = "the global buffer", "the accumulators", "the activation registers"
ARRAY, REGISTER = Mode.ARRAY, Mode.REGISTER

COMMANDS = (
    CommandRule("ACT", BANK, ((ROW, Use.OPENS),), ARRAY),
    CommandRule("ACT16", CHANNEL, ((ROW, Use.JOINS),), ARRAY),
    CommandRule("PRE", BANK, ((ROW, Use.CLOSES),)),
    CommandRule("PREA", CHANNEL, ((ROW, Use.CLOSES),)),
    CommandRule("REFab", CHANNEL, ((ROW, Use.NEEDS_CLOSED),)),
    CommandRule("TMOD", CHANNEL),
    CommandRule("RD", BANK, ((ROW, Use.NEEDS),), ARRAY),
    CommandRule("WR", BANK, ((ROW, Use.NEEDS),), ARRAY),
    CommandRule("WRA16", CHANNEL, ((ROW, Use.NEEDS_THEN_CLOSES),), ARRAY),
    CommandRule("RDCP", BANK, ((ROW, Use.NEEDS),), ARRAY, fills=(BUFFER,)),
    CommandRule("WRCP", BANK, ((ROW, Use.NEEDS),), ARRAY, uses=(BUFFER,)),
    CommandRule("MAC", BANK, ((ROW, Use.NEEDS),), ARRAY, uses=(BUFFER,), fills=(SUMS,)),
    CommandRule("MAC16", CHANNEL, ((ROW, Use.NEEDS),), ARRAY, uses=(BUFFER,), fills=(SUMS,)),
    CommandRule("AF16", CHANNEL, ((ROW, Use.NEEDS),), ARRAY, uses=(SUMS,), fills=(ACTIVATED,)),
    CommandRule("EWMUL16", CHANNEL, ((ROW, Use.NEEDS),), ARRAY),
    CommandRule("WRGB", CHANNEL, (), REGISTER, fills=(BUFFER,)),
    CommandRule("WRMAC16", CHANNEL, (), REGISTER, fills=(SUMS,)),
    CommandRule("RDMAC16", CHANNEL, (), REGISTER, uses=(SUMS,)),
    CommandRule("RDAF16", CHANNEL, (), REGISTER, uses=(ACTIVATED,)),
    CommandRule(TRAFFIC, CHANNEL, ((ROW, Use.CLOSES),), on_bus=False),
)


def aim_part(spec: TargetSpec) -> Part:
    """The part of a target whose PIM is GDDR6-AiM."""
    dram = spec.dram
    distances = tuple(Distance(*key, clocks) for key, clocks in sorted(spec.pair_constraints().items()))
    return Part(
        name=spec.name,
        banks=dram.banks,
        channels=spec.system.devices * dram.channels,
        levels={BANK: 1, "bankgroup": dram.banks_per_group, CHANNEL: dram.banks},
        commands=COMMANDS,
        distances=distances,
        switch="TMOD",
        refresh=RefreshRule("REFab", CHANNEL, spec.cycles["nREFI"]) if dram.refresh else None,
    )
