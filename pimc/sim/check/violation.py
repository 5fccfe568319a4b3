"""What the checker finds: rules that were broken, where, how often."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pimc.record import record
from pimc.sim.check.issued import NONE, Column, Issued, Lane

KINDS = {
    "timing": "two commands come too soon after each other",
    "bus": "two commands of a channel in one cycle",
    "row": "a row is not open, or open where none may be",
    "mode": "a command in the wrong mode of the channel",
    "contents": "a buffer or a register is used before something is in it",
    "refresh": "a refresh is not issued before the next is due",
}
"""Every kind of violation."""


@dataclass(frozen=True, order=True)
class Rule:
    """What was not kept. `level`, `previous` and `required` (clocks) are those of rules about distances."""

    kind: str
    text: str
    command: str
    level: str = ""
    previous: str = ""
    required: int = 0

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"kind": self.kind, "rule": self.text, "command": self.command}
        if self.required:
            plain |= {"level": self.level, "previous": self.previous, "required": self.required}
        return plain


@record
class IssuedCommand:
    """One command of a trace."""

    cycle: int
    command: str
    bank: int | None = None
    row: int | None = None

    @staticmethod
    def at(issued: Issued, lane: Lane, place: int) -> IssuedCommand:
        bank, row = int(lane.bank[place]), int(lane.row[place])
        return IssuedCommand(
            cycle=int(lane.cycle[place]),
            command=issued.names[lane.command[place]],
            bank=None if bank == NONE else bank,
            row=None if row == NONE else row,
        )

    def __str__(self) -> str:
        bank = "" if self.bank is None else f" bank {self.bank}"
        row = "" if self.row is None else f" row {self.row}"
        return f"{self.command}{bank}{row}"

    def to_json(self) -> dict[str, Any]:
        return {"cycle": self.cycle, "command": self.command, "bank": self.bank, "row": self.row}


@record
class Violation:
    """A rule that was broken by a command, in all of `channels` alike."""

    rule: Rule
    channels: tuple[int, ...]
    command: IssuedCommand
    earlier: IssuedCommand | None = None
    """the other command of a pair"""
    found: int | None = None
    """timing: the distance in clocks; row: the row that is open; refresh: the cycle at which it was due"""

    @property
    def reason(self) -> str:
        """What is wrong, in words."""
        rule, found = self.rule, self.found
        if rule.kind == "timing":
            least = f"at least {rule.required} ({rule.level})" if rule.previous else rule.text
            assert self.earlier is not None
            return f"{found} after {self.earlier} at {self.earlier.cycle}, {least}"
        if rule.kind == "bus":
            return f"in the same cycle as {self.earlier}"
        if rule.kind == "refresh":
            return f"{rule.text}, {found}"
        held = f" (row {found})" if found is not None and found >= 0 else ""
        return rule.text.removeprefix(f"{rule.command} ") + held

    def to_json(self) -> dict[str, Any]:
        plain = {**self.rule.to_json(), "channels": list(self.channels), "at": self.command.to_json()}
        if self.earlier is not None:
            plain["earlier"] = self.earlier.to_json()
        if self.found is not None:
            plain[_FOUND[self.rule.kind]] = None if self.found == NONE else self.found
        return plain


_FOUND = {"timing": "distance", "row": "open_row", "refresh": "due"}
"""What `found` is, by kind."""


@dataclass(frozen=True, eq=False)
class Finding:
    """All places of a lane at which one rule was broken, in order."""

    rule: Rule
    places: Column
    earlier: Column | None = None
    """for each place, that of the other command"""
    found: Column | None = None


@dataclass
class Tally:
    """Counts of everything, and the first violations of each rule."""

    issued: Issued
    limit: int | None = None
    """how many violations of a rule are kept; None: all"""
    counts: dict[Rule, int] = field(default_factory=dict)
    first: list[Violation] = field(default_factory=list)

    def add(self, lane: Lane, finding: Finding) -> None:
        total = len(finding.places)
        if not total:
            return
        rule = finding.rule
        self.counts[rule] = self.counts.get(rule, 0) + total * len(lane.channels)
        for i in range(total if self.limit is None else min(total, self.limit)):
            self.first.append(self._violation(lane, finding, i))

    def _violation(self, lane: Lane, finding: Finding, i: int) -> Violation:
        earlier = None
        if finding.earlier is not None:
            earlier = IssuedCommand.at(self.issued, lane, int(finding.earlier[i]))
        return Violation(
            rule=finding.rule,
            channels=lane.channels,
            command=IssuedCommand.at(self.issued, lane, int(finding.places[i])),
            earlier=earlier,
            found=None if finding.found is None else int(finding.found[i]),
        )
