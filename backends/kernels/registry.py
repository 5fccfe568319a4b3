"""Kernels by op, which each machine with vector commands registers as its lowering rules."""

from __future__ import annotations

from collections.abc import Callable

from pimc.backends.kernels.lanes import VectorMachine
from pimc.backends.lowering import RULES, Lowering, lowers
from pimc.ir.graph import Node

Kernel = Callable[[Node, Lowering, VectorMachine], None]

KERNELS: dict[str, Kernel] = {}


def kernel(*ops: str) -> Callable[[Kernel], Kernel]:
    """Declare the kernel of some ops."""

    def register(function: Kernel) -> Kernel:
        for name in ops:
            if name in KERNELS:
                raise ValueError(f"{name} has two kernels")
            KERNELS[name] = function
        return function

    return register


def register_kernels(machine: VectorMachine) -> None:
    """Make every kernel a rule of the machine's engine, but for ops that it lowers itself."""

    def bound(function: Kernel) -> Callable[[Node, Lowering], None]:
        return lambda node, at: function(node, at, machine)

    for name, function in KERNELS.items():
        if (machine.kind, name) not in RULES:
            lowers(machine.kind, name)(bound(function))
