"""Requests and rows of a batch as plain data, for the stored and the text form of programs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from pimc.ir.requests import Request, Rows


def plain_rows(rows: Rows) -> dict[str, Any]:
    """As a JSON object."""
    return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(rows).items()}


def rows_from(plain: object) -> Rows:
    """Raises ValueError for what `plain_rows` does not write."""
    if not isinstance(plain, dict) or sorted(plain) != ["axis", "extent", "lengths", "rows", "whole"]:
        raise ValueError(f"{plain!r} is no description of requests")
    rows, lengths = _numbers(plain["rows"]), _numbers(plain["lengths"])
    whole, axis, extent = _numbers([plain["whole"], plain["axis"], plain["extent"] or 0])
    if any(r >= whole for r in rows) or len(lengths) not in (0, len(rows)):
        raise ValueError("a tensor holds requests that are not in the batch")
    return Rows(rows, whole, lengths, axis, None if plain["extent"] is None else extent)


def plain_request(request: Request) -> list[Any]:
    """As a JSON list."""
    return [request.id, request.past, request.new, request.channel, request.row]


def request_from(plain: object) -> Request:
    """Raises ValueError for what `plain_request` does not write."""
    if not isinstance(plain, list) or len(plain) != 5 or not isinstance(plain[0], str):
        raise ValueError(f"{plain!r} is no request")
    name, past, new, channel, row = plain
    cached, added, index, place = _numbers([past, new, row, 0 if channel is None else channel])
    return Request(name, cached, added, None if channel is None else place, index)


def _numbers(values: Iterable[object]) -> tuple[int, ...]:
    found = []
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 63:
            raise ValueError(f"{value!r} is not a number")
        found.append(value)
    return tuple(found)
