"""Ops between devices. `group` is the number of devices that take part; each holds one tensor of the operand's type.

They have no meaning for a single device: who evaluates a partitioned graph does so for all ranks in step.
"""

from __future__ import annotations

from pimc.ir.op import OpClass, op, require
from pimc.ir.ops.rules import axis_of, divide
from pimc.ir.types import TensorType


def _group(group: int) -> None:
    require(group >= 1, f"group must be 1 or more, not {group}")


@op("all_reduce", cls=OpClass.COLLECTIVE)
def all_reduce(x: TensorType, *, group: int) -> TensorType:
    """The sum of the operands of all devices of the group, on each of them."""
    _group(group)
    return TensorType(x.dtype, x.shape)


@op("all_gather", cls=OpClass.COLLECTIVE)
def all_gather(x: TensorType, *, axis: int, group: int) -> TensorType:
    """The operands of all devices joined along an axis in order of rank, on each of them."""
    _group(group)
    at = axis_of(axis, x.rank)
    return TensorType(x.dtype, (*x.shape[:at], x.shape[at] * group, *x.shape[at + 1 :]))


@op("reduce_scatter", cls=OpClass.COLLECTIVE)
def reduce_scatter(x: TensorType, *, axis: int, group: int) -> TensorType:
    """The sum of the operands of all devices, each keeping its own part along an axis."""
    _group(group)
    at = axis_of(axis, x.rank)
    part = divide(x.shape[at], group, "the scattered dimension")
    return TensorType(x.dtype, (*x.shape[:at], part, *x.shape[at + 1 :]))


@op("send", cls=OpClass.COLLECTIVE)
def send(x: TensorType, *, to: int) -> TensorType:
    """Hands the operand to the devices of pipeline stage `to`; the result stands for it on its way."""
    return TensorType(x.dtype, x.shape)


@op("receive", cls=OpClass.COLLECTIVE)
def receive(x: TensorType, *, from_: int) -> TensorType:
    """What the devices of stage `from_` have sent; the operand is the result of their `send`."""
    return TensorType(x.dtype, x.shape)


all_reduce.flops(lambda x, *, results, group: x.elements * (group - 1))
reduce_scatter.flops(lambda x, *, results, group, axis: x.elements * (group - 1) // group)
all_gather.flops(lambda x, *, results, group, axis: 0)
send.flops(lambda x, *, results, to: 0)
receive.flops(lambda x, *, results, from_: 0)
