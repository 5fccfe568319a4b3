"""What the time of a program depends on: programs with the same key take the same time.

Commands count by what their timer makes of them, semaphores and exchanges as they are, and addresses not at all.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterator

from pimc.backends.engines import Platform
from pimc.backends.isa import Command, Signal, Wait, operands_of
from pimc.backends.link.isa import Exchange
from pimc.backends.program import Item, Loop, Program
from pimc.backends.timing import Costing, Identifying, Resource, Resources, Timer
from pimc.sim.code import moved_by

Key = bytes


class KeyMaker:
    """Makes keys of programs for one machine."""

    def __init__(self, platform: Platform) -> None:
        resources: Resources = _Anything()
        self._timers = {name: platform.timer(engine, resources) for name, engine in platform.engines.items()}
        self._known: dict[tuple[str, Command], Hashable] = {}

    def key(self, program: Program) -> Key:
        digest = hashlib.sha256()
        for stream in program.streams:
            digest.update(repr((stream.engine, stream.devices, stream.instances)).encode())
            for part in self._parts(stream.items, stream.engine):
                digest.update(part)
        return digest.digest()

    def _parts(self, items: tuple[Item, ...], engine: str) -> Iterator[bytes]:
        for item in items:
            if isinstance(item, Loop):
                yield f"({item.variable}*{item.count}".encode()
                yield from self._parts(item.body, engine)
                yield b")"
            else:
                yield repr((item.instances, self._cost(item.command, engine))).encode()

    def _cost(self, command: Command, engine: str) -> Hashable:
        known = engine, command
        if known not in self._known:
            self._known[known] = _cost(command, self._timers[engine])
        return self._known[known]


class _Anything(dict[str, Resource]):
    def __missing__(self, name: str) -> Resource:
        return self.setdefault(name, Resource(name))


def _cost(command: Command, timer: Timer) -> Hashable:
    """All that a timer makes of a command."""
    operands = {name: getattr(command, name) for name in operands_of(type(command))}
    if isinstance(command, Signal | Wait | Exchange) or moved_by(timer, command):
        return command.mnemonic, tuple(operands.values())
    if isinstance(timer, Costing):
        cost = timer.cost(command)
    elif (signature := getattr(timer, "signature", None)) is not None:
        cost = signature(command)
    else:
        declared = operands_of(type(command))
        cost = tuple(value for name, value in operands.items() if not declared[name].address)
    identity = timer.identity(command) if isinstance(timer, Identifying) else None
    return command.mnemonic, cost, identity
