"""What a channel of Newton-style PIM obeys: clocks of the part, and what its controller keeps to."""

from __future__ import annotations

from pimc.backends.target import NewtonPim, NewtonSwitches, SharingSpec, TargetSpec
from pimc.record import record


@record
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
    bank_group: int
    """banks of one bank group"""
    rows: int
    row_accesses: int
    """reads that take a whole row"""
    sharing: SharingSpec
    column_same: int
    """READ to READ of one bank group"""
    column_other: int
    """READ to READ of another bank group"""
    column_rank: int
    """READ to READ of another rank"""
    burst: int
    """clocks of the data bus for one read"""

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
            bank_group=spec.dram.banks_per_group, rows=spec.dram.rows, row_accesses=spec.dram.accesses_per_row,
            sharing=pim.sharing, burst=n["nBL"], column_same=max(n["nBL"], n["nCCDL"]),
            column_other=max(n["nBL"], n["nCCDS"]), column_rank=n["nBL"] + n["nRTRS"],
        )  # fmt: skip
