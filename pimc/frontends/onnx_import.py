"""ONNX models as graphs: inputs with symbolic dimensions, weights as lazily read contents, one node for each node.

Types come from the type rules of our ops. Where a rule needs contents that nobody knows before dimensions are bound
(the target of a reshape computed from shapes), ONNX's own shape inference gives the type, else fresh symbols stand
for the dimensions; binding and folding find the real ones later.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

import pimc.ir.ops  # noqa: F401  (declares the ops)
from pimc.frontends.onnx_check import check_opsets, check_outputs
from pimc.frontends.onnx_control import Scope, write_out
from pimc.frontends.onnx_dims import dim_of, identifier, input_type
from pimc.frontends.onnx_expand import EXPANSIONS
from pimc.frontends.onnx_infer import RESULTS, ResultTypes
from pimc.frontends.onnx_model import Initializer, OnnxFile, missing_data, read_onnx, read_tensor
from pimc.frontends.onnx_ops import (
    CONTROL_FLOW,
    Call,
    DataDependent,
    Given,
    NeedsContents,
    OnnxNode,
    Unsupported,
    check_supported,
    convert,
    decode_attributes,
)
from pimc.frontends.onnx_prepare import inline_functions, ordered_nodes
from pimc.frontends.onnx_steps import Steps
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind, fail
from pimc.ir.graph import Graph, Node, Rewriter, Value
from pimc.ir.op import REGISTRY, Array, Attribute, TypeRuleError, UnknownContents
from pimc.ir.source import NodeSource
from pimc.ir.types import Dim, DType, Sym, TensorType
from pimc.ir.weights import Missing

SMALL = 1024
"""Float initializers of at most so many elements are constants: scalars, axes, norms; bigger ones are weights."""

KNOWN_TYPES = frozenset({DType.I64, DType.I32, DType.BOOL})
"""Initializers of these types steer shapes, positions and masks; they are constants up to `KNOWN` elements."""

KNOWN = 2**24


def import_onnx(path: str | Path, *, shapes_only: bool = False, inputs: Mapping[str, Array] | None = None) -> Graph:
    """The graph of an ONNX model file (`-`: stdin).

    With `shapes_only`, external data may be missing. `inputs`: arrays by name; the contents of those inputs
    that shapes depend on (the target of a reshape, the bounds of a slice) become part of the graph, the other arrays
    say nothing. Raises CompileError: FILE_MISSING, MODEL_BROKEN, WEIGHT_MISSING, OP_UNSUPPORTED and DATA_DEPENDENT
    (one error for all such nodes), TYPE, NAME_TWICE, GRAPH, DIM_BAD.
    """
    return import_file(read_onnx(path, shapes_only=shapes_only), inputs)


def import_file(file: OnnxFile, inputs: Mapping[str, Array] | None = None) -> Graph:
    """The graph of a model file that has been read; `inputs` as for `import_onnx`."""
    check_opsets(file)
    ready = inline_functions(file)
    settled: dict[str, Array] = {}
    while True:
        importer = _Importer(ready, settled)
        try:
            return importer.run({name for name in inputs or () if name not in settled})
        except _ShapesDependOn as found:
            settled |= {name: np.asarray((inputs or {})[name]) for name in found.names}


class _ShapesDependOn(Exception):
    """Shapes depend on the contents of these inputs, which are at hand."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.names = tuple(names)


class _Written(Steps):
    """One node, written out as several."""

    def __init__(self, importer: _Importer, node: OnnxNode, source: NodeSource) -> None:
        self.importer, self.node, self.source = importer, node, source
        self.made: list[Value] = []

    def calls(self, op: str, *operands: Given, **attributes: Attribute) -> tuple[Value, ...]:
        name = f"{next(filter(None, self.node.outputs))}.{len(self.made)}"
        inner = replace(self.node, outputs=(name,))
        results = self.importer._call(inner, Call(op, operands, attributes), self.source).results
        self.made += results
        return results


class _Scope(_Written, Scope):
    """What the body of a node of control flow reads and makes."""

    def value(self, name: str) -> Value:
        if name not in self.importer.values:
            raise Unsupported(f"its body reads '{name}', which nothing makes")
        return self.importer.values[name]

    def define(self, name: str, value: Value) -> None:
        self.importer._define(name, value)

    def add(self, node: onnx.NodeProto) -> bool:
        before = len(self.importer.problems)
        self.importer._add_node(node)
        return len(self.importer.problems) == before


class _Importer:
    def __init__(self, file: OnnxFile, settled: Mapping[str, Array]) -> None:
        self.file = file
        self.settled = settled
        """contents of inputs that shapes depend on"""
        self.at_hand: set[str] = set()
        """other inputs whose contents can be had"""
        self.proto = file.proto.graph
        self.graph = Graph(identifier(self.proto.name) or identifier(Path(file.name).stem) or "model")
        self.rewriter = Rewriter(self.graph)
        self.values: dict[str, Value] = {}
        self.opsets = {("" if o.domain == "ai.onnx" else o.domain): o.version for o in file.proto.opset_import}
        self.problems: list[Diagnostic] = []
        self.inferred = ResultTypes(file)
        self.fresh = 0
        self.data: set[Value] = set()
        """Values that depend on the contents of inputs, not only on their shapes."""
        self.steering: dict[Value, frozenset[str]] = {}
        """Of which inputs that may steer shapes (vectors and numbers) values hold the contents."""

    def run(self, at_hand: set[str]) -> Graph:
        self.at_hand = at_hand
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
                type = input_type(self.file, info)
                if info.name in self.settled:
                    type = self._settled_type(info.name, type, source)
                value = self.rewriter.input(info.name, type, source=source)
                self._define(info.name, value)
                if type.array is None:
                    self.data.add(value)
                    if type.rank <= 1:
                        self.steering[value] = frozenset([info.name])

    def _settled_type(self, name: str, type: TensorType, source: NodeSource) -> TensorType:
        """The type of an input with the contents given for it."""
        array = self.settled[name]
        fits = array.ndim == type.rank and all(
            isinstance(d, Sym) or d == n for d, n in zip(type.shape, array.shape, strict=True)
        )
        if array.dtype != type.dtype.numpy or not fits:
            raise fail(
                Kind.INPUT_BAD, f"input '{name}' is {type}, but its array is {array.dtype}{list(array.shape)}", source
            )
        return TensorType(type.dtype, array.shape, array)

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
        if not any(proto.output):
            return  # nobody can read what it computes
        try:
            if proto.op_type == "Constant" and not domain:
                attributes = decode_attributes(self.file, proto)
                self._define(proto.output[0], self._constant(proto.output[0], attributes))
                return
            check_supported(proto.op_type, domain)
            if any(name not in self.values for name in proto.input if name):
                return  # a node before it was refused
            if proto.op_type in CONTROL_FLOW and not domain:
                self._write_out(proto, source)
                return
            attributes = decode_attributes(self.file, proto)
            node = OnnxNode(
                proto.op_type,
                domain,
                self.opsets.get(domain, 1),
                tuple(self.values[name] if name else None for name in proto.input),
                tuple(proto.output),
                attributes,
            )
            expansion = EXPANSIONS.get((domain, proto.op_type))
            steps = _Written(self, node, source)
            values = expansion(node, steps) if expansion is not None else None
            if values is None:
                self._add_call(node, convert(node), source)
            else:
                self._define_results(node, values, steps.made)
        except NeedsContents as problem:
            names = self.steering.get(problem.value, frozenset()) & self.at_hand
            if names:
                raise _ShapesDependOn(sorted(names)) from None
            self._refuse(proto, problem)
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

    def _write_out(self, proto: onnx.NodeProto, source: NodeSource) -> None:
        node = OnnxNode(proto.op_type, "", self.opsets.get("", 1), (), tuple(proto.output), {})
        scope = _Scope(self, node, source)
        values = write_out(proto, scope)
        if values is not None:
            self._define_results(node, values, scope.made)

    def _define_results(self, node: OnnxNode, values: Sequence[Value | None], made: Sequence[Value]) -> None:
        """Give the values that a node was written out as its outputs' names."""
        for index, name in enumerate(node.outputs):
            if not name:
                continue
            value = values[index] if index < len(values) else None
            if value is None:
                raise Unsupported(f"its output '{name}' is not computed by pimc")
            if value in made:
                self.rewriter.rename(value, name)
            self._define(name, value)

    def _add_call(self, node: OnnxNode, call: Call, source: NodeSource) -> None:
        for name, result in zip(node.outputs, self._call(node, call, source).results, strict=False):
            if name:
                self._define(name, result)

    def _call(self, node: OnnxNode, call: Call, source: NodeSource) -> Node:
        operands = [self._operand(node, given) for given in call.operands]
        while operands and operands[-1] is None:
            operands.pop()
        op = REGISTRY[call.op]
        depends = call.op not in ("shape", "size") and any(v in self.data for v in operands if v is not None)
        if call.op == "non_zero" and depends:
            raise DataDependent("the shape of its result depends on data")
        types = [v.type if v is not None else None for v in operands]
        try:
            op.check_call(types, call.attributes)
        except TypeRuleError:
            self.rewriter.add(op, operands, call.attributes, source=source)  # refuses it, with the reason
        try:
            found: Sequence[TensorType] = op.infer(types, call.attributes)
        except TypeRuleError as error:
            self._ask_for(error, operands, types)
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
            steering = frozenset().union(*(self.steering.get(v, ()) for v in operands if v is not None))
            if steering:
                self.steering.update(dict.fromkeys(made.results, steering))
        return made

    def _ask_for(
        self, error: TypeRuleError, operands: Sequence[Value | None], types: Sequence[TensorType | None]
    ) -> None:
        """Start again with the contents of the inputs that an operand is made of, where they can be had."""
        if isinstance(error, UnknownContents) and error.operand is not None:
            wanted = [v for v, t in zip(operands, types, strict=True) if t is error.operand]
            names = {name for v in wanted if v is not None for name in self.steering.get(v, ())}
            if names & self.at_hand:
                raise _ShapesDependOn(sorted(names & self.at_hand))

    def _operand(self, node: OnnxNode, given: Given) -> Value | None:
        if given is None or isinstance(given, Value):
            return given
        return self.rewriter.constant(f"{node.outputs[0]}.operand", given, source=self.file.source(node.outputs[0]))

    def _guess(
        self, node: OnnxNode, call: Call, types: Sequence[TensorType | None], why: str
    ) -> tuple[TensorType, ...]:
        """Types of results that our rules cannot tell before dimensions are bound."""
        found = []
        unnamed = [""] * (RESULTS.get(call.op, 1) - len(node.outputs))
        for index, name in enumerate([*node.outputs, *unnamed]):
            guess = self.inferred.of(name) if name else None
            if guess is None:
                guess = self.inferred.by_rank(call.op, types, index)
            if guess is None:
                raise DataDependent(f"the shape of its result is not known: {why}")
            dtype, dims = guess
            found.append(TensorType(dtype, tuple(self._fresh() if d is None else dim_of(d) for d in dims)))
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
            help = _WAYS_OUT.get(proto.op_type, "export the model so that it takes shapes from those of its inputs")
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
        check_outputs(self.file, self.values)


_WAYS_OUT = {
    "NonZero": "it comes of experts that each run on their own tokens, or of a boolean index: export experts with "
    "experts_implementation='batched_mm', which computes the chosen ones for every token, and write torch.where(mask, "
    "x, 0) for x[mask]",
    "Compress": "multiply by the mask, or select with torch.where, instead of leaving elements out",
    "Unique": "number all possible values instead of those that occur",
    "NonMaxSuppression": "leave the selection of boxes out of the exported model",
}
"""How a model can be exported without an op whose results have a size that depends on data."""
