"""The contents of weights and constants: in memory, in a file (mapped on demand), generated, or not given."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.op import Array
from pimc.ir.types import DType
from pimc.record import record


class Contents(Protocol):
    """What a weight holds. `array` may be slow and large; everything else must be cheap."""

    def array(self) -> Array:
        """The elements; raises CompileError where they cannot be had."""
        ...

    def describe(self) -> str:
        """One word or file reference for the text form and the program."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Inline:
    """Contents held in memory."""

    value: Array

    def array(self) -> Array:
        return self.value

    def describe(self) -> str:
        return f"inline:{hashlib.sha256(np.ascontiguousarray(self.value).tobytes()).hexdigest()[:12]}"


@record
class External:
    """Contents at `offset` of a file, mapped when asked for."""

    path: Path
    offset: int
    dtype: DType
    shape: tuple[int, ...]

    def array(self) -> Array:
        size = self.dtype.numpy.itemsize * int(np.prod(self.shape, dtype=np.int64))
        try:
            available = self.path.stat().st_size
        except OSError as error:
            raise fail(
                Kind.WEIGHT_MISSING,
                f"cannot read the weight file {self.path}: {error.strerror}",
                help="put the file beside the model, or compile with --shapes-only",
            ) from None
        if self.offset + size > available:
            raise fail(
                Kind.WEIGHT_MISSING,
                f"{self.path} ends at byte {available}, but a weight needs bytes {self.offset} to {self.offset + size}",
                help="the file is truncated; fetch it again, or compile with --shapes-only",
            )
        if size == 0:
            return np.empty(self.shape, self.dtype.numpy)
        return np.memmap(self.path, self.dtype.numpy, "r", self.offset, self.shape)

    def describe(self) -> str:
        return f"{self.path.name}+{self.offset}"


@record
class Random:
    """Deterministic pseudo-random contents, for models that declare weights without data.

    Normal values scaled by `scale`, the same for the same name, type and shape on every machine.
    """

    name: str
    dtype: DType
    shape: tuple[int, ...]
    scale: float = field(default=0.02)

    def array(self) -> Array:
        seed = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:8], "little")
        values = np.random.Generator(np.random.PCG64(seed)).standard_normal(self.shape, np.float32)
        return (values * np.float32(self.scale)).astype(self.dtype.numpy)

    def describe(self) -> str:
        return "random"


@record
class Missing:
    """Declared without contents: good for shapes and time, not for values."""

    name: str

    def array(self) -> Array:
        raise fail(
            Kind.WEIGHT_MISSING,
            f"weight '{self.name}' has no data",
            help="values need the weights; without --values the model compiles from shapes alone",
        )

    def describe(self) -> str:
        return "missing"


@record
class Sharded:
    """The slice of `whole` along `axis` that rank `rank` of `count` holds."""

    whole: Contents
    axis: int
    count: int
    rank: int | None = None
    """None: the slice that each device takes by its own rank."""

    def of_rank(self, rank: int) -> Sharded:
        return Sharded(self.whole, self.axis, self.count, rank)

    def array(self) -> Array:
        if self.rank is None:
            raise ValueError("a sharded weight has contents only for a rank")
        return np.split(self.whole.array(), self.count, self.axis)[self.rank]

    def describe(self) -> str:
        return f"{self.whole.describe()}/{self.count}@{self.axis}"


@record
class Sliced:
    """Indices `start` to `stop` of one axis of `whole`: a projection out of a packed one."""

    whole: Contents
    axis: int
    start: int
    stop: int

    def array(self) -> Array:
        return self.whole.array()[(slice(None),) * self.axis + (slice(self.start, self.stop),)]

    def describe(self) -> str:
        return f"{self.whole.describe()}[{self.start}:{self.stop}@{self.axis}]"


@record
class Reshaped:
    """The same elements under another shape."""

    whole: Contents
    shape: tuple[int, ...]

    def array(self) -> Array:
        return self.whole.array().reshape(self.shape)

    def describe(self) -> str:
        return self.whole.describe()
