"""What a row of a report is called."""

from pathlib import Path

from pimc.backends.assembler import assemble
from pimc.backends.assembly import disassemble
from pimc.backends.storage import from_bytes, to_bytes
from pimc.driver import Options, compile_model
from pimc.sim.op_groups import group_ops

ROOT = Path(__file__).parent.parent.parent
TRANSPOSED = """
model small(rows = 2)
input x: f16[rows, 64]
weight up: f16[96, 64]
let y = relu(x @ transpose(up, perm = [1, 0])) + 1
output y
"""


def test_products_without_a_name_are_told_by_their_weight() -> None:
    """Whatever kind of file they come from; other ops by their place, where the file has places."""
    products = {f"matmul_* layer.*.{w}" for w in ("mlp.w_up", "mlp.w_gate", "mlp.w_down")}
    products |= {f"matmul_* layer.*.self_attention.{w}" for w in ("wq", "wk", "wv", "wo")}
    for model in ("tiny-llama.pimc", "tiny-llama.onnx"):
        dims = {"batch": 1, "seq": 1, "past": 3}
        report = compile_model(ROOT / "models" / model, "npu", Options(dims=dims)).report
        assert report is not None
        named = {group.name: group.ops[0].op for group in group_ops(report.ops)}
        assert {name for name, op in named.items() if op == "matmul"} == products | {"logits"}
        assert ("silu_* tiny-llama.pimc:41:13" in named) == model.endswith(".pimc")


def test_the_weight_is_the_stored_one(tmp_path: Path) -> None:
    model = tmp_path / "small.pimc"
    model.write_text(TRANSPOSED, encoding="utf-8")
    program = compile_model(model, "npu", Options()).program
    assert "up" in {row.weight for row in program.ops if row.op == "matmul"}
    assert from_bytes(to_bytes(program)).ops == program.ops
    assert assemble(disassemble(program)).ops == program.ops
