"""The commands of both styles; importing this declares them."""

from __future__ import annotations

from pimc.backends.isa import Command
from pimc.backends.pim import aim_isa, newton_isa

COMMANDS_BY_STYLE: dict[str, tuple[type[Command], ...]] = {"aim": aim_isa.COMMANDS, "newton": newton_isa.COMMANDS}
"""What the PIM engine of a target of each style takes."""
