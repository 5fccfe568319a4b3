"""The DRAM commands that a PIM timer issues, told one by one to whoever listens (`--issue-trace`, `pimc check`).

A timer that can tell has an attribute `issues`, None until somebody sets it. While it is set, every command is issued
and told for real: nothing is skipped, extrapolated or shared between channels. Commands may be told out of order; those
of one channel in one cycle are told in the order in which they take effect.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

TRAFFIC = "TRAFFIC"
"""No command: normal transfers, which are not simulated command by command, have used the row buffers of the channel
and left them closed. It is told in its place among the commands of the channel."""


class IssueSink(Protocol):
    """Takes the commands that are issued."""

    def __call__(
        self,
        cycle: int,
        channel: int,
        command: str,
        bank: int | None = None,
        row: int | None = None,
        count: int = 1,
        period: int = 1,
        /,
    ) -> None:
        """Equal commands at `cycle`, `cycle + period`, ..., `count` of them.

        cycle: in clocks of the DRAM, from the start of the program. channel: those of the timer count from 0. bank:
        over all ranks and bank groups; the first one for a bank group or a rank; None where all banks are meant. row:
        the row that is opened or must be open, None where there is none.
        """
        ...


@runtime_checkable
class TellsIssues(Protocol):
    """A timer that can tell what it issues."""

    issues: IssueSink | None
