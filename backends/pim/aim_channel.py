"""The AiM controller of one channel: what must be issued before a command, mode switches, refresh, latencies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pimc.backends.pim.controller import CLOSED, Channel, Run

REGISTER_COMMANDS = frozenset({"WRGB", "WRMAC16", "RDMAC16", "RDAF16"})

ALL_BANKS = frozenset({"ACT16", "PREA"})


@dataclass(slots=True)
class Request:
    """What a stream's command asks of a channel: a final DRAM command, how often, and what must be open for it.

    bank: one bank, or None for all. row: None where none must be open.
    """

    final: str
    count: int
    bank: int | None = None
    row: int | None = None

    @property
    def needs_registers(self) -> bool:
        """Whether the channel must be in register mode."""
        return self.final in REGISTER_COMMANDS


class AimChannel:
    """Issues requests to one channel, in order."""

    def __init__(self, channel: Channel, latency: Mapping[str, int]) -> None:
        self.channel = channel
        self.latency = latency

    def copy(self) -> AimChannel:
        return AimChannel(self.channel.copy(), self.latency)

    def run(self, request: Request, at: int) -> Run:
        """Issue a request that is offered at clock `at`, with everything that it needs before."""
        state, numbers = self.channel, self.channel.table.numbers
        final, registers = request.final, request.needs_registers
        number = numbers[final]
        period = state.table.periods[number]
        refreshes = state.refresh.interval > 0
        first, left, cause = -1, request.count, ""
        while True:
            name = self._next(request)
            bank = None if name in ALL_BANKS else request.bank
            t = state.ready(numbers[name], bank, at)
            if refreshes and t >= state.due:
                self._refresh(t)
                cause = cause or "refresh"
            elif state.register_mode != registers:
                state.issue(numbers["TMOD"], None, t, 1)
                state.register_mode = registers
                cause = "mode"
            elif name != final:
                state.issue(numbers[name], bank, t, 1)
                opens = name.startswith("ACT")
                state.set_row(bank, request.row if opens and request.row is not None else CLOSED)
                cause = cause or "row"
            else:
                count = min(left, -(-(state.due - t) // period)) if refreshes else left
                last = t + (count - 1) * period
                state.issue(number, bank, last, count)
                first = t if first < 0 else first
                left -= count
                if not left:
                    break
        if final == "WRA16":
            state.set_row(None, CLOSED)
        return Run(first, last, period, cause)

    def _next(self, request: Request) -> str:
        """The command that comes next for a request: itself, or what must come before it."""
        if request.row is None:
            return request.final
        state = self.channel
        if request.bank is not None:
            row = state.open_rows()[request.bank]
            return request.final if row == request.row else "ACT" if row == CLOSED else "PRE"
        if state.opened is not None:
            return request.final if state.opened == request.row else "ACT16" if state.opened == CLOSED else "PREA"
        return "PREA" if any(row not in (CLOSED, request.row) for row in state.rows) else "ACT16"

    # -- refresh ----------------------------------------------------------------------------------------------------

    def _refresh(self, t: int) -> None:
        """Refresh at the moment that was due; of several that were due while nothing happened, the last one counts."""
        state = self.channel
        interval = state.refresh.interval
        if state.opened != CLOSED:
            precharge = state.table.numbers["PREA"]
            issued = state.ready(precharge, None, state.due)
            state.issue(precharge, None, issued, 1)
            state.set_row(None, CLOSED)
        missed = max(0, (t - state.due) // interval)
        refresh = state.table.numbers["REFab"]
        issued = state.ready(refresh, None, state.due + missed * interval)
        state.issue(refresh, None, issued, 1 + missed)
        state.due += (1 + missed) * interval


def latencies(cycles: Mapping[str, int]) -> dict[str, int]:
    """Clocks from the issue of a final command to its completion."""
    data = cycles["nBL"]
    known = {
        "WR": cycles["nCWL"] + data,
        "RD": cycles["nCL"] + data,
        "WRGB": cycles["nCWLGB"] + data,
        "WRMAC16": cycles["nCWLREG"] + data,
        "RDMAC16": cycles["nCLREG"] + data,
        "RDAF16": cycles["nCLREG"] + data,
        "WRA16": cycles["nCWL"] + cycles["nWR"] + cycles["nWPRE"],
    }
    return known | dict.fromkeys(("RDCP", "WRCP", "MAC", "MAC16", "AF16", "EWMUL16"), 1)
