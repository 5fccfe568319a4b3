"""Commands that stand for work which a published model times by a formula alone (CENT's PNM units, CXL link and host).

They take what their formula needs and no addresses: they have a time and an energy, and compute nothing.
"""

from __future__ import annotations

from typing import ClassVar

from pimc.backends.affine import Scalar
from pimc.backends.isa import Command, command, operand
from pimc.backends.state import DeviceState
from pimc.ir.diagnostics import Kind, fail
from pimc.record import record


@record
class AnalyticCommand(Command):
    """The base of all commands of this file."""

    unit: ClassVar[str] = "analytic"

    def execute(self, state: DeviceState) -> None:
        raise fail(Kind.UNAVAILABLE, f"{self.mnemonic} is a formula of a published model, and computes nothing")


@command
@record
class Norm(AnalyticCommand):
    """The PNM share of an RMSNorm: the sum of partial sums of squares, and its root."""

    mnemonic: ClassVar[str] = "PNM_NORM"
    elements: Scalar = operand("elements of the vector")
    turns: Scalar = operand("blocks of a device that take their turn", 1)


@command
@record
class Softmax(AnalyticCommand):
    """The PNM share of a softmax: exponentials, their sums, and reciprocals."""

    mnemonic: ClassVar[str] = "PNM_SOFTMAX"
    heads: Scalar = operand("rows of scores")
    keys: Scalar = operand("scores of a row")
    turns: Scalar = operand("blocks of a device that take their turn", 1)


@command
@record
class Rotate(AnalyticCommand):
    """The PNM share of a rotary embedding: its elements rearranged by the scalar cores."""

    mnemonic: ClassVar[str] = "PNM_ROTARY"
    elements: Scalar = operand("elements of all heads")
    turns: Scalar = operand("blocks of a device that take their turn", 1)


@command
@record
class SendVector(AnalyticCommand):
    """A vector to one other device."""

    mnemonic: ClassVar[str] = "CXL_SEND"
    elements: Scalar = operand("elements of the vector")


@command
@record
class BroadcastVector(AnalyticCommand):
    """A vector to all devices of a group at once."""

    mnemonic: ClassVar[str] = "CXL_BROADCAST"
    elements: Scalar = operand("elements of the vector")


@command
@record
class GatherVector(AnalyticCommand):
    """The parts of a vector from all other devices of a group, one after another."""

    mnemonic: ClassVar[str] = "CXL_GATHER"
    elements: Scalar = operand("elements of the whole vector")
    devices: Scalar = operand("devices of the group")


@command
@record
class HostToken(AnalyticCommand):
    """What the host does for a token: it is sampled there, and sent."""

    mnemonic: ClassVar[str] = "HOST_TOKEN"


COMMANDS: tuple[type[Command], ...] = (
    Norm, Softmax, Rotate, SendVector, BroadcastVector, GatherVector, HostToken,
)  # fmt: skip
