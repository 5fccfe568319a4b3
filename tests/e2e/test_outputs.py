"""Every output can be read after the run, whatever it is made of: views, constants, inputs, nothing at all."""

from __future__ import annotations

import numpy as np
import pytest

from pimc.driver import Options, checked_program, lower_model
from pimc.execution import run_program
from pimc.ir import interp
from pimc.ir.op import Array
from pimc.ir.text import parse

X = np.arange(24, dtype=np.float32).reshape(4, 6) / 8

BODIES = {
    "view of an input": "%y = transpose(%x)\n return %y",
    "view of a view of an input": "%t = reshape(%x, %s)\n %y = transpose(%t)\n return %y",
    "copy of an input": "%y = identity(%x)\n return %y",
    "input": 'return "y" = %x',
    "input, and a view of it": '%t = transpose(%x)\n return "y" = %x, %t',
    "constant": 'return "y" = %c',
    "known value": "%y = shape(%x)\n return %y",
    "view of an output": "%a = exp(%x)\n %b = transpose(%a)\n return %a, %b",
    "two views of one result": "%a = exp(%x)\n %b = transpose(%a)\n %c2 = reshape(%a, %s)\n return %b, %c2",
    "one view of a result": "%a = exp(%x)\n %b = transpose(%a)\n %d = neg(%b)\n return %b, %d",
    "parts of an input": "%p, %q = split(%x) {axis=1, num_outputs=2}\n return %p, %q",
    "twice the same": '%a = exp(%x)\n return "y" = %a, "z" = %a',
    "nothing": "%p, %q = split(%x, %none) {axis=1}\n return %p, %q",
    "sum of nothing": "%p, %q = split(%x, %none) {axis=1}\n %y = reduce_sum(%q, %axes)\n return %y",
    "product over nothing": "%p, %q = split(%x, %none) {axis=1}\n %t = transpose(%q)\n %y = matmul(%q, %t)\n return %y",
    "smallest of nothing": "%p, %q = split(%x, %none) {axis=1}\n %y = reduce_min(%q, %axes)\n return %y",
}


@pytest.mark.parametrize("target", ["npu", "neupims", "cent"])
@pytest.mark.parametrize("what", BODIES)
def test_outputs(what: str, target: str) -> None:
    text = f"""graph g(%x: f32[4, 6]) {{
      constant %s: i64[2] = [8, 3]
      constant %c: f32[3] = [1.5, 2.5, 3.5]
      constant %none: i64[2] = [6, 0]
      constant %axes: i64[1] = [1]
      {BODIES[what]}
    }}"""
    inputs: dict[str, Array] = {"x": X}
    program = checked_program(lower_model(parse(text, "g"), target, Options(simulate=False)))
    outputs = run_program(program, inputs, wide=True)
    expected = interp.run(parse(text, "g"), inputs)
    assert outputs.keys() == expected.keys()
    for name, want in expected.items():
        assert outputs[name].shape == want.shape
        np.testing.assert_allclose(outputs[name], want, rtol=1e-6)
