# ruff: noqa: N815  (timing parameters bear the standards' names)
"""What a machine is: frozen models of its numbers, as target files give them.

Fields are primary values; everything derived from them is a property, so that an override of a primary value reaches
all that follows from it. Sizes are bytes, times picoseconds, rates bytes a second, frequencies Hz (`quantity.py`).
Each group of numbers says in `source` where they come from. Files are read by `target_file.py`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt

from pimc.backends.quantity import Bandwidth, ClockTime, Energy, Frequency, Power, Size, Time, Timing, period_ps
from pimc.backends.timing import EngineDecl
from pimc.by_identity import by_identity
from pimc.ir.types import DType

if TYPE_CHECKING:
    from pimc.backends.state import DramGeometry

Count = Annotated[StrictInt, Field(gt=0, lt=1 << 31)]
"""How many there are: at least one."""
Cycles = Annotated[StrictInt, Field(ge=0)]
"""Clocks of the unit that has the field."""
Hertz = Annotated[Frequency, Field(gt=0)]
Bytes = Annotated[Size, Field(gt=0)]
Option = StrictBool | StrictInt | float | str


class Group(BaseModel):
    """The base of all groups: frozen, and unknown keys are mistakes. Validators are built for the machine as a whole,
    rather than for each group and once more for those that it is in."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True, defer_build=True)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy that finds out anew what is kept about its values."""
        copied = super().model_copy(update=update, deep=deep)
        kept = [name for name in vars(copied) if isinstance(getattr(type(copied), name, None), cached_property)]
        for name in kept:
            del vars(copied)[name]
        return copied


class Sourced(Group):
    """A group of numbers."""

    source: Annotated[str, Field(min_length=1)]
    """Where the numbers come from."""


class LanesSpec(Group):
    """A pool of lanes that all devices of the system share evenly."""

    total: Count
    """lanes over all devices"""
    bandwidth: Annotated[Bandwidth, Field(gt=0)]
    """of one lane, each way"""


class PacketSpec(Group):
    """A link that moves whole packets."""

    bytes: Count
    payload: Count
    """bytes of values in a packet"""


class LinkSpec(Sourced):
    """What joins the devices: every device has one port, which sends and receives at the same time."""

    topology: Literal["ring", "switch"]
    """ring: collectives go round in steps between neighbours. switch: every device reaches all others in one hop, and
    sends to all of them at once (multicast)"""
    latency: Time
    """of one hop, from the first byte leaving to the first byte arriving"""
    bandwidth: Annotated[Bandwidth, Field(gt=0)] | None = None
    """of a device's port, each way"""
    lanes: LanesSpec | None = None
    """instead of `bandwidth`: a share of a pool of lanes"""
    packet: PacketSpec | None = None
    """none: a transfer of n bytes puts n bytes on the link"""
    transfers: Literal["timed", "free"] = "timed"
    """free: exchanges take no time, as simulators of one device alone take them"""


class SystemSpec(Group):
    """How many devices there are, and the link between them."""

    devices: Count
    sharing: Count = 1
    """parts that each device is divided into, by channels, which work in lock-step (`backends/sharing.py`)"""
    link: LinkSpec

    @property
    def link_bandwidth(self) -> int:
        """Bytes a second of the port of one part of a device, each way."""
        link = self.link
        if link.bandwidth is not None:
            return link.bandwidth // self.sharing
        assert link.lanes is not None
        return max(1, link.lanes.total // self.devices) * link.lanes.bandwidth // self.sharing


class DramTiming(Sourced):
    """Timing parameters under the standard's names. `DramSpec.cycles` has them as clocks (nRP of tRP)."""

    tCL: Timing
    """read command to first data"""
    tCWL: Timing
    """write command to first data"""
    tBL: Timing
    """how long one access holds the data bus"""
    tRCDRD: Timing
    tRCDWR: Timing
    tRP: Timing
    tRAS: Timing
    tRC: Timing | None = None
    """ACT to ACT of one bank; none: tRAS + tRP"""
    tRRD_S: Timing
    """ACT to ACT in different bank groups"""
    tRRD_L: Timing
    """ACT to ACT in one bank group"""
    tFAW: Timing
    """the window that holds at most four ACTs of a rank"""
    tCCD_S: Timing
    tCCD_L: Timing
    tWTR_S: Timing
    tWTR_L: Timing
    tWR: Timing
    tRTP: Timing
    tRTRS: Timing = ClockTime(0, True)
    """read to read of another rank, beyond the burst"""
    tRFC: Timing
    """how long a refresh takes"""
    tREFI: Timing
    """average distance of the refreshes of one rank"""


class DramSpec(Sourced):
    """The memory of one device."""

    channels: Count
    ranks: Count
    bank_groups: Count
    """of one rank"""
    banks_per_group: Count
    rows: Count
    """of one bank"""
    row_bytes: Bytes
    access_bytes: Bytes
    """moved by one RD or WR"""
    clock: Hertz
    refresh: StrictBool
    refresh_order: Literal["all-banks", "staggered-ranks"]
    """all banks of a channel every tREFI, or one rank after the other every tREFI/ranks"""
    timing: DramTiming

    @property
    def banks(self) -> int:
        """Banks of one channel, over all ranks and bank groups."""
        return self.ranks * self.bank_groups * self.banks_per_group

    @property
    def geometry(self) -> DramGeometry:
        from pimc.backends.state import DramGeometry

        return DramGeometry(self.channels, self.banks, self.rows, self.row_bytes)

    @property
    def bytes(self) -> int:
        return self.channels * self.banks * self.rows * self.row_bytes

    @property
    def clock_ps(self) -> int:
        return period_ps(self.clock)

    @cached_property
    def cycles(self) -> Mapping[str, int]:
        """Timing in clocks, rounded up: `cycles["nRCDRD"]`, `cycles["nRRDS"]` of tRRD_S."""
        clocks = clocks_of(self.timing, self.clock)
        clocks.setdefault("nRC", clocks["nRAS"] + clocks["nRP"])
        return clocks

    @property
    def burst_cycles(self) -> int:
        """Clocks for which one access holds the data bus of a channel."""
        return self.cycles["nBL"]

    @property
    def channel_bandwidth(self) -> int:
        """Bytes a second of one channel's data bus."""
        return self.access_bytes * self.clock // self.burst_cycles

    @property
    def bandwidth(self) -> int:
        """Bytes a second of all channels."""
        return self.channel_bandwidth * self.channels

    @property
    def accesses_per_row(self) -> int:
        return self.row_bytes // self.access_bytes


class BufferSpec(Sourced):
    """The on-chip space `buffer`: an NPU's scratchpad, or the shared buffer beside a PIM controller."""

    bytes: Bytes
    """of one NPU core; the cores of a device share the space that theirs make up together"""


class DmaSpec(Sourced):
    """The load queue and the store queue between DRAM and the on-chip buffer."""

    clock: Hertz
    issue: Cycles
    """clocks from one command of a queue to its next"""
    latency: Time
    """of a transfer, each way, beyond what the memory takes"""
    bandwidth: Annotated[Bandwidth, Field(gt=0)] | None = None
    """bytes a second of one queue of one NPU core beyond which the memory is not the limit; none: the memory is"""
    moves: Literal["load", "store"] = "load"
    """the queue of copies from one place on chip to another. They wait for results, as stores do; in the load queue
    they hold up what comes for the ops after them"""
    transfers: Literal["timed", "free"] = "timed"
    """free: everything is where it is needed at once, as simulators of an array alone take it"""
    channels: Literal["rows", "hashed"] = "rows"
    """where an address lies, for the time of a transfer: rows: neighbouring rows on neighbouring channels; hashed: the
    controller spreads any accesses evenly over the channels (no PIM beside it)"""
    row_gap: Size = 0
    """bytes left free after each row of a matrix, where its rows would begin on the same channels"""


class VectorSpec(Sourced):
    """A vector unit: one pass works on `width` elements, and takes a number of clocks that depends on the function."""

    units: Count
    lanes: Count
    """of one unit"""
    latency: Cycles
    """clocks from the issue of a pass to its results"""
    waiting: Count = 1
    """commands that wait for it while those of the arrays are issued past them"""
    default: Count
    """clocks of one pass of a function that `functions` does not name"""
    functions: Mapping[str, Count] = Field(default_factory=dict)
    """clocks of one pass, by function (named as ops are: add, mul, div, exp, ...)"""
    tree: Count
    """clocks of one level of a reduction over the lanes"""

    @property
    def width(self) -> int:
        """Elements of one pass, over all units."""
        return self.units * self.lanes

    def cycles(self, function: str) -> int:
        """Clocks of one pass."""
        return self.functions.get(function, self.default)


_SUM = r"^\w+( [+-] \w+)*$"


def sum_of(formula: str, names: Mapping[str, int]) -> int:
    """The value of a sum of names and whole numbers, with signs. KeyError where a name is not known."""
    total, sign = 0, 1
    for term in formula.split():
        if term in "+-":
            sign = 1 if term == "+" else -1
        else:
            total += sign * (int(term) if term.isdecimal() else names[term])
    return total


ArrayClocks = Annotated[str, Field(pattern=r"^(rows|columns|\d+)( [+-] (rows|columns|\d+))*$")]
"""Clocks as a sum of the array's extents (`rows`, `columns`) and whole numbers."""


class ArraySpec(Group):
    """Systolic arrays. What a block of each dataflow is, and how long it takes: `backends/npu/array.py`."""

    dataflow: Literal["ws", "is", "os", "either"]
    """what stays in the array: ws: the weight, is: the activation, os: the sums; either: whichever of weight and
    activation is faster, product by product"""
    rows: Count
    columns: Count
    count: Count
    """of one core"""
    minimum_stream: Count
    """clocks between two streams, however short they are"""
    longest_stream: Count | None = None
    """rows that one stream can have; none: as many as there are"""
    folds: Literal["overlapped", "alternating", "serial"]
    """alternating: a block is loaded when the stream of the one before has entered, and results leave meanwhile.
    serial: a block begins when everything of the block before is out"""
    load: ArrayClocks
    """clocks that loading a weight or activation that stays takes; behind the stream before, where folds overlap"""
    first_load: ArrayClocks
    """the same for an array that is empty"""
    unload: ArrayClocks
    """clocks that sums which stayed take to leave; behind the stream after, where folds overlap"""
    skew: ArrayClocks
    """clocks from the last operand that enters to the last result"""
    ahead: Cycles = 0
    """clocks of the very first block that lie before time 0"""

    def clocks(self, formula: str) -> int:
        return sum_of(formula, {"rows": self.rows, "columns": self.columns})


class NpuSpec(Sourced):
    """Cores of systolic arrays with accumulators, and a vector unit beside them.

    The cores work in lock step on one stream of commands: what is said of arrays, units and accumulators holds for one
    core, and a device has `cores` times as many.
    """

    clock: Hertz
    cores: Count
    array: ArraySpec
    accumulator_bytes: Bytes
    drain: Literal["vector", "free"]
    """how accumulators come to the buffer: as a pass of the vector unit, or through a port of their own at no cost"""
    products: Literal["array", "fastest"]
    """where matrix products run: on the arrays alone, or on the vector unit where that is faster"""
    tiling: Literal["search", "panels", "whole", "passes"] = "search"
    """search: the fastest tiles; panels: operands come in panels of a block's width and the whole depth wherever those
    fit, as ONNXim's mapping has them; whole: operands that fit are on chip before they are multiplied; passes: all of
    the streamed operand passes one array's width of the other after the next, the first time as it arrives"""
    vector: VectorSpec

    @property
    def clock_ps(self) -> int:
        return period_ps(self.clock)

    @property
    def arrays(self) -> int:
        """Over all cores."""
        return self.cores * self.array.count

    @property
    def device_accumulator_bytes(self) -> int:
        return self.cores * self.accumulator_bytes

    @property
    def macs_per_cycle(self) -> int:
        return self.array.rows * self.array.columns * self.arrays


class PairConstraint(Group):
    """`next` may be issued `cycles` after `previous` at the soonest, where both touch the same node of the level."""

    level: Literal["channel", "bankgroup", "bank"]
    previous: str
    next: str
    formula: Annotated[str, Field(pattern=_SUM)]
    """a sum of timing names (nRCDWR, as in `TargetSpec.cycles`) and whole numbers, with signs"""

    def clocks(self, cycles: Mapping[str, int]) -> int:
        """The distance for given timing; never negative. KeyError where a name is not a timing."""
        return max(0, sum_of(self.formula, cycles))


class AimTiming(Sourced):
    """Timing of the commands that a GDDR6-AiM has beyond GDDR6."""

    tRCDRDMAC: Timing
    """ACT to MAC"""
    tRCDEWMUL: Timing
    tRCDRDAF: Timing
    tRCDRDCP: Timing
    """ACT to copy out of a bank"""
    tRCDWRCP: Timing
    """ACT to copy into a bank"""
    tCLREG: Timing
    """register read"""
    tCLGB: Timing
    tCWLREG: Timing
    tCWLGB: Timing
    """global buffer write"""
    tWPRE: Timing
    tMODCH: Timing
    """switch between the array and the register mode"""


class PimBase(Sourced):
    """Multipliers inside the banks, fed by a buffer that all banks of a channel share."""

    controller: str
    """the strategy that issues the commands, by name"""
    macs_per_bank: Count
    """multiply-accumulates of one bank for one MAC command (one column access)"""
    global_buffer_bytes: Bytes
    """of one channel"""
    accumulators: Count
    """results that one bank can hold"""


class AimSwitches(Sourced):
    """What controllers of a GDDR6-AiM may do differently, and what the published simulator does."""

    lines_per_clock: Count
    """lines (commands of the stream) that the front end decodes in a clock"""
    stall: Literal["device", "channel"]
    """what a full queue or an outstanding register read holds up: every line, or those for the same channels"""
    forwards_any_address: StrictBool
    """a read that finds any write waiting in its channel is answered at once, without a DRAM command; else a read and a
    write of one row wait for each other"""
    drains_activated: StrictBool
    """PIM commands and markers wait for reads and writes whose row was opened for them"""


class AimPim(PimBase):
    """GDDR6-AiM: one stream of commands a device, with a mask of channels."""

    style: Literal["aim"]
    queue: Count
    """requests of a kind that a channel's controller holds"""
    switches: AimSwitches
    timing: AimTiming
    constraints: tuple[PairConstraint, ...]


class NewtonTiming(Sourced):
    """Timing of NeuPIMs' PIM commands that HBM does not have."""

    tGWRITE: Timing
    """one row from a bank's row buffer into the global buffer"""
    tRETURN: Timing
    """from the last data of a result, or the end of a GWRITE, until whoever waits for it sees that"""


class NewtonSwitches(Sourced):
    """What a controller of such a memory keeps to; the published simulator leaves all of it out but the last."""

    precharge_waits_for_macs: StrictBool
    """tRTP counts from the last MAC of a COMPS_READRES; else from its issue, so that rows close under their MACs"""
    results_wait_for_macs: StrictBool
    """results come a read's latency after the last MAC of a COMPS_READRES; else after its issue"""
    gwrite_waits_for_macs: StrictBool
    """the global buffer is filled anew after the last MAC that reads it; else right after the issue of COMPS_READRES"""
    keeps_row_times: StrictBool
    """single row buffers: tRAS and tRP hold between G_ACT and the precharges of its banks"""
    counts_activates: StrictBool
    """the banks that ACTIVATE opens count for the tFAW of G_ACT, which opens as many banks as tFAW allows"""
    gwrite_spans_ranks: StrictBool
    """GWRITE and reads of another rank keep the data bus's burst apart"""
    refresh_guard: StrictBool
    """a tile or a GWRITE starts only if it is estimated to end before the next refresh of a rank"""


class SharingSpec(Sourced):
    """How normal reads share a channel with PIM work, where a bank has a row buffer for each (`--background`)."""

    transactions: Count
    """reads that wait until their commands are queued, one a clock"""
    bank_commands: Count
    """commands that wait for one bank"""
    row_hits: Count
    """reads of an open row that may go before older ones of the same bank"""
    least_slack: Cycles
    """clocks between the estimated end of PIM work and the next refresh: with fewer, PIM lets nothing else go"""
    bus_percent: Annotated[StrictInt, Field(gt=0, le=100)]
    """the part of the data bus that transfers get which begin beside PIM work, refresh included"""


class NewtonPim(PimBase):
    """Newton and NeuPIMs in HBM: one stream of commands a channel."""

    style: Literal["newton"]
    row_buffers: Literal["dual", "single"]
    """dual: PIM rows and normal rows are open side by side. single: normal traffic waits for PIM (blocked mode)"""
    banks_per_activation: Count
    """banks that one G_ACT opens"""
    least_macs: Count
    """MAC commands that one result takes at least (the adder tree's fill)"""
    switches: NewtonSwitches
    sharing: SharingSpec
    timing: NewtonTiming


PimSpec = Annotated[AimPim | NewtonPim, Field(discriminator="style")]


class PnmSpec(Sourced):
    """Units beside the memory controllers, around one shared buffer (`BufferSpec`) of 256-bit slots.

    A unit takes its operands out of the buffer and puts its results back, slot by slot; the buffer's port serves one
    slot at a time, so that n slots of a unit with two operands take n * 2 * buffer_read + latency + buffer_write.
    """

    clock: Hertz
    lanes: Count
    """elements of one slot"""
    buffer_read: Count
    """clocks of the port for one slot"""
    buffer_write: Count
    exponent_units: Count
    exponent_latency: Cycles
    reduction_trees: Count
    reduction_latency: Cycles
    adders: Count
    """vector units"""
    adder_latency: Cycles
    cores: Count
    """scalar cores (RISC-V)"""
    core_functions: Mapping[str, Count] = Field(default_factory=dict)
    """clocks of one element on one core, by function"""
    core_default: Count
    """clocks of one element of a function that `core_functions` does not name"""

    @property
    def clock_ps(self) -> int:
        return period_ps(self.clock)

    def core_cycles(self, function: str) -> int:
        return self.core_functions.get(function, self.core_default)


class EventEnergy(Sourced):
    """What engines of one kind spend on what they count."""

    engine: str
    """the kind of engine (pim, dma, npu, pnm, link, analytic)"""
    each: Mapping[str, Energy]
    """by counter (docs/energy.md): of one"""


class StaticPower(Sourced):
    """Power that is drawn whatever is done."""

    power: Power
    """of one"""
    of: Literal["channel", "device"]
    while_open: Power = 0
    """drawn beyond that by a channel while a row is open in one of its banks, where the PIM's controller tells that"""
    during: Literal["run", "traces"] = "run"
    """traces: only while the memory works on a trace (published mappings that time traces by themselves)"""
    counted: Literal["all", "one"] = "all"
    """one: for one channel instead of all of them, with the mean of their open rows, as CENT's script does"""


class EnergySpec(Group):
    """What a run costs: a sum over what engines count, and power over time."""

    events: Mapping[str, EventEnergy] = Field(default_factory=dict)
    static: Mapping[str, StaticPower] = Field(default_factory=dict)


class AnalyticSpec(Sourced):
    """Closed formulas stand for the near-memory units, the link and the host, as a published model has them
    (`backends/analytic`): over the numbers of `pnm` and of `system.link`, and these."""

    host: Time
    """what the host takes for a token: sampling, and moving it"""


class CacheSpec(Group):
    """How the keys and values of caches lie in the memory."""

    layout: Literal["contiguous", "paged"] = "contiguous"
    """contiguous: a request's tokens follow each other, with room for all that it will have; paged: they lie in blocks
    that a table names (PagedAttention)"""
    block: Count = 16
    """tokens of a block; where rows of banks hold keys or values, as many more as fill whole rows"""
    blocks: Count | None = None
    """of the pool that each cache draws from (on machines where channels hold requests of their own, of each channel);
    none: as many as its requests need"""
    order: Literal["shuffled", "rising"] = "shuffled"
    """of the free blocks: as earlier requests may have left them, or from the first on"""
    seed: Cycles = 0
    """of the shuffling"""


QUEUES: Mapping[str, tuple[str, ...]] = {
    "pim": ("dma", "npu"), "cache": ("dma", "npu"), "link": ("dma",), "held": ("dma",)
}  # fmt: skip
"""What has queues of its own beside an NPU with PIM (`pimc.ir.facts.Queue`), on which kinds of engines."""


class TargetSpec(Group, defer_build=False):
    """A machine. `describe` gives it as plain data, `from_description` takes it back."""

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    storage: Literal["f16", "bf16"]
    """element type of every stored float"""
    accumulator: Literal["f32", "bf16", "f16"]
    """element type of the sums"""
    main_clock: Literal["npu", "dram"]
    """whose clock `cycles` of a report counts"""
    mapping: str = "default"
    """the strategy that places and lays out, by name"""
    passes: Mapping[str, Mapping[str, Option]] = Field(default_factory=dict)
    """default options of passes, by pass"""
    system: SystemSpec
    dram: DramSpec
    buffer: BufferSpec
    cache: CacheSpec | None = None
    """None: contiguous"""
    dma: DmaSpec | None = None
    """None: nothing moves between DRAM and the on-chip buffer; inputs and outputs lie in the buffer"""
    npu: NpuSpec | None = None
    pim: PimSpec | None = None
    pnm: PnmSpec | None = None
    analytic: AnalyticSpec | None = None
    """None: near-memory units and link are engines with commands of their own"""
    energy: EnergySpec = EnergySpec()

    element_bytes: ClassVar[int] = 2
    """of every stored float"""

    @cached_property
    def storage_dtype(self) -> DType:
        return next(d for d in DType if d.text == self.storage)

    @property
    def paging(self) -> CacheSpec | None:
        """How caches are cut into blocks; None where they are contiguous."""
        return self.cache if self.cache is not None and self.cache.layout == "paged" else None

    @property
    def value_tolerance(self) -> float:
        """The relative error that the storage type explains for a decoder of a few layers (docs/accuracy.md)."""
        return {"f16": 1e-2, "bf16": 5e-2}[self.storage]

    @property
    def buffer_bytes(self) -> int:
        """Of one device."""
        return self.buffer.bytes * (self.npu.cores if self.npu is not None else 1)

    @property
    def clock(self) -> int:
        """Hz of the main clock."""
        return self.npu.clock if self.main_clock == "npu" and self.npu is not None else self.dram.clock

    @property
    def clock_ps(self) -> int:
        return period_ps(self.clock)

    @cached_property
    def cycles(self) -> Mapping[str, int]:
        """Timing of the DRAM and its PIM commands, in DRAM clocks: nRP, nRCDRDMAC, ..."""
        own = {} if self.pim is None else clocks_of(self.pim.timing, self.dram.clock)
        return {**self.dram.cycles, **own}

    def pair_constraints(self) -> dict[tuple[str, str, str], int]:
        """Clocks between two commands, by (level, previous, next); empty where the controller knows its own rules."""
        if self.pim is None or self.pim.style != "aim":
            return {}
        return {(c.level, c.previous, c.next): c.clocks(self.cycles) for c in self.pim.constraints}

    def engines(self) -> tuple[EngineDecl, ...]:
        """The units that take one stream each: load, store, npu, pim, pnm, link."""
        return self._engines

    @cached_property
    def _engines(self) -> tuple[EngineDecl, ...]:
        declared: list[EngineDecl] = []
        if self.dma is not None:
            for name in ("load", "store"):
                declared.append(EngineDecl(name, "dma", period_ps(self.dma.clock), 1, frozenset({"dma"})))
        if self.npu is not None:
            declared.append(EngineDecl("npu", "npu", self.npu.clock_ps, 1, frozenset({"npu", "vector"})))
        if self.pim is not None:
            instances = self.dram.channels if self.pim.style == "newton" else 1
            declared.append(EngineDecl("pim", "pim", self.dram.clock_ps, instances, frozenset({"pim"})))
        if self.analytic is not None:
            clock = self.clock_ps if self.pnm is None else self.pnm.clock_ps
            units = frozenset({"analytic"})
            declared += (EngineDecl(name, "analytic", clock, 1, units) for name in ("pnm", "link", "host"))
            return tuple(declared)
        if self.pnm is not None:
            declared.append(EngineDecl("pnm", "pnm", self.pnm.clock_ps, 1, frozenset({"pnm", "vector"})))
        declared.append(EngineDecl("link", "link", self.clock_ps, 1, frozenset({"link"})))
        return (*declared, *self._queues(declared))

    def _queues(self, declared: Sequence[EngineDecl]) -> Iterator[EngineDecl]:
        """Further queues of copies and vector unit, where the memory beside an NPU takes a stream a channel."""
        if self.npu is None or self.pim is None or self.pim.style != "newton":
            return
        for engine in declared:
            for queue, kinds in QUEUES.items():
                if engine.kind in kinds:
                    yield replace(engine, name=f"{engine.name}-{queue}", queue=queue, of=engine.name)


def clocks_of(timing: Group, hertz: int) -> dict[str, int]:
    """Every timing field of a group in clocks, renamed: tRRD_S is nRRDS."""
    found = {}
    for name in type(timing).model_fields:
        field = getattr(timing, name)
        if isinstance(field, ClockTime):
            found["n" + name[1:].replace("_", "")] = field.clocks(hertz)
    return found


def describe(spec: TargetSpec) -> dict[str, Any]:
    """The resolved description as plain data (what a YAML or JSON file can hold); quantities are text with units."""
    described: dict[str, Any] = json.loads(_description(spec))
    return described


@by_identity
def _description(spec: TargetSpec) -> str:
    return json.dumps(spec.model_dump(mode="json", exclude_none=True))


def from_description(description: Mapping[str, Any]) -> TargetSpec:
    """The machine of a description that `describe` made; pydantic's ValidationError where it is damaged."""
    return TargetSpec.model_validate(dict(description))


@by_identity
def target_hash(spec: TargetSpec) -> str:
    """sha256 of the numbers and names (prose and sources aside) in a canonical form."""
    text = json.dumps(_numbers(describe(spec)), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _numbers(plain: Any) -> Any:
    if isinstance(plain, dict):
        return {k: _numbers(v) for k, v in plain.items() if k not in ("source", "description")}
    return [_numbers(v) for v in plain] if isinstance(plain, list) else plain


def json_schema() -> dict[str, Any]:
    """The JSON schema of a target file, for editors. What a file must hold depends on its `base`, so that the schema
    asks for a name alone."""
    schema = TargetSpec.model_json_schema()
    for group in (schema, *schema["$defs"].values()):
        group.pop("required", None)
    schema["required"] = ["name"]
    schema["properties"]["base"] = {
        "type": "string",
        "description": "the name or the file of the target that this one changes",
    }
    return schema
