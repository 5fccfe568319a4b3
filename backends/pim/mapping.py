"""How operands of PIM products lie in the banks and how vectors get to where GWRITE takes them: strategies by name.

A target file names its strategy (`mapping:`). `newtonsim` keeps the addresses of the driver that the published
measurements of NeuPIMs' memory were made with: every GWRITE takes row 0 of bank 0, whatever vector and part of it is
meant; tiles take one row index after the other, from 1024 up, in the order in which they are worked on; results stay
where they are returned. Two parts of a vector then lie in the same place: such a program has a time, and no values.
Neither the vectors of a batch of requests nor its new keys and values are written to the memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pimc.backends.pim.cells import COLUMN_BYTES
from pimc.backends.program import Item, Loop, Stream
from pimc.backends.target import TargetSpec
from pimc.backends.vector import plain
from pimc.ir.diagnostics import Kind, did_you_mean, fail
from pimc.record import record


@record
class PimMapping:
    """One strategy."""

    first_row: int = 0
    """row index of the first tile"""
    follows_work: bool = False
    """tiles that are worked on one after the other have neighbouring row indices; else those of one output have"""
    packs_by_size: bool = False
    """as many heads share a row of keys as their elements fit it, even if they then do not begin at columns"""
    one_vector_row: bool = False
    """row 0 of bank 0 holds every part of every vector"""
    results_on_chip: bool = False
    """results of products stay where they are returned, in the on-chip buffer, also outputs of the program; there is
    room for a value of every bank"""
    schedule: str = ""
    """what makes programs of placed graphs by itself (`backends/schedules.py`); empty: the rules of the ops do"""
    rules: str = ""
    """whose lowering rules of products: empty: those of the style of the PIM engine"""
    tokens_in_banks: bool = False
    """a token's keys of all heads lie in one bank; scores lie in bank groups, where EWMUL takes them; rows of keys and
    of scores hold whole rounds of tokens (CENT)"""
    stages_side_by_side: bool = False
    """pipeline stages that share a device have a part of its channels each; else they take turns on all of them"""
    softmax_in_banks: bool = False
    """EWMUL scales the scores of attention"""
    marks_vectors: bool = False
    """vectors of a batch of requests are taken to be there: one element of each says that it is complete"""
    appends_requests: bool = True
    """new keys and values of a batch of requests are brought to their places"""
    pages: bool = True
    """caches may lie in blocks; else what is published has rows that follow each other"""


MAPPINGS: dict[str, PimMapping] = {
    "default": PimMapping(),
    "cent": PimMapping(schedule="cent", pages=False),
    "cent-mapping": PimMapping(
        rules="cent", tokens_in_banks=True, stages_side_by_side=True, softmax_in_banks=True
    ),
    "newtonsim": PimMapping(
        first_row=1024,
        follows_work=True,
        packs_by_size=True,
        one_vector_row=True,
        results_on_chip=True,
        marks_vectors=True,
        appends_requests=False,
        pages=False,
    ),
}


def mapping_of(spec: TargetSpec) -> PimMapping:
    """The strategy of a target. Raises CompileError (NAME_UNKNOWN, UNAVAILABLE)."""
    found = MAPPINGS.get(spec.mapping)
    if found is None:
        raise fail(Kind.NAME_UNKNOWN, f"no mapping '{spec.mapping}'", help=did_you_mean(spec.mapping, MAPPINGS))
    if found.one_vector_row and (spec.pim is None or spec.pim.style != "newton"):
        raise fail(Kind.UNAVAILABLE, f"the mapping '{spec.mapping}' is for PIM of the style 'newton'")
    if spec.paging is not None and (not found.pages or spec.dma is None):
        why = (
            f"the mapping '{spec.mapping}' is a published one, whose rows of keys and values follow each other"
            if not found.pages
            else "nothing copies between its memory and its buffer, and so nothing can look blocks up"
        )
        raise fail(
            Kind.UNAVAILABLE,
            f"caches of '{spec.name}' cannot be paged: {why}",
            help="leave out --set cache.layout=paged, or take the target that this one is a profile of "
            "(npu, neupims, newton, cent)",
        )
    if found.rules == "cent" and (spec.pim is None or spec.pim.style != "aim" or spec.pnm is None):
        raise fail(Kind.UNAVAILABLE, f"the mapping '{spec.mapping}' is for PIM of the style 'aim' with PNM beside it")
    return found


def rules_of(spec: TargetSpec) -> str:
    """Whose lowering rules the PIM engine's products go by: aim, newton or cent; empty: something else lowers them."""
    assert spec.pim is not None
    mapping = mapping_of(spec)
    return "" if mapping.schedule else mapping.rules or spec.pim.style


def why_no_values(spec: TargetSpec, streams: Iterable[Stream], *, of_requests: bool = False) -> str:
    """Why a program computes nothing, by the mapping of its target; empty where it does.

    of_requests: it is for a batch of requests whose keys and values lie in channels.
    """
    mapping = mapping_of(spec)
    if not mapping.one_vector_row:
        return ""
    if of_requests and (mapping.marks_vectors or not mapping.appends_requests):
        return f"with the mapping '{spec.mapping}', vectors, keys and values of requests are not brought to memory"
    writes = [
        found for stream in streams for found in _writes(stream.items, len(stream.instances) * len(stream.devices))
    ]
    total = sum(times for times, _ in writes)
    if total > 1:
        return f"with the mapping '{spec.mapping}', {total} GWRITEs take row 0 of bank 0, whatever vector they mean"
    if any(columns * COLUMN_BYTES > spec.dram.row_bytes for _, columns in writes):
        return f"with the mapping '{spec.mapping}', its heads share a row without beginning at columns"
    return ""


def _writes(items: tuple[Item, ...], times: int) -> Iterator[tuple[int, int]]:
    """How often each GWRITE is executed, and how many columns it takes."""
    from pimc.backends.pim.newton_isa import GlobalWrite

    for item in items:
        if isinstance(item, Loop):
            yield from _writes(item.body, times * item.count)
        elif isinstance(item.command, GlobalWrite):
            yield times, plain(item.command.count)
