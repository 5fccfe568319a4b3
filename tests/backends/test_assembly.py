"""The text form: what it looks like, that it is read back to the same bytes, and what it says of mistakes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pimc.backends.affine import DEVICE, variable
from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.dma.isa import Load
from pimc.backends.isa import Signal, Wait
from pimc.backends.numbering import canonical
from pimc.backends.program import Loop, OpRow, Program, Step, Stream
from pimc.backends.storage import to_bytes
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.ir.types import DType
from tests.programs import programs


@settings(max_examples=80, deadline=None)
@given(programs())
def test_assembling_what_was_disassembled_gives_the_same_bytes(program: Program) -> None:
    text = disassemble(program)
    again = assemble(text)
    assert to_bytes(again) == to_bytes(program)
    assert disassemble(again) == text
    assert again.streams == canonical(program).streams


def small() -> Program:
    load = Load(variable(7) * 64 + variable(DEVICE) * 4 + 0x100, 0, DType.F16, (8, 32), (64, 2), (64, 2))
    body = (Step("load", Wait(1), 0), Step("load", load, 0), Step("load", Signal(0), 0))
    return Program(
        graph="tiny",
        dims={"batch": 2},
        phase="decode",
        target={"name": "npu"},
        target_name="npu",
        target_hash="12ab",
        devices=4,
        streams=(Stream("load", (0, 1, 2, 3), (0,), (Loop(7, 8, body),)),),
        memory=(),
        ops=(OpRow("q", "matmul", 'm.onnx: node "MatMul_3"', ("place",), "decode", "gemv", "npu", "fast", 8, 16),),
    )


def test_the_text_is_aligned_and_says_where_commands_come_from() -> None:
    stream = disassemble(small()).split("\n\n")[-1]
    comment = '; matmul q  m.onnx: node "MatMul_3"'
    load = "    LD     src=0x100+4*dev+64*i0 dst=0x0 dtype=f16 counts=[8,32] src_strides=[64,2] dst_strides=[64,2] @0"
    assert stream.splitlines() == [
        '.stream "load" devices=0-3 instances=0 {',
        "  loop i0 8 {",
        "    WAIT   semaphore=1 @0".ljust(100) + f" {comment}",
        f"{load} {comment}",
        "    SIGNAL semaphore=0 @0".ljust(100) + f" {comment}",
        "  }",
        "}",
    ]


MISTAKES = {
    "mnemonic": ("LD  ", "LDD ", "no command is called 'LDD'", "did you mean 'LD'?"),
    "operand": ("counts=", "count=", "LD has no operand 'count'", "did you mean 'counts'?"),
    "element type": ("dtype=f16", "dtype=bff16", "unknown element type 'bff16'", "did you mean 'bf16'?"),
    "number": ("semaphore=1", "semaphore=x", "'x' is not a number or a sum like 0x100+64*i0", None),
    "missing operand": (" dst=0x0", "", "LD lacks dst", None),
    "loop": ("64*i0", "64*i1", "there is no loop i1 here", None),
    "counter": ("loop i0", "loop i4", "the counter of this loop is i0", None),
    "op": ("SIGNAL semaphore=0 @0", "SIGNAL semaphore=0 @9", "there is no op 9: the table has 1", None),
    "version": (".pimprog 3", ".pimprog 9", "this text is of version 9; this pimc reads version 3", None),
    "directive": (".devices", ".device", "'.device' is not a directive", "did you mean '.devices'?"),
    "JSON": ('"name": "npu"', '"name" "npu"', "the description is not JSON", None),
    "brace": ("  }\n}\n", "  }\n", "no '}' closes this", None),
    "range": ("devices=0-3", "devices=3-0", "'3-0' is not a range", None),
    "op row": ("layer=-1", "lauer=-1", "'layer=' is missing", None),
    "too large": ("loop i0 8", "loop i0 99999999999999999999", "'99999999999999999999' is not a number", None),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_point_at_their_place(case: str) -> None:
    right, wrong, message, help = MISTAKES[case]
    text = disassemble(small())
    assert right in text
    with pytest.raises(CompileError) as caught:
        assemble(text.replace(right, wrong), "x.pimasm")
    first = caught.value.diagnostics[0]
    assert first.kind is Kind.ASSEMBLY
    assert first.message.startswith(message)
    if help is not None:
        assert first.help == help
    assert "x.pimasm:" in str(first.source)


def test_all_mistakes_are_reported_at_once() -> None:
    text = disassemble(small()).replace("WAIT ", "WEIGHT ").replace("SIGNAL ", "SIGMAL ")
    with pytest.raises(CompileError) as caught:
        assemble(text)
    assert [d.message for d in caught.value.diagnostics] == [
        "no command is called 'WEIGHT'",
        "no command is called 'SIGMAL'",
    ]


@settings(max_examples=60, deadline=None)
@given(programs(), st.data())
def test_no_text_raises_anything_but_diagnostics(program: Program, data: st.DataObject) -> None:
    text = disassemble(program)
    at = data.draw(st.integers(0, len(text)))
    junk = data.draw(st.sampled_from(["", "{", "}", '"', "=", "9", "-", "@", "\n", "[", "*", ";", "loop "]))
    mutated = text[:at] + junk + text[at + data.draw(st.integers(0, 5)) :]
    assert {d.kind for d in _mistakes(mutated)} <= {Kind.ASSEMBLY}


def _mistakes(text: str) -> tuple[Diagnostic, ...]:
    try:
        assemble(text)
    except CompileError as error:
        return error.diagnostics
    return ()


def test_instances_of_a_command_are_kept() -> None:
    program = small()
    step = Step("load", Signal(0), 0, (0, 1, 5))
    stream = dataclasses.replace(program.streams[0], items=(step,))
    changed = dataclasses.replace(program, streams=(stream,))
    assert "%0-1,5" in disassemble(changed)
    assert assemble(disassemble(changed)).streams == changed.streams
