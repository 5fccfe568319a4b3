"""What a row of a report is called."""

from pathlib import Path

from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.storage import from_bytes, to_bytes
from pimc.driver import Options, compile_model
from pimc.sim.op_groups import group_ops

UNNAMED = """
model small(rows = 2)

def mlp(x) {
    weight up: f16[64, 96]
    weight down: f16[64, 96]
    return relu(x @ up) @ transpose(down, perm = [1, 0])
}

input x: f16[rows, 64]
let y = x
repeat layer in 0..4 {
    y = mlp(y) + 1
}
output y
"""


def test_products_without_a_name_are_told_by_their_weight(tmp_path: Path) -> None:
    """Others by their place, and all layers alike. The weight is the stored one, however the product reads it."""
    model = tmp_path / "small.pimc"
    model.write_text(UNNAMED, encoding="utf-8")
    result = compile_model(model, "npu", Options())
    assert result.report is not None
    named = {group.name: group.ops[0].op for group in group_ops(result.report.ops)}
    products = {name for name, op in named.items() if op == "matmul"}
    assert products == {"matmul_* layer.*.mlp.up", "matmul_* layer.*.mlp.down"}
    assert "relu_* small.pimc:7:12" in named
    assert "layer.*.y" in named
    program = result.program
    assert from_bytes(to_bytes(program)).ops == program.ops
    assert assemble(disassemble(program)).ops == program.ops
