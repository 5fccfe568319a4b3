"""How names, attributes, arrays and facts are spelled, and how they are read back."""

from __future__ import annotations

import base64
import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np

from pimc.ir.diagnostics import did_you_mean
from pimc.ir.facts import (
    Beat,
    Epilogue,
    Fact,
    Layer,
    Phase,
    Placement,
    Position,
    Prologue,
    Queue,
    Ragged,
    ReadAs,
    Stage,
    SubBatch,
    Tile,
    Work,
)
from pimc.ir.op import Array
from pimc.ir.types import TensorType
from pimc.record import record

FACTS: dict[str, type] = {
    "phase": Phase,
    "work": Work,
    "place": Placement,
    "layer": Layer,
    "stage": Stage,
    "tile": Tile,
    "position": Position,
    "epilogue": Epilogue,
    "prologue": Prologue,
    "half": SubBatch,
    "queue": Queue,
    "read_as": ReadAs,
    "beat": Beat,
    "ragged": Ragged,
}
"""The names of facts in text, in the order in which they are printed."""

INLINE_ELEMENTS = 64
"""Larger constants are printed as base64, larger weights not at all."""

_PLAIN = re.compile(r"[A-Za-z0-9_.\/$\-]+")
_WORD = re.compile(r"(?!(true|false|none|inf|nan)\b)[A-Za-z_][\w.\-]*")


def spell_value(name: str) -> str:
    return f"%{name}" if _PLAIN.fullmatch(name) else "%" + json.dumps(name)


def read_value(token: str) -> str:
    return read_string(token[1:]) if token.startswith('%"') else token[1:]


def read_string(token: str) -> str:
    text: str = json.loads(token)
    return text


def spell_word(text: str) -> str:
    return text if _WORD.fullmatch(text) else json.dumps(text)


def spell_number(value: int | float) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    return str(value).lower()


def spell_attribute(value: object) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value)
        case int() | float():
            return spell_number(value)
        case tuple() | list():
            return f"[{', '.join(spell_attribute(v) for v in value)}]"
        case Enum():
            return json.dumps(value.value)
    raise TypeError(f"no text for an attribute of type {type(value).__name__}")


# -- arrays -------------------------------------------------------------------------------------------------------


def spell_array(array: Array) -> str:
    """A flat list (a scalar: a number), or base64 of the little-endian bytes for more than INLINE_ELEMENTS elements."""
    if array.size > INLINE_ELEMENTS:
        raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        return f'base64 "{base64.b64encode(raw).decode()}"'
    texts = [_spell_element(v) for v in array.reshape(-1)]
    return texts[0] if array.ndim == 0 else f"[{', '.join(texts)}]"


def _spell_element(element: Any) -> str:
    """The shortest number that reads back as the same element."""
    if isinstance(element, np.bool_):
        return "true" if element else "false"
    if isinstance(element, np.integer):
        return str(int(element))
    if np.dtype(type(element)).kind == "V" or isinstance(element, np.floating):
        short = str(element)
        exact = float(element)
        if not math.isfinite(exact) or type(element)(float(short)) != element:
            return spell_number(exact)
        return short if re.search(r"[.e]", short) else short + ".0"
    return str(int(element))


def read_array(elements: object, type: TensorType) -> Array:
    """Raises ValueError where the elements do not fit the type."""
    flat = elements if isinstance(elements, list) else [elements]
    if any(isinstance(v, (str, list, Record)) or v is None for v in flat):
        raise ValueError("elements must be numbers")
    if type.rank == 0 and isinstance(elements, list):
        raise ValueError(f"{type} is a single number, not a list")
    if len(flat) != type.elements:
        raise ValueError(f"{type} has {type.elements} elements, not {len(flat)}")
    if not type.dtype.is_float and any(isinstance(v, float) for v in flat):
        raise ValueError(f"{type} has no fractions")
    try:
        return np.array(flat, type.dtype.numpy).reshape(type.static_shape)
    except OverflowError as error:
        raise ValueError(str(error)) from None


def read_base64(text: str, type: TensorType) -> Array:
    raw = base64.b64decode(text, validate=True)
    array = np.frombuffer(raw, type.dtype.numpy.newbyteorder("<"))
    return array.astype(type.dtype.numpy).reshape(type.static_shape)


# -- facts --------------------------------------------------------------------------------------------------------


@record
class Record:
    """What a fact looks like before its class is known: its first field, and the others by name."""

    first: object
    rest: Mapping[str, object]


def spell_facts(facts: Mapping[type, Fact]) -> list[str]:
    return [f"#{name}={spell_record(facts[kind])}" for name, kind in FACTS.items() if kind in facts]


def spell_record(value: object) -> str:
    """Enums by their value, dataclasses as `first{field=value}` without fields at their default."""
    if isinstance(value, Enum):
        return spell_word(str(value.value))
    if isinstance(value, str):
        return spell_word(value)
    if isinstance(value, tuple):
        return f"[{', '.join(spell_record(v) for v in value)}]"
    if not is_dataclass(value):
        return spell_attribute(value)
    first, *others = fields(value)
    given = [(f.name, getattr(value, f.name)) for f in others if getattr(value, f.name) != f.default]
    rest = ", ".join(f"{name}={_spell_field(v)}" for name, v in given)
    return spell_record(getattr(value, first.name)) + (f"{{{rest}}}" if rest else "")


def _spell_field(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else spell_record(value)


def read_fact(name: str, datum: object) -> Fact:
    """Raises ValueError where there is no such fact or a field does not fit."""
    if name not in FACTS:
        raise ValueError(f"unknown fact '{name}'; {did_you_mean(name, FACTS)}")
    fact: Fact = _read(datum, FACTS[name], name)
    return fact


def _read(datum: object, wanted: Any, what: str) -> Any:
    if typing.get_origin(wanted) is tuple:
        if not isinstance(datum, list):
            raise ValueError(f"{what} must be a list")
        return tuple(_read(d, typing.get_args(wanted)[0], what) for d in datum)
    if typing.get_origin(wanted) is types.UnionType:
        return None if datum is None else _read(datum, typing.get_args(wanted)[0], what)
    if issubclass(wanted, Enum):
        choices = {e.value: e for e in wanted}
        if datum not in choices:
            raise ValueError(f"{what} must be one of {', '.join(map(str, choices))}, not {datum}")
        return choices[datum]
    if is_dataclass(wanted):
        return _read_record(datum if isinstance(datum, Record) else Record(datum, {}), wanted, what)
    if wanted is float and type(datum) is int:
        return float(datum)
    if type(datum) is not wanted:
        raise ValueError(f"{what} must be {wanted.__name__}, not {datum!r}")
    return datum


def _read_record(record: Record, wanted: Any, what: str) -> Any:
    hints = typing.get_type_hints(wanted)
    first, *others = fields(wanted)
    given = {first.name: record.first, **record.rest}
    unknown = sorted(set(given) - set(hints))
    if unknown:
        raise ValueError(f"{what} has no field '{unknown[0]}'")
    lacking = [f.name for f in others if f.name not in given and f.default is MISSING]
    if lacking:
        raise ValueError(f"{what} lacks {', '.join(lacking)}")
    return wanted(**{name: _read(datum, hints[name], f"{what}.{name}") for name, datum in given.items()})
