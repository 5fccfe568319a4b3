"""Getting a model ready for import: local functions inlined, nodes put into an order in which values exist."""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator
from dataclasses import replace

import onnx
import onnx.inliner

import pimc.ir.ops  # noqa: F401  (declares the ops)
from pimc.frontends.onnx_model import OnnxFile
from pimc.frontends.onnx_ops import is_imported, is_standard
from pimc.ir.diagnostics import Kind, fail


def inline_functions(file: OnnxFile) -> OnnxFile:
    """The model with its local functions, and ONNX's own composite ops that pimc does not declare, written out."""
    model = file.proto
    if model.functions:
        try:
            model = onnx.inliner.inline_local_functions(model)
        except _INLINER_ERRORS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise fail(Kind.MODEL_BROKEN, f"the functions of {file.name} cannot be inlined: {reason}") from None
    for _ in range(_NESTED):
        wanted = {(n.domain, n.op_type) for n in model.graph.node}
        composite = [key for key in sorted(wanted) if _is_composite(model, *key)]
        if not composite:
            break
        try:
            model = _with_defaults(model, composite)
            model = onnx.inliner.inline_selected_functions(model, composite, inline_schema_functions=True)
        except _INLINER_ERRORS:
            break  # these ops stay, and are reported as unsupported
    return replace(file, proto=model)


_NESTED = 4
"""How deep composite ops are made of composite ops at most."""
_INLINER_ERRORS = (RuntimeError, ValueError, TypeError, onnx.checker.ValidationError)


def _is_composite(model: onnx.ModelProto, domain: str, op_type: str) -> bool:
    domain = "" if domain == "ai.onnx" else domain
    if not is_standard(domain) or is_imported(op_type, domain):
        return False
    schema = _schema(model, op_type, domain)
    # the stubs of onnx lack these two properties
    kinds = ("has_function", "has_context_dependent_function")
    return schema is not None and any(getattr(schema, kind) for kind in kinds)


def _schema(model: onnx.ModelProto, op_type: str, domain: str) -> onnx.defs.OpSchema | None:
    names = ("", "ai.onnx") if not domain else (domain,)
    version = max((o.version for o in model.opset_import if o.domain in names), default=1)
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return None


def _with_defaults(model: onnx.ModelProto, composite: list[tuple[str, str]]) -> onnx.ModelProto:
    """A copy in which composite nodes spell out default attributes: the inliner takes absent ones for empty."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for node in copy.graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        schema = _schema(model, node.op_type, domain) if (node.domain, node.op_type) in composite else None
        given = {a.name for a in node.attribute}
        for name, attribute in schema.attributes.items() if schema is not None else ():
            if name not in given and attribute.default_value.type != onnx.AttributeProto.UNDEFINED:
                node.attribute.append(attribute.default_value)
    return copy


def ordered_nodes(file: OnnxFile, given: Container[str]) -> Iterator[onnx.NodeProto]:
    """The nodes so that each comes after those it reads, ties in the file's order.

    Raises CompileError: NAME_TWICE for two makers of a value, MODEL_BROKEN for a value without one, GRAPH for a cycle.
    """
    nodes = list(file.proto.graph.node)
    maker: dict[str, int] = {}
    for index, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name in maker or name in given:
                where = file.source(node.name or name, node.op_type)
                raise fail(Kind.NAME_TWICE, f"two values are called '{name}'", where)
            maker[name] = index
    missing = [(n, name) for n in nodes for name in n.input if name and name not in maker and name not in given]
    if missing:
        node, name = missing[0]
        raise fail(
            Kind.MODEL_BROKEN,
            f"node '{node.name or node.op_type}' reads '{name}', which nothing makes",
            file.source(node.name or name, node.op_type),
            help="the file may be truncated",
        )
    order = _topological(nodes, maker)
    if len(order) < len(nodes):
        stuck = nodes[min(set(range(len(nodes))) - set(order))]
        name = stuck.name or stuck.output[0]
        where = file.source(name, stuck.op_type)
        raise fail(Kind.GRAPH, f"the nodes of {file.name} form a cycle through '{name}'", where)
    return (nodes[index] for index in order)


def _topological(nodes: list[onnx.NodeProto], maker: dict[str, int]) -> list[int]:
    """Indices of nodes in dependency order, as many as have one. Files are nearly always in order already."""
    waits = [len({maker[name] for name in node.input if name in maker}) for node in nodes]
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for before in {maker[name] for name in node.input if name in maker}:
            readers.setdefault(before, []).append(index)
    ready = [index for index, count in enumerate(waits) if not count]
    order: list[int] = []
    while ready:
        index = heapq.heappop(ready)
        order.append(index)
        for reader in readers.get(index, ()):
            waits[reader] -= 1
            if not waits[reader]:
                heapq.heappush(ready, reader)
    return order
