"""ONNX models as graphs: inputs with symbolic dimensions, weights as lazily read contents, one node for each node.

Types come from the type rules of our ops. Where a rule needs contents that nobody knows before dimensions are bound
(the target of a reshape computed from shapes), ONNX's own shape inference gives the type, else fresh symbols stand
for the dimensions; binding and folding find the real ones later.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

import pimc.ir.ops  # noqa: F401  (declares the ops)
from pimc.frontends.onnx_infer import ResultTypes
from pimc.frontends.onnx_model import Initializer, OnnxFile, dtype_name, dtype_of, missing_data, read_onnx, read_tensor
from pimc.frontends.onnx_ops import (
    Call,
    DataDependent,
    Given,
    OnnxNode,
    Unsupported,
    check_supported,
    convert,
    decode_attributes,
)
from pimc.frontends.onnx_prepare import inline_functions, ordered_nodes
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import REGISTRY, Attribute, TypeRuleError
from pimc.ir.source import NodeSource
from pimc.ir.types import Dim, DType, Sym, TensorType, parse_dim
from pimc.ir.weights import Missing

SMALL = 1024
"""Float initializers of at most so many elements are constants: scalars, axes, norms; bigger ones are weights."""

KNOWN_TYPES = frozenset({DType.I64, DType.I32, DType.BOOL})
"""Initializers of these types steer shapes, positions and masks; they are constants up to `KNOWN` elements."""

KNOWN = 2**24

LARGEST_DIM = 2**31 - 1


def import_onnx(path: str | Path, *, shapes_only: bool = False) -> Graph:
    """The graph of an ONNX model file (`-`: stdin).

    With `shapes_only`, external data may be missing. Raises CompileError: FILE_MISSING, MODEL_BROKEN, WEIGHT_MISSING,
    OP_UNSUPPORTED and DATA_DEPENDENT (one error for all such nodes), TYPE, NAME_TWICE, GRAPH, DIM_BAD.
    """
    return import_file(read_onnx(path, shapes_only=shapes_only))


def import_file(file: OnnxFile) -> Graph:
    """The graph of a model file that has been read."""
    return _Importer(inline_functions(file)).run()


class _Importer:
    def __init__(self, file: OnnxFile) -> None:
        self.file = file
        self.proto = file.proto.graph
        self.graph = Graph(_identifier(self.proto.name) or _identifier(Path(file.name).stem) or "model")
        self.rewriter = Rewriter(self.graph)
        self.values: dict[str, Value] = {}
        self.opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in file.proto.opset_import}
        self.problems: list[Diagnostic] = []
        self.inferred = ResultTypes(file)
        self.fresh = 0
        self.data: set[Value] = set()
        """Values that depend on the contents of inputs, not only on their shapes."""

    def run(self) -> Graph:
        if not self.opsets:
            raise fail(Kind.MODEL_BROKEN, f"{self.file.name} does not say which opset its ops are of")
        if self.proto.sparse_initializer:
            raise fail(Kind.OP_UNSUPPORTED, f"{self.file.name} has sparse weights", help="export them dense")
        self._add_inputs()
        self._add_initializers()
        for node in ordered_nodes(self.file, self.values):
            self._add_node(node)
        if self.problems:
            raise CompileError(self.problems)
        self._add_outputs()
        self.rewriter.remove_dead()
        for made in self.graph.order():
            if made.op.name == "ms_group_query_attention":
                self._default_head_size(made)
        return self.graph

    # -- values without a node ------------------------------------------------------------------------------------

    def _define(self, name: str, value: Value) -> None:
        if name in self.values:
            raise fail(Kind.NAME_TWICE, f"two values are called '{name}'", self.file.source(name))
        self.values[name] = value

    def _add_inputs(self) -> None:
        stored = {t.name for t in self.proto.initializer}
        for info in self.proto.input:
            if info.name not in stored:
                source = self.file.source(info.name, "input")
                value = self.rewriter.input(info.name, self._input_type(info), source=source)
                self._define(info.name, value)
                self.data.add(value)

    def _input_type(self, info: onnx.ValueInfoProto) -> TensorType:
        source = self.file.source(info.name, "input")
        kind = info.type.WhichOneof("value")
        if kind != "tensor_type":
            given = (kind or "no type").removesuffix("_type")
            raise fail(Kind.OP_UNSUPPORTED, f"input '{info.name}' is a {given}; pimc takes tensors", source)
        dtype = dtype_of(info.type.tensor_type.elem_type)
        if dtype is None:
            given = dtype_name(info.type.tensor_type.elem_type)
            raise fail(Kind.OP_UNSUPPORTED, f"input '{info.name}' has elements of type {given}", source)
        if not info.type.tensor_type.HasField("shape"):
            help = "export the model with shapes; dimensions may be symbolic"
            raise fail(Kind.MODEL_BROKEN, f"input '{info.name}' has no shape", source, help=help)
        dims = [self._input_dim(info.name, i, d) for i, d in enumerate(info.type.tensor_type.shape.dim)]
        return TensorType(dtype, tuple(dims))

    def _input_dim(self, name: str, axis: int, dim: onnx.TensorShapeProto.Dimension) -> Dim:
        if dim.HasField("dim_value") and dim.dim_value >= 0:
            if dim.dim_value > LARGEST_DIM:
                raise fail(
                    Kind.DIM_BAD,
                    f"dimension {axis} of input '{name}' is {dim.dim_value}; the largest is {LARGEST_DIM}",
                    self.file.source(name, "input"),
                )
            return dim.dim_value
        return _symbolic(dim.dim_param) if dim.dim_param else Sym.named(f"{_identifier(name)}_dim{axis}")

    def _add_initializers(self) -> None:
        read = [read_tensor(self.file, tensor) for tensor in self.proto.initializer]
        missing = None if self.file.shapes_only else missing_data(read)
        if missing is not None:
            raise missing
        for initializer in read:
            self._define(initializer.name, self._weight(initializer.name, initializer))

    def _weight(self, name: str, initializer: Initializer) -> Value:
        source = self.file.source(name, "initializer")
        limit = KNOWN if initializer.dtype in KNOWN_TYPES else SMALL
        ours = initializer.dtype not in (DType.I4, DType.U4)
        if ours and initializer.elements <= limit and not isinstance(initializer.contents, Missing):
            return self.rewriter.constant(name, np.array(initializer.contents.array()), source=source)
        return self.rewriter.weight(
            name, TensorType(initializer.dtype, initializer.shape), initializer.contents, source=source
        )

    # -- nodes ----------------------------------------------------------------------------------------------------

    def _add_node(self, proto: onnx.NodeProto) -> None:
        source = self._source(proto)
        domain = "" if proto.domain == "ai.onnx" else proto.domain
        try:
            if proto.op_type == "Constant" and not domain:
                attributes = decode_attributes(self.file, proto)
                self._define(proto.output[0], self._constant(proto.output[0], attributes))
                return
            check_supported(proto.op_type, domain)
            if any(name not in self.values for name in proto.input if name):
                return  # a node before it was refused
            attributes = decode_attributes(self.file, proto)
            node = OnnxNode(
                proto.op_type,
                domain,
                self.opsets.get(domain, 1),
                tuple(self.values[name] if name else None for name in proto.input),
                tuple(proto.output),
                attributes,
            )
            self._add_call(node, convert(node), source)
        except Unsupported as problem:
            self._refuse(proto, problem)
        except CompileError as error:
            raise CompileError([d if d.source else replace(d, source=source) for d in error.diagnostics]) from error

    def _constant(self, name: str, attributes: Mapping[str, Attribute | Initializer]) -> Value:
        if len(attributes) != 1:
            raise Unsupported("a constant without a value")
        (kind, value), *_ = attributes.items()
        if isinstance(value, Initializer):
            return self._weight(name, value)
        dtype = {"value_int": np.int64, "value_ints": np.int64, "value_float": np.float32, "value_floats": np.float32}
        if kind not in dtype:
            raise Unsupported(f"a constant given as {kind}")
        return self.rewriter.constant(name, np.asarray(value, dtype[kind]), source=self.file.source(name, "Constant"))

    def _add_call(self, node: OnnxNode, call: Call, source: NodeSource) -> None:
        operands = [self._operand(node, given) for given in call.operands]
        while operands and operands[-1] is None:
            operands.pop()
        op = REGISTRY[call.op]
        depends = call.op not in ("shape", "size") and any(v in self.data for v in operands if v is not None)
        if call.op == "non_zero" and depends:
            raise DataDependent("the shape of its result depends on data")
        types = [v.type if v is not None else None for v in operands]
        try:
            found: Sequence[TensorType] = op.infer(types, call.attributes)
        except TypeRuleError as error:
            # A misfit of static types is real; what symbols seem to say may be mended by binding them.
            if all(t is None or t.is_static for t in types) and self.inferred.is_final(error):
                self.rewriter.add(op, operands, call.attributes, source=source)
            found = self._guess(node, call, types, str(error))
        extra = [name for name in node.outputs[len(found) :] if name]
        if extra:
            raise Unsupported(f"its output '{extra[0]}' is not computed by pimc's {call.op}")
        names = [name or f"{node.outputs[0]}.{i}" for i, name in enumerate(node.outputs)]
        made = self.rewriter.add(op, operands, call.attributes, names=names, source=source, types=found)
        if depends:
            self.data.update(made.results)
        for name, result in zip(node.outputs, made.results, strict=False):
            if name:
                self._define(name, result)

    def _operand(self, node: OnnxNode, given: Given) -> Value | None:
        if given is None or isinstance(given, Value):
            return given
        return self.rewriter.constant(f"{node.outputs[0]}.operand", given, source=self.file.source(node.outputs[0]))

    def _guess(
        self, node: OnnxNode, call: Call, types: Sequence[TensorType | None], why: str
    ) -> tuple[TensorType, ...]:
        """Types of results that our rules cannot tell before dimensions are bound."""
        found = []
        for index, name in enumerate(node.outputs):
            guess = self.inferred.of(name) if name else None
            if guess is None:
                guess = self.inferred.by_rank(call.op, types, index)
            if guess is None:
                raise DataDependent(f"the shape of its result is not known: {why}")
            dtype, dims = guess
            found.append(TensorType(dtype, tuple(self._fresh() if d is None else _dim(d) for d in dims)))
        return tuple(found)

    def _fresh(self) -> Dim:
        self.fresh += 1
        return Sym.named(f"unknown_{self.fresh}")

    def _default_head_size(self, node: Node) -> None:
        """Exporters leave the head size of caches symbolic, though the projections tell it."""
        query, key, _, past = node.operands[:4]
        heads, kv_heads = node.attribute("num_heads"), node.attribute("kv_num_heads")
        width = query.type.shape[-1] if query is not None else None
        if past is None or not isinstance(heads, int) or not isinstance(kv_heads, int) or not isinstance(width, int):
            return
        size = past.type.shape[-1]
        if isinstance(size, Sym) and len(size.names) == 1:
            count = heads if key is not None else heads + 2 * kv_heads
            self.graph.defaults.setdefault(str(size), width // count)

    # -- what cannot be imported ----------------------------------------------------------------------------------

    def _refuse(self, proto: onnx.NodeProto, why: Unsupported) -> None:
        name = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}::{proto.op_type}"
        source = self._source(proto)
        if isinstance(why, DataDependent):
            message = f"{name} makes a tensor whose shape depends on data"
            help = "export mixtures of experts with all experts computed, e.g. experts_implementation='batched_mm'"
            self.problems.append(Diagnostic(Kind.DATA_DEPENDENT, message, source, (str(why),), help))
        else:
            self.problems.append(Diagnostic(Kind.OP_UNSUPPORTED, f"{name} is not supported: {why}", source))

    def _source(self, proto: onnx.NodeProto) -> NodeSource:
        return self.file.source(proto.name or next(filter(None, proto.output), ""), proto.op_type)

    def _add_outputs(self) -> None:
        seen: set[str] = set()
        for info in self.proto.output:
            if info.name not in self.values:
                source = self.file.source(info.name, "output")
                raise fail(Kind.MODEL_BROKEN, f"no node makes the output '{info.name}'", source)
            if info.name in seen:
                source = self.file.source(info.name, "output")
                raise fail(Kind.NAME_TWICE, f"two outputs are called '{info.name}'", source)
            seen.add(info.name)
            self.rewriter.output(info.name, self.values[info.name])


def _symbolic(text: str) -> Dim:
    """A dimension from the model's name for it; names that are no expressions become identifiers."""
    try:
        return parse_dim(text)
    except ValueError:
        return Sym.named(_identifier(text) or "dim")


def _dim(given: int | str) -> Dim:
    return _symbolic(given) if isinstance(given, str) else given


def _identifier(text: str) -> str:
    cleaned = re.sub(r"\W+", "_", text).strip("_")
    return f"d{cleaned}" if cleaned[:1].isdigit() else cleaned
