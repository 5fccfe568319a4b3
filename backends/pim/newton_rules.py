"""What a channel of Newton-style PIM obeys: clocks of the part, and what its controller keeps to."""

from __future__ import annotations

from dataclasses import dataclass

from pimc.backends.target import NewtonPim, NewtonSwitches, TargetSpec


@dataclass(frozen=True)
class Rules:
    """Clocks of one part, and the switches of its controller."""

    ranks: int
    groups: int
    """activations that open a rank"""
    group_banks: int
    is_dual: bool
    trp: int
    tras: int
    trcd: int
    twindow: int
    """G_ACT to G_ACT of one rank"""
    trrd_same: int
    trrd_other: int
    trtp: int
    read: int
    """READRES to its values"""
    answer: int
    """from then, or from the end of a GWRITE, until that is seen"""
    comp: int
    """COMP to COMP"""
    turn: int
    """COMPS to GWRITE"""
    least: int
    gwrite: int
    refresh: int
    interval: int
    """from one rank's refresh to the next rank's; 0: none"""
    switches: NewtonSwitches

    @staticmethod
    def of(spec: TargetSpec, pim: NewtonPim) -> Rules:
        n = spec.cycles
        ranks = spec.dram.ranks
        return Rules(
            ranks=ranks, groups=spec.dram.banks // ranks // pim.banks_per_activation,
            group_banks=pim.banks_per_activation,
            is_dual=pim.row_buffers == "dual", trp=n["nRP"], tras=n["nRAS"], trcd=n["nRCDRD"], twindow=n["nFAW"],
            trrd_same=n["nRRDL"], trrd_other=n["nRRDS"], trtp=n["nRTP"], read=n["nCL"] + n["nBL"],
            answer=n["nRETURN"],
            comp=max(n["nBL"], n["nCCDS"]), turn=max(n["nBL"], n["nCCDS"]), least=pim.least_macs, gwrite=n["nGWRITE"],
            refresh=n["nRFC"], interval=n["nREFI"] // ranks if spec.dram.refresh else 0, switches=pim.switches,
        )  # fmt: skip
