"""What a GDDR6-AiM channel obeys: pair constraints, latencies, geometry, and the switches of its controller."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pimc.backends.target import AimPim, AimSwitches, TargetSpec
from pimc.ir.diagnostics import Kind, fail
from pimc.record import record

LATENCIES = {
    "WR": ("nCWL", "nBL"),
    "RD": ("nCL", "nBL"),
    "WRGB": ("nCWLGB", "nBL"),
    "WRMAC16": ("nCWLREG", "nBL"),
    "RDMAC16": ("nCLREG", "nBL"),
    "RDAF16": ("nCLREG", "nBL"),
    "WRA16": ("nCWL", "nWR", "nWPRE"),
}
"""Clocks from the issue of a final command to its completion, as sums of timing parameters; 1 for the others."""

FINAL = (
    "RD", "WR", "MAC", "RDCP", "WRCP", "MAC16", "AF16", "EWMUL16", "WRA16", "WRGB", "WRMAC16", "RDMAC16", "RDAF16",
)  # fmt: skip
PREPARING = ("ACT", "PRE", "ACT16", "PREA", "TMOD", "REFab")
COMMANDS = (*FINAL, *PREPARING)
"""The DRAM commands that can occur; a command's number is its place here."""
NUMBER = {name: number for number, name in enumerate(COMMANDS)}

RD, WR = NUMBER["RD"], NUMBER["WR"]
ACT, PRE, ACT16, PREA, TMOD, REFAB = (NUMBER[name] for name in PREPARING)
WRA16 = NUMBER["WRA16"]
CAUSES = {ACT: "row", ACT16: "row", PRE: "row", PREA: "row", TMOD: "mode", REFAB: "refresh"}
"""What a request is held up by when such a command comes before its own."""
ONE_BANK = frozenset(NUMBER[name] for name in ("RD", "WR", "MAC", "RDCP", "WRCP", "ACT", "PRE"))
"""Commands that name a bank; the others are for the whole channel."""
REGISTER = frozenset(NUMBER[name] for name in ("WRGB", "WRMAC16", "RDMAC16", "RDAF16"))
"""Final commands that a channel takes in register mode only."""
BLOCKING = frozenset(NUMBER[name] for name in ("RDMAC16", "RDAF16"))
"""Reads that hold the front end until they are answered."""
READING = BLOCKING | {RD}
"""Commands whose answers return in order."""

Followers = tuple[tuple[tuple[int, int], ...], ...]
"""For each command: (number of a later command, least clocks to it)."""


@record
class AimRules:
    """The rules of all channels of one device."""

    channels: int
    banks: int
    group_size: int
    queue: int
    switches: AimSwitches
    refresh: int
    """clocks between refreshes; 0: never"""
    constraints: Mapping[tuple[str, str, str], int]
    """clocks by (level, previous, next); levels are channel, bankgroup and bank"""
    latency: tuple[int, ...]

    @staticmethod
    def of(spec: TargetSpec) -> AimRules:
        """From a target whose PIM is GDDR6-AiM. Raises CompileError: TARGET_BAD."""
        assert isinstance(spec.pim, AimPim)
        cycles = spec.cycles
        latency = tuple(sum(cycles[name] for name in LATENCIES.get(command, ())) or 1 for command in COMMANDS)
        rules = AimRules(
            channels=spec.dram.channels,
            banks=spec.dram.banks,
            group_size=spec.dram.banks_per_group,
            queue=spec.pim.queue,
            switches=spec.pim.switches,
            refresh=cycles["nREFI"] if spec.dram.refresh else 0,
            constraints=spec.pair_constraints(),
            latency=latency,
        )
        least = rules.least_interval()
        if 0 < rules.refresh < least:
            message = (
                f"a refresh every {rules.refresh} clocks leaves no time for work: tREFI is at least {least} clocks"
            )
            raise fail(Kind.TARGET_BAD, f"target '{spec.name}': {message}")
        rules._fill_tables()
        return rules

    def _fill_tables(self) -> None:
        """Now, as all of them are wanted sooner or later."""
        for name, member in vars(AimRules).items():
            if isinstance(member, cached_property):
                getattr(self, name)

    def least_interval(self) -> int:
        """Clocks between refreshes within which every command can be issued: closing, refreshing, opening again."""
        channel = [
            (previous, next_, clocks) for (at, previous, next_), clocks in self.constraints.items() if at == "channel"
        ]
        closing = max((clocks for _, next_, clocks in channel if next_ == "REFab"), default=0)
        refreshing = max((clocks for previous, _, clocks in channel if previous == "REFab"), default=0)
        opening = max((clocks for previous, _, clocks in channel if previous == "ACT16"), default=0)
        return closing + refreshing + opening + 1

    def _followers(self, level: str) -> Followers:
        found: list[list[tuple[int, int]]] = [[] for _ in COMMANDS]
        for (at, previous, next_), clocks in sorted(self.constraints.items()):
            if at == level and previous in NUMBER and next_ in NUMBER and clocks > 1:
                found[NUMBER[previous]].append((NUMBER[next_], clocks))
        return tuple(tuple(pairs) for pairs in found)

    @cached_property
    def after_channel(self) -> Followers:
        return self._followers("channel")

    @cached_property
    def before_channel(self) -> tuple[tuple[int, ...], ...]:
        """By later command: the least clocks since each earlier one in the channel; 0: it does not matter."""
        before = [[0] * len(COMMANDS) for _ in COMMANDS]
        for previous, pairs in enumerate(self.after_channel):
            for later, clocks in pairs:
                before[later][previous] = clocks
        return tuple(tuple(clocks) for clocks in before)

    @cached_property
    def longest(self) -> tuple[int, ...]:
        """For how many clocks a command keeps some others of its channel."""
        return tuple(max([0, *(clocks for _, clocks in pairs)]) for pairs in self.after_channel)

    @cached_property
    def array(self) -> frozenset[int]:
        """The final commands that a refresh may hold back, if not by itself then by the row that they need."""
        before = self.before_channel
        return frozenset(
            command for command in range(len(FINAL)) if command not in REGISTER or before[command][REFAB]
        )

    @cached_property
    def nodes(self) -> tuple[tuple[int, int], ...]:
        """By bank: where the commands of its group and its own are counted from."""
        width, groups = len(COMMANDS), self.banks // self.group_size
        return tuple((width * (1 + bank // self.group_size), width * (1 + groups + bank)) for bank in range(self.banks))

    @cached_property
    def after_group(self) -> Followers:
        return self._followers("bankgroup")

    @cached_property
    def after_bank(self) -> Followers:
        return self._followers("bank")

    @cached_property
    def period(self) -> tuple[int, ...]:
        """Clocks between equal final commands in a row."""
        levels = (self.after_channel, self.after_group, self.after_bank)
        return tuple(
            max([1, *(clocks for level in levels for later, clocks in level[command] if later == command)])
            for command in range(len(COMMANDS))
        )
