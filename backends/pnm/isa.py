"""Commands of the PNM units: exponents, sums and products of vectors, reduction trees, routines of the scalar cores.

Each unit has its own mnemonic; the functions that it offers are those of `backends.vector`.
"""

from __future__ import annotations

from typing import ClassVar

from pimc.backends.isa import choice, command
from pimc.backends.vector import REDUCTIONS, Elementwise, Reduce, Scan
from pimc.record import record

EXPONENT_FUNCTIONS = ("exp",)
ADDER_FUNCTIONS = ("add", "sub", "copy")
MULTIPLIER_FUNCTIONS = ("mul",)
TREE_FUNCTIONS = ("sum", "max", "min")


@command
@record
class Exponent(Elementwise):
    """Exponentials on the exponent units."""

    mnemonic: ClassVar[str] = "EXP"
    unit: ClassVar[str] = "pnm"
    function: str = choice("what is computed", EXPONENT_FUNCTIONS)


@command
@record
class VectorAdd(Elementwise):
    """Sums and copies on the vector units."""

    mnemonic: ClassVar[str] = "VADD"
    unit: ClassVar[str] = "pnm"
    function: str = choice("what is computed", ADDER_FUNCTIONS)


@command
@record
class VectorMultiply(Elementwise):
    """Products on the vector units."""

    mnemonic: ClassVar[str] = "VMUL"
    unit: ClassVar[str] = "pnm"
    function: str = choice("what is computed", MULTIPLIER_FUNCTIONS)


@command
@record
class TreeReduce(Reduce):
    """Reductions of rows on the reduction trees."""

    mnemonic: ClassVar[str] = "RED"
    unit: ClassVar[str] = "pnm"
    function: str = choice("what is computed of each row", TREE_FUNCTIONS)


@command
@record
class Core(Elementwise):
    """A routine of the scalar cores, element by element."""

    mnemonic: ClassVar[str] = "CORE"
    unit: ClassVar[str] = "pnm"


@command
@record
class CoreReduce(Reduce):
    """A reduction of each row by the scalar cores."""

    mnemonic: ClassVar[str] = "CORERED"
    unit: ClassVar[str] = "pnm"
    function: str = choice("what is computed of each row", tuple(REDUCTIONS))


@command
@record
class CoreScan(Scan):
    """Running sums of each row by the scalar cores."""

    mnemonic: ClassVar[str] = "CORESCAN"
    unit: ClassVar[str] = "pnm"
