"""Random programs of every declared command, for tests of the text and the stored form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from pimc.backends.affine import DEVICE, INSTANCE, Scalar, affine
from pimc.backends.engines import commands
from pimc.backends.isa import Command, OperandDecl, operands_of
from pimc.backends.program import Item, Loop, MapEntry, OpRow, Program, Step, Stream
from pimc.ir.diagnostics import CompileError
from pimc.ir.layout import Layout
from pimc.ir.types import DType
from pimc.ir.weights import Contents, External, Inline, Missing, Random, Sharded, Sliced

numbers = st.integers(-5, 5) | st.integers(-(2**62), 2**62)
texts = st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=8)


@st.composite
def scalars(draw: st.DrawFn, depth: int) -> Scalar:
    if draw(st.booleans()):
        return draw(numbers)
    variables = st.sampled_from([DEVICE, INSTANCE, *range(depth)])
    return affine(draw(numbers), draw(st.dictionaries(variables, numbers, max_size=3)))


def operand(declaration: OperandDecl, depth: int) -> st.SearchStrategy[object]:
    match declaration.kind:
        case "int":
            return scalars(depth)
        case "real":
            return st.floats(allow_nan=False)
        case "dtype":
            return st.sampled_from(list(DType))
        case "choice":
            return st.sampled_from(declaration.choices)
    return st.lists(numbers, max_size=4).map(tuple)


@st.composite
def steps(draw: st.DrawFn, engine: str, depth: int, ops: int) -> Step:
    cls = commands()[draw(st.sampled_from(sorted(m for m in commands() if not m.startswith("TEST"))))]
    values = {name: draw(operand(d, depth)) for name, d in operands_of(cls).items()}
    try:
        made: Command = cls(**values)
    except (ValueError, TypeError, CompileError):  # a command that checks its operands
        made = commands()["SIGNAL"](draw(scalars(depth)))  # type: ignore[call-arg]
    instances = draw(st.none() | st.lists(st.integers(0, 31), max_size=4, unique=True).map(lambda n: tuple(sorted(n))))
    return Step(engine, made, draw(st.integers(-1, ops - 1)), instances)


@st.composite
def items(draw: st.DrawFn, engine: str, depth: int, ops: int) -> tuple[Item, ...]:
    out: list[Item] = []
    for _ in range(draw(st.integers(0, 3))):
        if depth < 3 and draw(st.booleans()):
            out.append(Loop(depth, draw(st.integers(0, 2**40)), draw(items(engine, depth + 1, ops))))
        else:
            out.append(draw(steps(engine, depth, ops)))
    return tuple(out)


layouts = st.builds(
    Layout,
    st.integers(0, 2**40),
    st.lists(
        st.lists(st.tuples(st.integers(0, 64), st.integers(-(2**30), 2**30)), max_size=3).map(tuple), max_size=4
    ).map(tuple),
)
contents: st.SearchStrategy[Contents] = st.one_of(
    st.builds(Missing, texts),
    st.builds(Random, texts, st.just(DType.F16), st.just((4, 8)), st.just(0.5)),
    st.builds(External, st.just(Path("nowhere/weights.bin")), st.integers(0, 999), st.just(DType.F32), st.just((2, 3))),
    st.integers(0, 3).map(lambda n: Inline(np.arange(n * 2, dtype=np.int64).reshape(n, 2))),
    st.integers(0, 3).map(lambda n: Sharded(Inline(np.full((4, n), n, np.float32)), 0, 2)),
    st.integers(0, 3).map(lambda n: Sliced(Random("packed", DType.F16, (4, 8)), 1, n, n + 4)),
)
entries = st.builds(
    MapEntry,
    texts,
    st.sampled_from(["input", "weight", "output"]),
    st.sampled_from(["dram", "buffer"]),
    st.sampled_from(list(DType)),
    layouts,
    st.sampled_from(list(DType)),
    st.sampled_from([(0,), (0, 1, 2, 5)]),
    st.none() | st.tuples(st.integers(0, 3), st.integers(1, 8)),
    st.none() | contents,
    st.none() | texts,
    st.none() | st.lists(st.integers(0, 9), max_size=3).map(tuple),
)
op_rows = st.builds(
    OpRow, texts, texts, texts, st.lists(texts, max_size=2).map(tuple), texts, texts, texts, texts,
    st.integers(0, 2**50), st.integers(0, 2**50), st.integers(-1, 96), st.integers(-1, 9),
)  # fmt: skip


@st.composite
def programs(draw: st.DrawFn) -> Program:
    ops = tuple(draw(st.lists(op_rows, max_size=3)))
    streams = []
    for engine in draw(st.lists(st.sampled_from(["load", "npu", "pim"]), max_size=3)):
        devices = draw(st.sampled_from([(0,), (0, 1, 2, 3), (1, 3)]))
        streams.append(Stream(engine, devices, (0,), draw(items(engine, 0, len(ops)))))
    return Program(
        graph=draw(texts),
        dims=draw(st.dictionaries(texts, st.integers(0, 9), max_size=2)),
        phase="decode",
        target={"name": "x", "dram": {"channels": 2, "clock": "1GHz"}, "list": [1, 2.5, None, True]},
        target_name=draw(texts),
        target_hash="ab12",
        devices=6,
        streams=tuple(streams),
        memory=tuple(draw(st.lists(entries, max_size=3))),
        ops=ops,
        inputs=tuple(draw(st.lists(texts, max_size=2))),
        outputs=("y",),
        notes=tuple(draw(st.lists(texts, max_size=1))),
        extent={"dram": 2**34, "buffer": 4096},
    )
