"""The programs that between them hold every command, each with the outputs that are right.

Most are compiled models. Commands that the compiler does not emit, or not for decoders, come in models of other ops and
in streams written by hand for the machine of a compiled program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from pimc.backends.isa import Command
from pimc.backends.link.isa import ReduceScatter
from pimc.backends.pim import aim_isa as aim
from pimc.backends.program import MapEntry, OpRow, Program, Step, Stream
from pimc.backends.verify import verify_program
from pimc.driver import Options
from pimc.ir.layout import Layout
from pimc.ir.op import Array
from pimc.ir.types import DType
from tests.e2e.harness import DATA, DECODE, MODELS, SAMPLES, Built, build, build_sample, key, tiny

SCANS = Path(__file__).parent / "scans.pimc"
EXPERTS = Path(__file__).parent / "experts.pimc"
GEMM = Path(__file__).parents[2] / "models" / "bench" / "gemm.pimc"
OP = OpRow("by_hand", "none", "", (), "decode", "movement", "pim", "", 0, 0)
BOTH, SECOND = 0b11, 0b10
"""Masks of channels."""


def floats(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).uniform(0.5, 1.5, shape).astype(np.float32)


@cache
def program_of(name: str) -> Built:
    """A program of `PROGRAMS`."""
    return PROGRAMS[name]()


def _sample(stem: str, target: str) -> Built:
    return build_sample(next(s for s in SAMPLES if s.arrays == DATA / f"{stem}.npz"), target)


def _model(name: str, target: str, passes: tuple[str, ...] = (), **parallel: int) -> Built:
    return tiny(name, target, key(DECODE), passes, key(parallel))


# -- by hand ----------------------------------------------------------------------------------------------------------


class _ByHand:
    """Values in the buffer, given out from its start: `CELL_BYTES` each, rows of 32 columns apart."""

    def __init__(self, machine: Program, dtype: DType) -> None:
        self._machine = machine
        self._dtype = dtype
        self._free = 0
        self.memory: list[MapEntry] = []
        self.inputs: dict[str, Array] = {}
        self.expected: dict[str, Array] = {}

    def given(self, name: str, values: Array) -> int:
        """The address of an input."""
        self.inputs[name] = values
        return self._place(name, "input", values)

    def wanted(self, name: str, values: Array) -> int:
        """The address of an output, which is to be these values."""
        self.expected[name] = values
        return self._place(name, "output", values)

    def _place(self, name: str, role: str, values: Array) -> int:
        shared = self._machine.devices > 1
        part = values.shape if not shared else (values.shape[0] // self._machine.devices, *values.shape[1:])
        layout = Layout.dense(part, 2, self._free)
        self._free += -(-int(np.prod(part)) * 2 // 1024) * 1024
        devices = tuple(range(self._machine.devices))
        shard = (0, len(devices)) if shared else None
        self.memory.append(MapEntry(name, role, "buffer", self._dtype, layout, DType.F32, devices, shard))
        return layout.offset

    def built(self, spec_of: Built, engine: str, *commands: Command) -> Built:
        items = tuple(Step(engine, command, 0) for command in commands)
        program = replace(
            self._machine,
            graph="by_hand",
            dims={},
            streams=(Stream(engine, tuple(range(self._machine.devices)), (0,), items),),
            memory=tuple(self.memory),
            ops=(OP,),
            inputs=tuple(self.inputs),
            outputs=tuple(self.expected),
        )
        verify_program(program)
        return Built(program, spec_of.spec, self.inputs, self.expected)


def _aim_by_hand() -> Built:
    """Two channels of GDDR6-AiM: one bank alone, copies, activations, and products and sums of elements."""
    like = _model("tiny-llama.pimc", "cent")
    hand = _ByHand(like.program, DType.BF16)
    a, b, c, w = floats(32), floats(32, seed=1), floats(2, 16, seed=2), floats(16, seed=3)
    at_a, at_b, at_c, at_w = (hand.given(n, v) for n, v in (("a", a), ("b", b), ("c", c), ("w", w)))
    product = np.zeros((2, 16), np.float32)
    product[1, 9] = a[:16] @ w
    spread = np.zeros((2, 16), np.float32)
    spread[:, 5] = c[:, 7]
    return hand.built(
        like,
        "pim",
        aim.WriteBank(2, SECOND, 3, 8, 1, at_a),
        aim.CopyBankToBuffer(2, SECOND, 3, 8, 1, 5),
        aim.CopyBufferToBank(2, SECOND, 6, 9, 0, 5),
        aim.ReadBank(2, SECOND, 6, 9, 0, hand.wanted("copied", a)),
        aim.WriteAllBanks(BOTH, 10, 21, at_c),
        aim.ReadBank(1, BOTH, 7, 10, 1, hand.wanted("spread", spread)),
        aim.WriteBank(1, SECOND, 9, 11, 0, at_a),
        aim.WriteGlobalBuffer(1, at_w, BOTH),
        aim.WriteBias(0, BOTH, "yes"),
        aim.MacOneBank(1, SECOND, 9, 11),
        aim.ReadMac(0, BOTH, hand.wanted("product", product)),
        aim.WriteBias(3, BOTH, "no", at_c),
        aim.Activate("tanh", BOTH, 3),
        aim.ReadActivated(BOTH, hand.wanted("activated", np.tanh(c))),
        aim.WriteBank(2, SECOND, 4, 12, 0, at_a),
        aim.WriteBank(2, SECOND, 5, 12, 0, at_b),
        aim.MultiplyBanks(2, SECOND, 12),
        aim.ReadBank(2, SECOND, 6, 12, 0, hand.wanted("multiplied", a * b)),
        aim.AddBuffers(2, at_a, at_b),
        aim.WriteBank(2, SECOND, 0, 13, 0, at_a),
        aim.ReadBank(2, SECOND, 0, 13, 0, hand.wanted("added", a + b)),
    )


def _reduce_scatter() -> Built:
    """Two devices sum [2, 8] and keep four columns each; the halves of the first axis are the devices'."""
    like = _model("tiny-llama.pimc", "npu", tp=2)
    hand = _ByHand(like.program, DType.F16)
    x = floats(4, 8)
    total = x[:2] + x[2:]
    kept = np.concatenate([total[:, :4], total[:, 4:]])
    command = ReduceScatter(hand.given("x", x), hand.wanted("kept", kept), 2, 4, 16, 8, DType.F16, 2)
    return hand.built(like, "link", command)


PROGRAMS: Mapping[str, Callable[[], Built]] = {
    "npu": lambda: _model("tiny-llama.pimc", "npu"),
    "neupims": lambda: _model("tiny-llama.pimc", "neupims", ("place.only=pim",)),
    "newton": lambda: _model("tiny-gpt2.pimc", "newton", ("place.only=pim", "split-attention.whole=never")),
    "cent": lambda: _model("tiny-llama.pimc", "cent"),
    "cent, gpt2": lambda: _model("tiny-gpt2.pimc", "cent"),
    "npu, paged caches": lambda: build(
        MODELS / "tiny-llama.pimc", "npu", Options(dims=DECODE, overrides=("cache.layout=paged", "cache.block=4"))
    ),
    "npu, product": lambda: build(GEMM, "npu", Options(dims={"M": 40})),
    "npu, bert": lambda: _sample("bert-encoder-optimum", "npu"),
    "npu, a cache of fixed length": lambda: _sample("gpt2-decode-dynamo-static", "npu"),
    "cent, a cache of fixed length": lambda: _sample("gpt2-decode-dynamo-static", "cent"),
    "two devices": lambda: _model("tiny-llama.pimc", "neupims", tp=2),
    "two stages": lambda: _model("tiny-llama.pimc", "cent", pp=2),
    "npu, sums that stay": lambda: build(
        GEMM, "npu-scalesim", Options(overrides=("array.dataflow=os",), dims={"M": 40})
    ),
    "npu, scans": lambda: build(SCANS, "npu"),
    "cent, scans": lambda: build(SCANS, "cent"),
    "neupims, experts": lambda: build(EXPERTS, "neupims", Options(pass_options=("place.only=pim",))),
    "cent, experts": lambda: build(EXPERTS, "cent"),
    "AiM by hand": _aim_by_hand,
    "reduce and scatter": _reduce_scatter,
}
