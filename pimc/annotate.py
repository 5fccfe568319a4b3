"""ONNX models with what became of each node as metadata, which Netron shows beside the node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from pimc.driver import Result
from pimc.frontends.onnx_model import read_onnx
from pimc.ir.diagnostics import Kind, fail
from pimc.ir.source import NodeSource, roots
from pimc.sim.report import OpReport, Report

IR_VERSION = 10
"""The first version of ONNX's IR whose nodes have metadata."""
PREFIX = "pimc."


def annotated(model: str | Path, result: Result) -> bytes:
    """The model's file with the result of its simulated compilation: of every node the ops that it became.

    A node that became several ops names them all; an op made of several nodes is named, with all it takes, at each of
    them. Weights outside of the file stay where they are, and are looked for beside the new one.
    Raises CompileError (UNAVAILABLE) where the model is no ONNX file; otherwise as reading it does.
    """
    assert result.report is not None
    if Path(model).suffix.lower() != ".onnx":
        raise fail(Kind.UNAVAILABLE, f"{model} is no .onnx file: there are no nodes to annotate")
    proto = read_onnx(model).proto
    found = _ops_of_nodes(result)
    clock = result.report.cycles / result.report.seconds if result.report.seconds else 0.0
    for node in proto.graph.node:
        ops = found.get(node.name or next(filter(None, node.output), ""), [])
        _put(node, dict(_of_node(ops, clock)))
    _put(proto, dict(_of_model(result.report)))
    proto.ir_version = max(proto.ir_version, IR_VERSION)
    return bytes(proto.SerializeToString(deterministic=True))


def _ops_of_nodes(result: Result) -> Mapping[str, list[OpReport]]:
    """What each node of the file became, by the node's name."""
    assert result.report is not None
    reports = {op.name: op for op in result.report.ops}
    found: dict[str, list[OpReport]] = defaultdict(list)
    for node in result.graph.order():
        for root in roots(node.source):
            if isinstance(root, NodeSource) and node.name in reports:
                found[root.node].append(reports[node.name])
    return found


def _of_node(ops: list[OpReport], clock: float) -> Iterator[tuple[str, str]]:
    if not ops:
        yield "engine", "none: it was computed before the run, or is a part of nothing that is left"
        return
    for name, values in (
        ("op", [op.name for op in ops]),
        ("kind", [op.op for op in ops]),
        ("engine", [op.engine for op in ops]),
        ("phase", [op.phase for op in ops]),
        ("nature", [op.nature for op in ops]),
        ("reason", [op.reason for op in ops]),
    ):
        yield name, ", ".join(dict.fromkeys(v for v in values if v))
    seconds = sum(op.seconds for op in ops)
    yield "cycles", str(round(seconds * clock))
    yield "seconds", f"{seconds:.6g}"
    yield "bound_share", f"{sum(op.bound_seconds for op in ops) / seconds:.3f}" if seconds else "1"


def _of_model(report: Report) -> Iterator[tuple[str, str]]:
    yield "target", report.target
    yield "target_hash", report.target_hash
    yield "phase", report.phase
    yield "dims", " ".join(f"{name}={size}" for name, size in report.dims.items())
    yield "cycles", str(report.cycles)
    yield "seconds", f"{report.seconds:.6g}"
    yield "command", report.command
    yield "version", report.pimc


def _put(holder: onnx.NodeProto | onnx.ModelProto, given: Mapping[str, str]) -> None:
    """Metadata of ours in place of what an earlier run left."""
    kept = [entry for entry in holder.metadata_props if not entry.key.startswith(PREFIX)]
    kept = [onnx.StringStringEntryProto(key=entry.key, value=entry.value) for entry in kept]
    del holder.metadata_props[:]
    holder.metadata_props.extend(kept)
    for name, value in given.items():
        holder.metadata_props.add(key=PREFIX + name, value=value.encode("utf-8", "replace").decode())
