"""HBM with Newton's or NeuPIMs' PIM as the checker knows it, from the timing parameters of the part.

`COMPS_READRES` is one command on the bus; the COMPs and the READRES that the banks execute for it are listed beside it,
and take no cycle of the bus. Distances from the work are those from COMP and READRES, as in a part that gets them
singly: rows stay open until the last of them, whatever a published simulator allows.
"""

from __future__ import annotations

from collections.abc import Mapping

from pimc.backends.pim.issues import TRAFFIC
from pimc.backends.target import NewtonPim, TargetSpec
from pimc.sim.check.part import BANK, CHANNEL, CommandRule, Distance, Part, RefreshRule, Span, Use, Window

GROUP, RANK, ACTIVATION = "bankgroup", "rank", "activation"
"""`activation`: the banks that one G_ACT opens."""
NORMAL, PIM = "row buffer", "PIM row buffer"
BUFFER, SUMS = "the global buffer", "the accumulators"
MOST_ACTIVATIONS = 4
"""Banks that may be opened within tFAW."""

_BOTH: tuple[tuple[str, str, str, str], ...] = (
    # (level, previous, next, clocks)
    (BANK, "ACTIVATE", "READ", "nRCDRD"),
    (BANK, "ACTIVATE", "WRITE", "nRCDWR"),
    (BANK, "ACTIVATE", "GWRITE", "nRCDRD"),
    (BANK, "ACTIVATE", "PRECHARGE", "nRAS"),
    (BANK, "ACTIVATE", "ACTIVATE", "nRC"),
    (GROUP, "ACTIVATE", "ACTIVATE", "nRRDL"),
    (RANK, "ACTIVATE", "ACTIVATE", "nRRDS"),
    (RANK, "ACTIVATE", "G_ACT", "nRRDS"),
    (BANK, "PRECHARGE", "ACTIVATE", "nRP"),
    (RANK, "PRECHARGE", "REFRESH", "nRP"),
    (RANK, "REFRESH", "ACTIVATE", "nRFC"),
    (RANK, "REFRESH", "G_ACT", "nRFC"),
    (RANK, "REFRESH", "REFRESH", "nRFC"),
    (ACTIVATION, "G_ACT", "G_ACT", "nRAS + nRP"),
    # normal transfers
    (CHANNEL, "READ", "READ", "nBL"),
    (CHANNEL, "READ", "READ", "nCCDS"),
    (GROUP, "READ", "READ", "nCCDL"),
    (CHANNEL, "WRITE", "WRITE", "nBL"),
    (CHANNEL, "WRITE", "WRITE", "nCCDS"),
    (GROUP, "WRITE", "WRITE", "nCCDL"),
    (CHANNEL, "READ", "WRITE", "nCL + nBL + nRTRS - nCWL"),
    (RANK, "WRITE", "READ", "nCWL + nBL + nWTRS"),
    (GROUP, "WRITE", "READ", "nCWL + nBL + nWTRL"),
    (BANK, "READ", "PRECHARGE", "nRTP"),
    (BANK, "WRITE", "PRECHARGE", "nCWL + nBL + nWR"),
    # a row into the global buffer
    (CHANNEL, "READ", "GWRITE", "nBL"),
    (RANK, "WRITE", "GWRITE", "nCWL + nBL + nWTRS"),
    (BANK, "GWRITE", "PRECHARGE", "nGWRITE"),
    (BANK, "GWRITE", "READ", "nGWRITE"),
    (BANK, "GWRITE", "WRITE", "nGWRITE"),
    (CHANNEL, "GWRITE", "GWRITE", "nGWRITE"),
    (CHANNEL, "GWRITE", "READRES", "nGWRITE"),
    (CHANNEL, "GWRITE", "READ", "nBL"),
    (CHANNEL, "GWRITE", "WRITE", "nCL + nBL + nRTRS - nCWL"),
    (CHANNEL, "COMP", "GWRITE", "nBL"),
    (CHANNEL, "READRES", "GWRITE", "nBL"),
    # the multipliers
    (CHANNEL, "COMP", "COMP", "nBL"),
    (CHANNEL, "COMP", "COMP", "nCCDS"),
    (CHANNEL, "COMP", "READRES", "nBL"),
    (CHANNEL, "READRES", "READRES", "nBL"),
)  # fmt: skip

_DUAL = (
    (ACTIVATION, "ACTIVATE", "G_ACT", "nRRDL"),
    (ACTIVATION, "G_ACT", "ACTIVATE", "nRRDL"),
    (ACTIVATION, "G_ACT", "PIM_PRECHARGE", "nRAS"),
    (ACTIVATION, "PIM_PRECHARGE", "G_ACT", "nRP"),
    (RANK, "PIM_PRECHARGE", "REFRESH", "nRP"),
    (CHANNEL, "G_ACT", "COMPS_READRES", "nRCDRD"),
    (CHANNEL, "GWRITE", "COMPS_READRES", "nGWRITE"),
    (CHANNEL, "READRES", "COMPS_READRES", "nBL"),
    (CHANNEL, "COMP", "PIM_PRECHARGE", "nRTP"),
    (CHANNEL, "READRES", "PIM_PRECHARGE", "nRTP"),
    (CHANNEL, "READRES", "READ", "nBL"),
    (CHANNEL, "READ", "READRES", "nBL"),
)  # fmt: skip

_SINGLE = (
    (ACTIVATION, "ACTIVATE", "G_ACT", "nRAS + nRP"),
    (ACTIVATION, "G_ACT", "ACTIVATE", "nRAS + nRP"),
    (ACTIVATION, "G_ACT", "PRECHARGE", "nRAS"),
    (ACTIVATION, "PRECHARGE", "G_ACT", "nRP"),
    (CHANNEL, "G_ACT", "COMP", "nRCDRD"),
    (CHANNEL, "GWRITE", "COMP", "nGWRITE"),
    (CHANNEL, "READRES", "COMP", "nBL"),
    (CHANNEL, "COMP", "PRECHARGE", "nRTP"),
    (CHANNEL, "READRES", "PRECHARGE", "nRTP"),
    (CHANNEL, "COMP", "READ", "nBL"),
    (CHANNEL, "COMP", "WRITE", "nCL + nBL + nRTRS - nCWL"),
    (CHANNEL, "READ", "COMP", "nBL"),
    (CHANNEL, "WRITE", "COMP", "nCWL + nBL + nWTRS"),
)  # fmt: skip


def _common(buffers: tuple[str, ...]) -> tuple[CommandRule, ...]:
    """What both kinds of row buffers have."""
    others = tuple((buffer, Use.DIFFERS) for buffer in buffers if buffer != NORMAL)
    return (
        CommandRule("ACTIVATE", BANK, ((NORMAL, Use.OPENS), *others)),
        CommandRule("PRECHARGE", BANK, ((NORMAL, Use.CLOSES),)),
        CommandRule("READ", BANK, ((NORMAL, Use.NEEDS),)),
        CommandRule("WRITE", BANK, ((NORMAL, Use.NEEDS),)),
        CommandRule("GWRITE", BANK, ((NORMAL, Use.NEEDS),), fills=(BUFFER,)),
        CommandRule("REFRESH", RANK, tuple((buffer, Use.NEEDS_CLOSED) for buffer in buffers)),
        CommandRule("READRES", CHANNEL, uses=(SUMS,), empties=(SUMS,), on_bus=len(buffers) == 1),
        CommandRule(TRAFFIC, CHANNEL, tuple((buffer, Use.CLOSES) for buffer in buffers), on_bus=False),
    )


_DUAL_COMMANDS = (
    *_common((NORMAL, PIM)),
    CommandRule("G_ACT", ACTIVATION, ((PIM, Use.OPENS), (NORMAL, Use.DIFFERS))),
    CommandRule("PIM_PRECHARGE", BANK, ((PIM, Use.CLOSES),)),
    CommandRule("COMPS_READRES", CHANNEL, ((PIM, Use.NEEDS),), uses=(BUFFER,)),
    CommandRule("COMP", CHANNEL, ((PIM, Use.NEEDS),), fills=(SUMS,), on_bus=False),
)
_SINGLE_COMMANDS = (
    *_common((NORMAL,)),
    CommandRule("G_ACT", ACTIVATION, ((NORMAL, Use.JOINS),)),
    CommandRule("COMP", CHANNEL, ((NORMAL, Use.NEEDS),), uses=(BUFFER,), fills=(SUMS,)),
)


def clocks_of(formula: str, cycles: Mapping[str, int]) -> int:
    """A sum of timing parameters, with signs."""
    terms = f"+ {formula}".split()
    return sum(
        cycles[name] if sign == "+" else -cycles[name] for sign, name in zip(terms[::2], terms[1::2], strict=True)
    )


def newton_part(spec: TargetSpec, pim: NewtonPim) -> Part:
    """The part of a target whose PIM is that of Newton or NeuPIMs."""
    dram, cycles = spec.dram, spec.cycles
    is_dual = pim.row_buffers == "dual"
    rank, opened = dram.banks // dram.ranks, pim.banks_per_activation
    window = {"ACTIVATE": 1, "G_ACT": opened}
    period = max(cycles["nBL"], cycles["nCCDS"])
    rows = (*_BOTH, *(_DUAL if is_dual else _SINGLE))
    return Part(
        name=spec.name,
        banks=dram.banks,
        channels=spec.system.devices * dram.channels,
        levels={BANK: 1, GROUP: dram.banks_per_group, ACTIVATION: opened, RANK: rank, CHANNEL: dram.banks},
        commands=_DUAL_COMMANDS if is_dual else _SINGLE_COMMANDS,
        distances=tuple(Distance(level, a, b, clocks_of(formula, cycles)) for level, a, b, formula in rows),
        windows=(Window(RANK, cycles["nFAW"], max(MOST_ACTIVATIONS, opened), window),),
        spans=(Span("COMP", "READRES", pim.least_macs * (period if is_dual else 1)),),
        refresh=RefreshRule("REFRESH", RANK, cycles["nREFI"]) if dram.refresh else None,
    )
