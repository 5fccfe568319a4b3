"""The command by which GDDR6-AiM multiplies, as lowering issues it."""

from __future__ import annotations

from pimc.backends.affine import Scalar
from pimc.backends.lowering import Lowering
from pimc.backends.pim.aim_isa import MacAllBanks
from pimc.ir.types import DType


def accumulators(at: Lowering) -> int:
    assert at.spec.pim is not None
    return at.spec.pim.accumulators


def mac(
    at: Lowering, count: int, mask: int, row: Scalar, register: Scalar, column: Scalar = 0, vector: Scalar = 0
) -> None:
    sums = DType.parse(at.spec.accumulator)
    command = MacAllBanks(count, mask, row, register, column, vector, "gb", at.spec.storage_dtype, sums)
    at.emit.issue("pim", command)
