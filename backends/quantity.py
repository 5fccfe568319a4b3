"""Quantities of target files: text with a unit in, exact integers out (ps, bytes, Hz, bytes/s), and text again."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from pimc.record import record

PS_PER_S = 10**12

_TIME: Mapping[str, int] = {"ps": 1, "ns": 10**3, "us": 10**6, "ms": 10**9, "s": PS_PER_S}
_SIZE: Mapping[str, int] = {
    "B": 1,
    **{f"{p}iB": 1024**e for e, p in enumerate("KMGT", 1)},
    **{f"{p}B": 1000**e for e, p in enumerate("kMGT", 1)},
}
_RATE: Mapping[str, int] = {f"{unit}/s": factor for unit, factor in _SIZE.items()}
_FREQUENCY: Mapping[str, int] = {"Hz": 1, "kHz": 10**3, "MHz": 10**6, "GHz": 10**9}
_ENERGY: Mapping[str, int] = {f"{p}J": 1000**e for e, p in enumerate(("a", "f", "p", "n", "u", "m", ""))}
_POWER: Mapping[str, int] = {"nW": 1, "uW": 10**3, "mW": 10**6, "W": 10**9}
_CLOCKS = "clk"

LARGEST: Mapping[str, int] = {
    "ps": PS_PER_S,
    "clocks": 2**40,
    "bytes": 2**60,
    "bytes a second": 2**60,
    "Hz": 10**15,
    "aJ": 2**60,
    "nW": 2**60,
}
"""Amounts beyond which sums of many would not fit 64 bits; no machine comes near."""
_DIGITS = 24
"""Places before and behind the point that are read."""

_PATTERN = re.compile(r"([+-]?[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?)\s*(\S*)")


def _number(text: object, what: str, units: Mapping[str, int], example: str) -> tuple[Decimal, str]:
    """Split '14ns' into number and unit; ValueError says what was expected."""
    known = ", ".join(units)
    if not isinstance(text, str):
        raise ValueError(f'a {what} needs its unit, as in "{example}" (units: {known})')
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"'{text}' is not a {what}; write it like \"{example}\"")
    try:
        number = Decimal(match[1])
    except InvalidOperation:
        raise ValueError(f"'{match[1]}' is not a number") from None
    if number and abs(number.adjusted()) > _DIGITS:
        raise ValueError(f"'{match[1]}' is out of range")
    if match[2] not in units:
        unit = f"'{match[2]}' is not a unit of {what}" if match[2] else f"'{text}' lacks its unit"
        raise ValueError(f"{unit} (units: {known})")
    if number < 0:
        raise ValueError(f"a {what} cannot be negative, but this is {text.strip()}")
    return number, match[2]


def _whole(number: Decimal, factor: int, text: object, smallest: str) -> int:
    exact = Fraction(number) * factor
    if exact.denominator != 1:
        raise ValueError(f"'{text}' is not a whole number of {smallest}")
    if exact > LARGEST[smallest]:
        raise ValueError(f"'{text}' is too much; the most is {LARGEST[smallest]} {smallest}")
    return int(exact)


def _parser(what: str, units: Mapping[str, int], example: str, smallest: str) -> Callable[[object], int]:
    def parse(text: object) -> int:
        number, unit = _number(text, what, units, example)
        return _whole(number, units[unit], text, smallest)

    return parse


parse_time = _parser("time", _TIME, "14ns", "ps")
parse_size = _parser("size", _SIZE, "64KiB", "bytes")
parse_rate = _parser("bandwidth", _RATE, "614.4GB/s", "bytes a second")
parse_energy = _parser("energy", _ENERGY, "4.4pJ", "aJ")
parse_power = _parser("power", _POWER, "20mW", "nW")
parse_frequency = _parser("frequency", _FREQUENCY, "1GHz", "Hz")


def _text(amount: int, units: Mapping[str, int]) -> str:
    """The amount in the largest unit that needs at most three decimals; exact."""
    best = next(iter(units))
    for unit, factor in sorted(units.items(), key=lambda item: item[1]):
        if amount >= factor and amount * 1000 % factor == 0:
            best = unit
    return f"{Decimal(amount) / Decimal(units[best]):f}{best}"


def time_text(ps: int) -> str:
    return _text(ps, _TIME)


def size_text(size: int) -> str:
    binary = {unit: factor for unit, factor in _SIZE.items() if unit == "B" or "i" in unit}
    return _text(size, binary)


def rate_text(rate: int) -> str:
    decimal = {unit: factor for unit, factor in _RATE.items() if "i" not in unit}
    binary = {unit: factor for unit, factor in _RATE.items() if unit == "B/s" or "i" in unit}
    return min(_text(rate, decimal), _text(rate, binary), key=len)


def frequency_text(hertz: int) -> str:
    return _text(hertz, _FREQUENCY)


def energy_text(attojoules: int) -> str:
    return _text(attojoules, _ENERGY)


def power_text(nanowatts: int) -> str:
    return _text(nanowatts, _POWER)


@record
class ClockTime:
    """A DRAM timing value as its source gives it: a time (`"14ns"`) or a count of clocks (`"14clk"`)."""

    amount: int
    in_clocks: bool

    def clocks(self, hertz: int) -> int:
        """Clocks of a given frequency, rounded up as the standards do."""
        if self.in_clocks:
            return self.amount
        return -(-self.amount * hertz // PS_PER_S)

    def ps(self, hertz: int) -> int:
        return self.clocks(hertz) * period_ps(hertz)

    def __str__(self) -> str:
        return f"{self.amount}{_CLOCKS}" if self.in_clocks else time_text(self.amount)


def parse_clock_time(text: object) -> ClockTime:
    if isinstance(text, ClockTime):
        return text
    number, unit = _number(text, "timing value", {**_TIME, _CLOCKS: 1}, '14ns" or "14clk')
    if unit == _CLOCKS:
        return ClockTime(_whole(number, 1, text, "clocks"), True)
    return ClockTime(_whole(number, _TIME[unit], text, "ps"), False)


def period_ps(hertz: int) -> int:
    """One clock, to the nearest picosecond."""
    return (PS_PER_S + hertz // 2) // hertz


def _schema(what: str, units: Mapping[str, int]) -> WithJsonSchema:
    names = "|".join(re.escape(u) for u in units)
    return WithJsonSchema({"type": "string", "description": what, "pattern": rf"^\s*[0-9][0-9.eE+-]*\s*({names})\s*$"})


def _json(text: Callable[[Any], str]) -> PlainSerializer:
    return PlainSerializer(text, return_type=str, when_used="json")


Time = Annotated[int, BeforeValidator(parse_time), _json(time_text), _schema("a time", _TIME)]
"""Picoseconds; written "14ns"."""
Size = Annotated[int, BeforeValidator(parse_size), _json(size_text), _schema("a size", _SIZE)]
"""Bytes; written "64KiB"."""
Bandwidth = Annotated[int, BeforeValidator(parse_rate), _json(rate_text), _schema("a bandwidth", _RATE)]
"""Bytes a second; written "614.4GB/s"."""
Frequency = Annotated[
    int, BeforeValidator(parse_frequency), _json(frequency_text), _schema("a frequency", _FREQUENCY)
]
"""Hertz; written "1GHz"."""
Energy = Annotated[int, BeforeValidator(parse_energy), _json(energy_text), _schema("an energy", _ENERGY)]
"""Attojoules; written "4.4pJ"."""
Power = Annotated[int, BeforeValidator(parse_power), _json(power_text), _schema("a power", _POWER)]
"""Nanowatts; written "20mW"."""
Timing = Annotated[
    ClockTime,
    BeforeValidator(parse_clock_time),
    _json(str),
    _schema("a time or a count of clocks", {**_TIME, _CLOCKS: 1}),
]
"""A `ClockTime`; written "14ns" or "14clk"."""
