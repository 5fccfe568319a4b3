"""Files with every kind of mistake, for `test_cli_bad_input.py`."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from pimc.cli import main
from tests.cli.harness import DECODE, TINY, TINY_ONNX

DSL = "model m(batch = 1, seq = 1)\n"


def make(folder: Path) -> None:
    """Write all files into a folder."""
    _onnx(folder)
    _texts(folder)
    _targets(folder)
    _arrays(folder)
    _plugins(folder)
    _programs(folder)


# -- ONNX -------------------------------------------------------------------------------------------------------------


def _onnx(folder: Path) -> None:
    good = Path(TINY_ONNX).read_bytes()
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "truncated.onnx").write_bytes(good[: len(good) // 2])
    (folder / "noise.onnx").write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 4096, np.uint8)))
    (folder / "text.onnx").write_text("this is no model")
    _save(folder / "unsupported.onnx", [helper.make_node("Det", ["x"], ["y"], "my_det")])
    _save(folder / "foreign.onnx", [helper.make_node("Magic", ["x"], ["y"], "spell", domain="com.wizard")])
    _save(folder / "undefined.onnx", [helper.make_node("Relu", ["nowhere"], ["y"], "lost")])
    cycle = [helper.make_node("Add", ["x", "b"], ["a"], "one"), helper.make_node("Relu", ["a"], ["b"], "two")]
    _save(folder / "cycle.onnx", [*cycle, helper.make_node("Relu", ["b"], ["y"], "three")])
    _save(folder / "mismatch.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], weight=(7, 5))
    _save(folder / "unbound.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"], "product")], weight=(4, 4))
    _save(
        folder / "huge.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        weight=(4, 1 << 40),
        data=False,
    )
    _save(folder / "attribute.onnx", [helper.make_node("Transpose", ["x"], ["y"], "turn", perm=[0, 7])])
    depends = [helper.make_node("NonZero", ["x"], ["y"], "where")]
    _save(folder / "depends.onnx", depends, kind=TensorProto.INT64)
    _external(folder / "moved.onnx", "weights.bin")
    _external(folder / "escape.onnx", "../../../../etc/passwd")


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    weight: tuple[int, ...] | None = None,
    kind: int = TensorProto.FLOAT,
    data: bool = True,
) -> None:
    graph = helper.make_graph(
        nodes,
        "bad",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", kind, None)],
    )
    if weight is not None:
        tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=weight)
        if data:
            tensor.raw_data = np.zeros(weight, np.float32).tobytes()
        graph.initializer.append(tensor)
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


def _external(path: Path, location: str) -> None:
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=(4, 4), data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "far",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [tensor],
    )
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())


# -- texts ------------------------------------------------------------------------------------------------------------


def _texts(folder: Path) -> None:
    texts = {
        "syntax.pimc": DSL + "let y = 2 *\n",
        "channels.pimc": DSL
        + "input x: f16[batch, 4]\nweight w: f16[4, 5]\n"
        + '@engine("pim", channels = [31, 32])\noutput y = x @ w\n',
        "name.pimc": DSL + "input x: f16[batch, 4]\noutput y = relu(z)\n",
        "types.pimc": DSL + "input x: f16[batch, 4]\nweight w: f16[5, 4]\noutput y = x @ w\n",
        "syntax.pimir": "graph g(%x: f32[4]) {\n  %y = relu(%x : f32[4]\n  return %y\n}\n",
        "op.pimir": "graph g(%x: f32[4]) {\n  %y = rleu(%x) : f32[4]\n  return %y\n}\n",
        "type.pimir": "graph g(%x: f32[4]) {\n  %y = relu(%x) : f32[5]\n  return %y\n}\n",
        "neither.txt": "hello\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "latin.pimc").write_bytes(b"model m(batch = 1)\n# \xe9\n")


def _targets(folder: Path) -> None:
    texts = {
        "key.yaml": "base: npu\nname: mine\ndram:\n  chanels: 4\n",
        "unit.yaml": "base: npu\nname: mine\ndma:\n  latency: 12kg\n",
        "twice.yaml": "base: npu\nname: mine\nname: yours\n",
        "lacks.yaml": "name: mine\nstorage: f16\n",
        "yaml.yaml": "base: [npu\n",
        "base.yaml": "base: nup\nname: mine\n",
        "loop.yaml": "base: loop.yaml\nname: mine\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


# -- arrays -----------------------------------------------------------------------------------------------------------


def _arrays(folder: Path) -> None:
    with np.load(DECODE) as archive:
        good = dict(archive)
    (folder / "broken.npz").write_bytes(Path(DECODE).read_bytes()[:1500])
    (folder / "text.npz").write_text("no archive")
    np.save(folder / "alone.npy", np.zeros(3))
    shutil.move(folder / "alone.npy", folder / "alone.npz")
    np.savez(folder / "prefix.npz", input_ids=good["in:input_ids"])
    np.savez(folder / "nothing.npz")
    np.savez(folder / "objects.npz", **{"in:input_ids": np.array([{}], dtype=object)}, allow_pickle=True)
    _changed(folder / "unknown.npz", good, {"in:inptu_ids": good["in:input_ids"]})
    _changed(folder / "shape.npz", good, {"in:input_ids": np.zeros((3, 1, 1), np.int64)})
    _changed(folder / "extent.npz", good, {"in:input_ids": np.zeros((7, 1), np.int64)})
    _changed(folder / "dtype.npz", good, {"in:input_ids": good["in:input_ids"].astype(np.float32)})
    _changed(folder / "complex.npz", good, {"in:input_ids": good["in:input_ids"].astype(np.complex64)})
    lacking = {k: v for k, v in good.items() if k != "in:past_key_values.0.key"}
    np.savez(folder / "lacking.npz", **lacking)
    (folder / "promise.npz").write_bytes(_promising())


def _changed(path: Path, good: dict[str, np.ndarray], changes: dict[str, np.ndarray]) -> None:
    np.savez(path, allow_pickle=False, **{**good, **changes})


def _promising() -> bytes:
    """An array whose header promises more than any machine has."""
    member, archive = io.BytesIO(), io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": (1 << 50, 4)}
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("in:input_ids.npy", member.getvalue() + b"\0" * 16)
    return archive.getvalue()


# -- plug-ins ---------------------------------------------------------------------------------------------------------

PASS = """
from dataclasses import dataclass
from pimc import {imports}

@dataclass(frozen=True)
class Mine(Pass):
    \"\"\"Is wrong.\"\"\"
    name = "mine"
    before = GraphStage.TAGGED
    def run(self, graph, rewriter, context):
        {body}
"""


def _plugins(folder: Path) -> None:
    imports = "GraphStage, Pass, Placement"
    somewhere = 'rewriter.set_fact(graph.order()[0], Placement("nowhere", "I say so"))'
    unequal = "rewriter.set_operand(graph.order()[-1], 0, graph.inputs[0])"
    texts = {
        "raises.py": PASS.format(imports=imports, body='raise KeyError("oops")'),
        "syntax.py": "def broken(:\n",
        "import.py": "import no_such_module\n",
        "nothing.py": "x = 1\n",
        "placed.py": PASS.format(imports=imports, body=somewhere),
        "types.py": PASS.format(imports=imports, body=unequal),
        "exits.py": "import sys\nsys.exit(0)\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


# -- programs ---------------------------------------------------------------------------------------------------------


def _programs(folder: Path) -> None:
    good = folder / "good.pimprog"
    _run("compile", TINY, "-t", "npu", "-q", "-o", str(good))
    _run("disasm", str(good), "-o", str(folder / "good.pimasm"))
    data = good.read_bytes()
    (folder / "empty.pimprog").write_bytes(b"")
    (folder / "truncated.pimprog").write_bytes(data[:-100])
    (folder / "longer.pimprog").write_bytes(data + b"x")
    (folder / "flipped.pimprog").write_bytes(data[:5000] + bytes([data[5000] ^ 1]) + data[5001:])
    (folder / "version.pimprog").write_bytes(data[:8] + b"\x09" + data[9:])
    text = (folder / "good.pimasm").read_text()
    (folder / "mnemonic.pimasm").write_text(text.replace("SIGNAL", "SINGAL", 1))
    (folder / "operand.pimasm").write_text(text.replace("semaphore=", "semafore=", 1))
    (folder / "cut.pimasm").write_text(text[: text.rindex("}")])
    deadlock = "\n".join(line for line in text.split("\n") if "SIGNAL" not in line)
    (folder / "deadlock.pimasm").write_text(deadlock)
    (folder / "slow.pimasm").write_text(re.sub(r'"latency": "[^"]*"', '"latency": "1e99999s"', text, count=1))


def _run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0, arguments
