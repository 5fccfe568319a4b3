"""The independent checker: are issued DRAM and PIM commands allowed by the part, at their cycles?

It takes commands with their cycles (`issued.py`) and what the part is (`part.py`): the target's tables and geometry. It
shares those with the simulator's timers and nothing else.
"""

from pimc.sim.check.checker import Verdict, check
from pimc.sim.check.issued import Issued, Lane
from pimc.sim.check.parts import part_of
from pimc.sim.check.violation import IssuedCommand, Rule, Violation

__all__ = ["Issued", "IssuedCommand", "Lane", "Rule", "Verdict", "Violation", "check", "part_of"]
