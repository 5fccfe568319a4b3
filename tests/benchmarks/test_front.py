"""How long the passes before placement take on a deep decoder as torch.onnx writes it: `make benchmark`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pytest_benchmark.fixture import BenchmarkFixture

from pimc.frontends.onnx_import import import_onnx
from pimc.ir.graph import Graph
from pimc.ir.op import Array
from pimc.passes.manager import PassContext, PassManager
from pimc.passes.pipeline import FRONT, default_pipeline

pytestmark = pytest.mark.benchmark

LAYERS, WIDTH, HEADS, SIZE, PAST = 96, 32, 4, 8, 15
# One layer of a decoder with everything spelled out; @ is the layer, and `x@` what it reads.
LAYER = """
Mul x@,x@ -> sq@ | ReduceMean sq@,last -> me@ | Add me@,eps -> ve@ | Sqrt ve@ -> rt@ | Reciprocal rt@ -> in@
Mul x@,in@ -> no@ | Mul no@,n1@ -> h@
MatMul h@,wq@ -> q@ | Reshape q@,heads -> qh@ | Transpose qh@ -> qt@ : 0,2,1,3
MatMul h@,wk@ -> k@ | Reshape k@,heads -> kh@ | Transpose kh@ -> kt@ : 0,2,1,3
MatMul h@,wv@ -> v@ | Reshape v@,heads -> vh@ | Transpose vh@ -> vt@ : 0,2,1,3
Mul qt@,cos -> qc@ | Slice qt@,zero,mid,three -> ql@ | Slice qt@,mid,end,three -> qu@ | Neg qu@ -> qn@
Concat qn@,ql@ -> qr@ : -1 | Mul qr@,sin -> qs@ | Add qc@,qs@ -> qo@
Mul kt@,cos -> kc@ | Slice kt@,zero,mid,three -> kl@ | Slice kt@,mid,end,three -> ku@ | Neg ku@ -> kn@
Concat kn@,kl@ -> kr@ : -1 | Mul kr@,sin -> ks@ | Add kc@,ks@ -> ko@
Concat pk@,ko@ -> tk@ : 2 | Concat pv@,vt@ -> tv@ : 2 | Transpose tk@ -> kT@ : 0,1,3,2
MatMul qo@,kT@ -> sc@ | Mul sc@,scale -> ss@ | Softmax ss@ -> pr@ | MatMul pr@,tv@ -> co@
Transpose co@ -> ct@ : 0,2,1,3 | Reshape ct@,joined -> cj@ | MatMul cj@,wo@ -> ao@ | Add x@,ao@ -> y@
Mul y@,y@ -> sr@ | ReduceMean sr@,last -> mf@ | Add mf@,eps -> vf@ | Sqrt vf@ -> rf@ | Reciprocal rf@ -> jf@
Mul y@,jf@ -> nf@ | Mul nf@,n2@ -> f@
MatMul f@,wg@ -> g@ | Sigmoid g@ -> gs@ | Mul g@,gs@ -> ga@ | MatMul f@,wu@ -> u@ | Mul ga@,u@ -> gu@
MatMul gu@,wd@ -> d@ | Add y@,d@ -> x+
"""


def decoder(path: Path) -> int:
    """Write the model; the number of its nodes."""
    rng = np.random.default_rng(0)
    table = np.concatenate([rng.standard_normal((1, 1, 1, SIZE // 2)).astype(np.float32)] * 2, axis=-1)
    constants: dict[str, Array] = {
        "last": np.array([-1]), "eps": np.array(1e-6, np.float32), "heads": np.array([1, 1, HEADS, SIZE]),
        "cos": np.cos(table), "sin": np.sin(table), "zero": np.array([0]), "mid": np.array([SIZE // 2]),
        "end": np.array([SIZE]), "three": np.array([3]), "scale": np.array(SIZE**-0.5, np.float32),
        "joined": np.array([1, 1, WIDTH]),
    }  # fmt: skip
    nodes, inputs, outputs = [], [("x0", [1, 1, WIDTH])], [(f"x{LAYERS}", [1, 1, WIDTH])]
    for layer in range(LAYERS):
        text = LAYER.replace("x+", f"x{layer + 1}").replace("@", str(layer))
        for step in text.replace("\n", " | ").split(" | "):
            if step.strip():
                nodes.append(_node(step.strip()))
        for w in ("wq", "wk", "wv", "wo", "wg", "wu", "wd"):
            constants[f"{w}{layer}"] = rng.standard_normal((WIDTH, WIDTH)).astype(np.float32)
        for n in ("n1", "n2"):
            constants[f"{n}{layer}"] = np.ones(WIDTH, np.float32)
        inputs += [(f"p{c}{layer}", [1, HEADS, PAST, SIZE]) for c in "kv"]
        outputs += [(f"t{c}{layer}", [1, HEADS, PAST + 1, SIZE]) for c in "kv"]
    ins, outs = ([helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in g] for g in (inputs, outputs))
    weights = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "deep", ins, outs, weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)]), path)
    return len(nodes)


def _node(step: str) -> onnx.NodeProto:
    called, _, numbers = step.partition(" : ")
    op, operands, _, result = called.split()
    given = [int(n) for n in numbers.split(",")] if numbers else []
    attributes = {"Transpose": {"perm": given}, "Concat": {"axis": given[0] if given else 0}}.get(op, {})
    return helper.make_node(op, operands.split(","), [result], result, **attributes)


def test_passes_before_placement(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    count = decoder(tmp_path / "deep.onnx")
    assert count >= 4000

    def front() -> Graph:
        graph = import_onnx(tmp_path / "deep.onnx")
        PassManager().run(default_pipeline(names=FRONT), graph, PassContext())
        return graph

    found = Counter(node.op.name for node in benchmark.pedantic(front, rounds=3).order())
    wanted = {"attention": 1, "rotary": 2, "cache_append": 2, "rms_norm": 2, "silu": 1}
    assert {op: found[op] for op in wanted} == {op: n * LAYERS for op, n in wanted.items()}
    assert "softmax" not in found
