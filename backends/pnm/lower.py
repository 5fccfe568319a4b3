"""Lowering rules of the PNM units: each function goes to the unit that has it, all others to the scalar cores."""

from __future__ import annotations

from functools import partial

from pimc.backends.kernels import library  # noqa: F401  (declares the kernels)
from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.kernels.products import register_products
from pimc.backends.kernels.registry import register_kernels
from pimc.backends.kernels.vector_product import contract_on
from pimc.backends.pnm.isa import (
    ADDER_FUNCTIONS,
    EXPONENT_FUNCTIONS,
    MULTIPLIER_FUNCTIONS,
    TREE_FUNCTIONS,
    Core,
    CoreReduce,
    CoreScan,
    Exponent,
    TreeReduce,
    VectorAdd,
    VectorMultiply,
)
from pimc.backends.vector import Elementwise, Reduce


def _unit(function: str) -> type[Elementwise]:
    if function in EXPONENT_FUNCTIONS:
        return Exponent
    if function in MULTIPLIER_FUNCTIONS:
        return VectorMultiply
    return VectorAdd if function in ADDER_FUNCTIONS else Core


def _reduction(function: str) -> type[Reduce]:
    return TreeReduce if function in TREE_FUNCTIONS else CoreReduce


PNM = VectorMachine("pnm", "pnm", _unit, _reduction, CoreScan, lanes=16)  # of a slot of the shared buffer

register_products(PNM, partial(contract_on, PNM))
register_kernels(PNM)
