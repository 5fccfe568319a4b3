"""How two machines for one run are written: `-t PREFILL:DECODE`, and settings that are for one of them alone."""

from __future__ import annotations

from pathlib import Path

PHASES = ("prefill", "decode")
SEPARATOR = ":"
_PREFIXES = tuple(f"{phase}{SEPARATOR}" for phase in PHASES)


def pair_of(target: str) -> tuple[str, str] | None:
    """The targets for prefill and decode; None for one target (or a file that has a colon in its name)."""
    first, sign, second = target.partition(SEPARATOR)
    return (first, second) if sign and not Path(target).exists() else None


def names_phase(setting: str) -> bool:
    """Whether a setting (`decode:timing.tRP=12ns`, `prefill:tp`) is for one of the machines alone."""
    return setting.startswith(_PREFIXES)


def is_for(setting: str, phase: str) -> bool:
    """Whether a setting concerns the machine of a phase; without a phase it concerns both."""
    return not names_phase(setting) or setting.startswith(f"{phase}{SEPARATOR}")


def own_setting(setting: str, phase: str) -> str:
    """The setting as the machine of the phase takes it."""
    return setting.removeprefix(f"{phase}{SEPARATOR}")
