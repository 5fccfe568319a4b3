"""What a result tells of one request on two machines: the shape of its JSON. Times in seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pimc.record import record


@record
class LinkUsed:
    """The link that caches have gone over."""

    of: str
    """the machine whose port passes less"""
    bytes_per_s: int
    """of one device's port"""
    latency_seconds: float
    transfers: str
    """timed or free"""


@record
class CacheMoved:
    """One cache on its way."""

    name: str
    to: str
    layer: int
    bytes: int
    written_seconds: float
    """from the beginning of the prefill on, as `start_seconds`"""
    start_seconds: float
    """when its turn comes on what paces the transfer"""
    same_layout: bool


@record
class Transfer:
    """All caches on their way."""

    when: str
    """after (the prefill), or by-layer"""
    seconds: float
    """from the first read to the last store, all caches being there"""
    exposed_seconds: float
    """what it adds to the time of the request"""
    reading_seconds: float
    wire_seconds: float
    storing_seconds: float
    paced_by: str
    """reading, link or storing"""
    bytes: int
    """of the caches, each once"""
    link_bytes: int
    """in whole packets, to every device that holds a copy"""
    link: LinkUsed
    caches: Sequence[CacheMoved]


@record
class EnergyByPart:
    """Joules of each part of a request, of all decode steps together."""

    total_j: float
    parts: Mapping[str, float]


@record
class Served:
    """A request: a prompt on one machine, its caches over the link, decode steps on another machine."""

    targets: Mapping[str, str]
    """by phase"""
    batch: int
    prompt_tokens: int
    generated_tokens: int
    """by decode steps, beside the one that the prefill gives"""
    time_to_first_token: float
    time_to_second_token: float
    time_per_token: float
    """the mean of the decode steps"""
    seconds: float
    tokens_per_s: float
    """while decoding"""
    request_tokens_per_s: float
    transfer: Transfer
    energy: EnergyByPart | None = None
    """None: a target gives no constants"""
