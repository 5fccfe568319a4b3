"""Models far larger than this machine's memory compile from shapes, and nothing reads what need not be read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from onnx import TensorProto, helper

LAYERS, WIDTH, INNER = 4, 65536, 102400
WEIGHT_BYTES = LAYERS * 2 * WIDTH * INNER * 2
"""Over 100 GB of float16."""
MOST_MEMORY = 1 << 30

CHILD = """
import json, resource, sys
from pathlib import Path
from pimc.cli import main
def peak():  # ru_maxrss also counts the process that this one was forked from
    known = Path("/proc/self/status")
    if not known.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return next(int(line.split()[1]) for line in known.read_text().splitlines() if line.startswith("VmHWM")) * 1024
try:
    main(sys.argv[1:])
except SystemExit as ended:
    status = ended.code
print(json.dumps([status, peak()]), file=sys.stderr)
"""


def _model(folder: Path) -> Path:
    """Perceptrons whose weights lie in one external file, which is not made here."""
    nodes, weights, offset, x = [], [], 0, "x"
    for layer in range(LAYERS):
        for part, shape in (("up", (WIDTH, INNER)), ("down", (INNER, WIDTH))):
            tensor = TensorProto(name=f"w{layer}.{part}", data_type=TensorProto.FLOAT16, dims=shape)
            tensor.data_location = TensorProto.EXTERNAL
            length = 2 * shape[0] * shape[1]
            for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
            offset += length
            weights.append(tensor)
            y = f"y{layer}.{part}"
            nodes.append(helper.make_node("MatMul", [x, tensor.name], [y]))
            x = y
            if part == "up":
                x = f"a{layer}"
                nodes.append(helper.make_node("Relu", [y], [x]))
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT16, ["batch", WIDTH]) for n in ("x", x)]
    graph = helper.make_graph(nodes, "large", ends[:1], ends[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    path = folder / "large.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def _compile(*arguments: str) -> tuple[int, int, str]:
    """Exit status, peak memory in bytes, and stdout of a compilation in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD, "compile", *arguments], capture_output=True, text=True, check=False
    )
    status, memory = json.loads(done.stderr.strip().splitlines()[-1])
    return status, memory, done.stdout


@pytest.mark.parametrize("target", ["npu", "neupims"])
def test_missing_weights_of_a_hundred_gigabytes(target: str, tmp_path: Path) -> None:
    assert WEIGHT_BYTES > 100e9
    path = str(_model(tmp_path))
    room = ("--dim", "batch=1", "--set", "dram.rows=131072")
    status, memory, said = _compile(path, "-t", target, *room, "--shapes-only", "--json")
    assert status == 0
    assert memory < MOST_MEMORY
    assert sum(op["bytes"] for op in json.loads(said)["ops"]) > WEIGHT_BYTES
    status, _, said = _compile(path, "-t", target, *room)
    assert (status, said) == (1, "")


def test_weights_in_a_file_are_not_read_to_compile(tmp_path: Path) -> None:
    path = _model(tmp_path)
    with (tmp_path / "weights.bin").open("wb") as file:
        file.truncate(WEIGHT_BYTES)  # sparse
    program = tmp_path / "large.pimprog"
    status, memory, _ = _compile(
        str(path), "-t", "npu", "--dim", "batch=1", "--set", "dram.rows=131072", "-q", "-o", str(program)
    )
    assert status == 0
    assert memory < MOST_MEMORY
    assert program.stat().st_size < 1 << 20
