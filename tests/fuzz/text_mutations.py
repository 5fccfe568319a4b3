"""Damage to texts: tokens, numbers, lines and characters; and to stored programs behind a check sum that fits."""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from typing import Any

from numpy.random import Generator

from pimc.backends.storage import HEADER
from tests.fuzz.model_mutations import damaged_bytes, pick

TOKEN = re.compile(r"-?\d+(?:\.\d+)?|\w+|[^\w\s]")
NUMBERS = (
    "0",
    "1",
    "-1",
    "2",
    "3",
    "7",
    "0.5",
    "1e308",
    "2147483648",
    "1000000000000000",
    "99999999999999999999",
    "nan",
)
INSERTS = (
    "\x1b[31m",
    "\x00",
    "\u202e",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    '"',
    "'",
    ",",
    ":",
    "=",
    "#",
    "\n",
    "\t",
    "é",
    "-",
    "%",
)


def damaged_text(text: str, chance: Generator) -> str:
    """A text with one to three things changed."""
    for _ in range(1 + int(chance.integers(3)) // 2 + int(chance.integers(2))):
        text = pick(chance, (_number, _number, _token, _token, _swap, _drop, _line, _line, _insert, _cut))(text, chance)
    return text


def _replaced(text: str, match: re.Match[str], by: str) -> str:
    return text[: match.start()] + by + text[match.end() :]


def _tokens(text: str) -> list[re.Match[str]]:
    return list(TOKEN.finditer(text)) or list(re.finditer(r"(?s)^.*$", text))


def _number(text: str, chance: Generator) -> str:
    numbers = [t for t in _tokens(text) if t[0].lstrip("-")[:1].isdigit()] or _tokens(text)
    return _replaced(text, pick(chance, numbers), pick(chance, NUMBERS))


def _token(text: str, chance: Generator) -> str:
    tokens = _tokens(text)
    return _replaced(text, pick(chance, tokens), pick(chance, tokens)[0])


def _swap(text: str, chance: Generator) -> str:
    tokens = _tokens(text)
    at = int(chance.integers(max(1, len(tokens) - 1)))
    if at + 1 >= len(tokens):
        return text
    left, right = tokens[at], tokens[at + 1]
    between = text[left.end() : right.start()]
    return text[: left.start()] + right[0] + between + left[0] + text[right.end() :]


def _drop(text: str, chance: Generator) -> str:
    return _replaced(text, pick(chance, _tokens(text)), "")


def _line(text: str, chance: Generator) -> str:
    """A line deleted, doubled, or put elsewhere."""
    lines = text.split("\n")
    at, to = (int(chance.integers(len(lines))) for _ in range(2))
    what = chance.integers(3)
    if what == 0:
        del lines[at]
    else:
        line = lines.pop(at) if what == 1 else lines[at]
        lines.insert(to, line)
    return "\n".join(lines)


def _insert(text: str, chance: Generator) -> str:
    at = int(chance.integers(len(text) + 1))
    return f"{text[:at]}{pick(chance, INSERTS)}{text[at:]}"


def _cut(text: str, chance: Generator) -> str:
    at = int(chance.integers(len(text) + 1))
    return text[:at] if chance.random() < 0.2 else text[:at] + text[at + 1 + int(chance.integers(8)) :]


# -- stored programs --------------------------------------------------------------------------------------------------


def damaged_program(data: bytes, chance: Generator) -> bytes:
    """A stored program with damage that its check sum does not show (or, now and then, does)."""
    if chance.random() < 0.15:
        return damaged_bytes(data, chance)
    magic, version, packed, _unpacked, streams, blobs, _digest = HEADER.unpack_from(data)
    body = data[HEADER.size :]
    manifest = json.loads(zlib.decompress(body[:packed]))
    stream_data, blob_data = body[packed : packed + streams], body[packed + streams :]
    if chance.random() < 0.4:
        damaged = damaged_bytes(stream_data, chance)
        stream_data = (damaged + bytes(len(stream_data)))[: len(stream_data)]
    else:
        for _ in range(1 + int(chance.integers(2))):
            _damage_json(manifest, chance)
    plain = json.dumps(manifest).encode()
    body = zlib.compress(plain) + stream_data + blob_data
    lengths = (len(body) - streams - blobs, len(plain), streams, blobs)
    return HEADER.pack(magic, version, *lengths, hashlib.sha256(body).digest()) + body


def _damage_json(value: Any, chance: Generator) -> None:
    """Change something at some depth."""
    places: list[tuple[Any, Any]] = []
    while isinstance(value, dict | list) and value:
        key = pick(chance, list(value) if isinstance(value, dict) else range(len(value)))
        places.append((value, key))
        value = value[key]
    holder, key = places[-1] if chance.random() < 0.8 else pick(chance, places)
    old = holder[key]
    if chance.random() < 0.1:
        del holder[key]
    elif isinstance(old, int) and chance.random() < 0.8:
        holder[key] = int(pick(chance, (0, 1, -1, old + 1, old - 1, old * 2, 2**31, 2**63, 10**15)))
    elif isinstance(old, str) and chance.random() < 0.6:
        holder[key] = pick(chance, ("", "dram", "buffer", "npu", "\x1b[31m", "x" * 10_000, old + "x"))
    else:
        holder[key] = pick(chance, (None, 0, -1, 1.5, "text", [], {}, [1, 2], True, float("nan")))
