"""Graphs of ops, and the only door through which they change.

A `Graph` is a directed acyclic graph of `Node`s joined by `Value`s. Reading is free; every edit goes through a
`Rewriter`, which keeps uses and edges in step, stamps where new nodes came from, and bumps `Graph.version`.
This module is the only one that touches networkx, and imports it where a question needs it: compilations ask none of
these, and start sooner by the import of a library as large as this compiler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from heapq import heappop, heappush
from itertools import pairwise
from operator import is_
from typing import TYPE_CHECKING, TypeVar, cast

from pimc.ir.diagnostics import CompileError, Diagnostic, InternalError, Kind
from pimc.ir.facts import AFTER_HOMES, Fact, Position
from pimc.ir.memory import Home
from pimc.ir.op import Attribute, OpDef, TypeRuleError
from pimc.ir.requests import Batch
from pimc.ir.source import Derived, Source
from pimc.ir.types import Sym, TensorType
from pimc.ir.weights import Contents

if TYPE_CHECKING:
    import networkx as nx

F = TypeVar("F", bound=Fact)


class Role(Enum):
    """What a value is to its graph."""

    INPUT = "input"
    CACHE = "cache"
    """An input that lives on between runs and is appended in place (keys, values)."""
    WEIGHT = "weight"
    CONSTANT = "constant"
    """Like a weight, but small and known to the compiler."""
    RESULT = "result"


@dataclass(eq=False, slots=True)
class Value:
    """A tensor: an input, a weight, or one result of a node. Identity is the object; names are unique in a graph."""

    name: str
    type: TensorType
    role: Role
    owner: Node | None = None
    index: int = 0
    contents: Contents | None = None
    source: Source | None = None
    shard: tuple[int, int] | None = None
    """(axis, count): the type is one device's share of a tensor that is split `count` ways along an axis"""

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(eq=False, slots=True)
class Node:
    """One application of an op. `uid` orders nodes by age and is never used twice in a graph."""

    uid: int
    op: OpDef
    operands: tuple[Value | None, ...]
    attributes: Mapping[str, Attribute]
    results: tuple[Value, ...] = ()
    source: Source | None = None
    facts: dict[type, Fact] = field(default_factory=dict)
    inferred: tuple[tuple[object, ...], tuple[TensorType, ...]] = field(default=((), ()), repr=False)
    """What the op's rule gave last, behind the very attributes and types that it was asked about: new ones are new
    objects."""

    @property
    def name(self) -> str:
        """The name of the first result, which names the node to users."""
        return self.results[0].name

    @property
    def result(self) -> Value:
        return self.results[0]

    def attribute(self, name: str) -> Attribute:
        """The given value of an attribute, or its default."""
        return self.attributes[name] if name in self.attributes else self.op.attributes[name]

    def fact(self, kind: type[F]) -> F | None:
        fact = self.facts.get(kind)
        return fact if isinstance(fact, kind) else None

    def with_fact(self, fact: Fact) -> Node:
        """The node as it would be with another fact; it is not part of the graph."""
        return replace(self, facts={**self.facts, type(fact): fact})

    def inputs(self) -> Iterator[Value]:
        """The operands that are given."""
        return (v for v in self.operands if v is not None)

    def weight(self) -> str:
        """The name of the only weight that the node reads, as it is or transposed; empty if there is none, or several.
        """
        names: dict[str, None] = {}
        for value in self.inputs():
            stored, _ = untransposed(value)
            if stored.role is Role.WEIGHT:
                names[stored.name] = None
        return next(iter(names)) if len(names) == 1 else ""

    def infer(self) -> tuple[TensorType, ...]:
        """The types of the results by the op's rule. Raises TypeRuleError."""
        types = [v.type if v is not None else None for v in self.operands]
        asked = (self.attributes, *types)
        known, found = self.inferred
        if len(known) != len(asked) or not all(map(is_, known, asked)):
            found = self.op.infer(types, self.attributes)
            self.inferred = asked, found
        return found

    def flops(self) -> int:
        return self.op.work(
            [v.type if v is not None else None for v in self.operands], [r.type for r in self.results], self.attributes
        )

    def __repr__(self) -> str:
        return f"%{self.name} = {self.op.name}({', '.join('%' + v.name if v else '_' for v in self.operands)})"


def untransposed(value: Value) -> tuple[Value, list[Node]]:
    """What a value is transposed from, and the transpositions, the last one first."""
    found: list[Node] = []
    while (owner := value.owner) is not None and owner.op.name == "transpose" and owner.operands[0] is not None:
        found.append(owner)
        value = owner.operands[0]
    return value, found


class Graph:
    """An op graph. `inputs`, `weights` (constants included) and `outputs` are ordered; nodes come in `order()`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.version = 0
        """Counts edits."""
        self.notes = 0
        """Those of them that only say something of nodes and values: facts and homes."""
        self.late_notes = 0
        """Those of the notes that say where values live, and what follows from that."""
        self.inputs: list[Value] = []
        self.weights: list[Value] = []
        self.outputs: list[tuple[str, Value]] = []
        self.defaults: dict[str, int] = {}
        """Values of symbolic dimensions that hold unless the user binds others."""
        self.homes: dict[Value, Home] = {}
        """Where each value lives; empty before the layout pass. Set by `Rewriter.set_home`."""
        self.batch: Batch | None = None
        """The requests that the graph is for, where they have lengths of their own. Set by `Rewriter.set_batch`."""
        self._values: dict[str, Value] = {}
        self._nodes: dict[int, Node] = {}
        self._uses: dict[Value, dict[tuple[int, int], Node]] = {}
        self._next_uid = 0
        self._order: list[Node] | None = None
        self._edges: nx.MultiDiGraph[int] | None = None
        self._outputs_read: tuple[list[tuple[str, Value]], int, Counter[Value]] | None = None

    # -- reading ------------------------------------------------------------------------------------------------

    def copy(self) -> Graph:
        """A graph of its own that says the same. Types, contents and facts are shared: they do not change."""
        made = Graph(self.name)
        mine = {value: _copied(value) for value in self._values.values()}
        for name in ("inputs", "weights"):
            setattr(made, name, [mine[value] for value in getattr(self, name)])
        made.outputs = [(name, mine[value]) for name, value in self.outputs]
        made.defaults, made.batch = dict(self.defaults), self.batch
        made.homes = {mine[value]: home for value, home in self.homes.items()}
        made._values = {name: mine[value] for name, value in self._values.items()}
        made._next_uid, made.version = self._next_uid, self.version
        made.notes, made.late_notes = self.notes, self.late_notes
        for uid, node in self._nodes.items():
            operands = tuple(None if v is None else mine[v] for v in node.operands)
            results = tuple(mine[r] for r in node.results)
            facts = dict(node.facts)
            made._nodes[uid] = twin = Node(uid, node.op, operands, node.attributes, results, node.source, facts)
            twin.inferred = node.inferred
            for result in results:
                result.owner = twin
        made._uses = {
            mine[value]: {key: made._nodes[user.uid] for key, user in users.items()}
            for value, users in self._uses.items()
            if value in mine
        }
        return made

    def order(self) -> list[Node]:
        """A snapshot of the nodes in topological order; ties go to the older node. Safe to edit while iterating."""
        if self._order is None:
            self._order = self._sorted()
        return list(self._order)

    def _sorted(self) -> list[Node]:
        by_age = [self._nodes[uid] for uid in sorted(self._nodes)]
        if all(_is_behind_operands(node) for node in by_age):
            return by_age
        waits: dict[int, int] = {}
        for node in by_age:
            owners = [v.owner.uid for v in node.operands if v is not None and v.owner is not None]
            waits[node.uid] = sum(uid in self._nodes for uid in owners)
        ready = [uid for uid, count in waits.items() if not count]  # in order of age, which makes it a heap
        found: list[Node] = []
        while ready:
            node = self._nodes[heappop(ready)]
            found.append(node)
            for result in node.results:
                for uid, _ in self._uses.get(result, ()):
                    waits[uid] -= 1
                    if not waits[uid]:
                        heappush(ready, uid)
        if len(found) < len(by_age):
            raise CompileError(Diagnostic(Kind.GRAPH, f"graph '{self.name}' has a cycle", self._cycle_source()))
        return found

    @property
    def _dag(self) -> nx.MultiDiGraph[int]:
        """The graph for networkx: nodes are uids, edges have the key (result, operand)."""
        import networkx as nx

        if self._edges is None:
            dag: nx.MultiDiGraph[int] = nx.MultiDiGraph()
            dag.add_nodes_from(self._nodes)
            for node in self._nodes.values():
                for index, value in enumerate(node.operands):
                    if value is not None and value.owner is not None:
                        dag.add_edge(value.owner.uid, node.uid, key=(value.index, index))
            self._edges = dag
        return self._edges

    def scheduled(self) -> list[Node]:
        """The nodes in the order in which a schedule emits them; topological order where there is none."""
        order = self.order()
        if all(Position in node.facts for node in order):
            positions = {node.uid: node.fact(Position) for node in order}
            order.sort(key=lambda n: p.index if (p := positions[n.uid]) is not None else 0)
        return order

    def __len__(self) -> int:
        return len(self._nodes)

    def __contains__(self, node: object) -> bool:
        return isinstance(node, Node) and self._nodes.get(node.uid) is node

    @property
    def named(self) -> Mapping[str, Value]:
        """All values, by name."""
        return self._values

    def value(self, name: str) -> Value | None:
        return self._values.get(name)

    def values(self) -> Iterator[Value]:
        yield from self.inputs
        yield from self.weights
        for node in self.order():
            yield from node.results

    def users(self, value: Value) -> list[Node]:
        """The nodes that read a value, oldest first, each once."""
        uses = self._uses.get(value)
        if not uses:
            return []
        if len(uses) == 1:
            return [*uses.values()]
        return [uses[key] for key in sorted({uid: (uid, index) for uid, index in uses}.values())]

    def uses(self, value: Value) -> Iterator[tuple[Node, int]]:
        """The nodes and numbers of the operands that read a value."""
        for (_, index), node in self._uses.get(value, {}).items():
            yield node, index

    @property
    def reads(self) -> Mapping[Value, Mapping[tuple[int, int], Node]]:
        """The nodes that are known to read each value, by their uids and the numbers of the operands."""
        return self._uses

    def use_count(self, value: Value) -> int:
        """How many operands and outputs read a value."""
        return len(self._uses.get(value, ())) + self._output_uses().get(value, 0)

    def is_output(self, value: Value) -> bool:
        return value in self._output_uses()

    def _output_uses(self) -> Mapping[Value, int]:
        known = self._outputs_read
        if known is None or known[0] is not self.outputs or known[1] != len(self.outputs):
            known = self._outputs_read = (self.outputs, len(self.outputs), Counter(v for _, v in self.outputs))
        return known[2]

    def output_names(self, value: Value) -> list[str]:
        return [name for name, v in self.outputs if v is value]

    def dims(self) -> list[str]:
        """The names of the symbolic dimensions of the inputs and weights, in order of appearance."""
        names: dict[str, None] = {}
        for value in (*self.inputs, *self.weights):
            for d in value.type.shape:
                if isinstance(d, Sym):
                    names.update(dict.fromkeys(sorted(d.names)))
        return list(names)

    def view(self) -> nx.MultiDiGraph[int]:
        """A frozen networkx copy: nodes are uids with attributes `op` and `name`, one edge per operand."""
        import networkx as nx

        copy: nx.MultiDiGraph[int] = self._dag.copy()
        for uid, node in self._nodes.items():
            copy.nodes[uid].update(op=node.op.name, name=node.name)
        return cast("nx.MultiDiGraph[int]", nx.freeze(copy))

    def ancestors(self, node: Node) -> list[Node]:
        import networkx as nx

        return [self._nodes[uid] for uid in sorted(nx.ancestors(self._dag, node.uid))]

    def descendants(self, node: Node) -> list[Node]:
        import networkx as nx

        return [self._nodes[uid] for uid in sorted(nx.descendants(self._dag, node.uid))]

    def longest_path(self, weight: Callable[[Node], float]) -> tuple[float, list[Node]]:
        """The heaviest path and its weight (a node's weight must not be negative)."""
        best: dict[int, tuple[float, Node | None]] = {}
        for node in self.order():
            before = max(
                ((best[p][0], self._nodes[p]) for p in self._dag.predecessors(node.uid)),
                key=lambda item: (item[0], -item[1].uid),
                default=(0.0, None),
            )
            best[node.uid] = (before[0] + weight(node), before[1])
        if not best:
            return 0.0, []
        end = max(best, key=lambda uid: (best[uid][0], -uid))
        path: list[Node] = []
        step: Node | None = self._nodes[end]
        while step is not None:
            path.append(step)
            step = best[step.uid][1]
        return best[end][0], path[::-1]

    def dominators(self) -> dict[Node, Node]:
        """The immediate dominator of each node, seen from a virtual entry above all sources."""
        import networkx as nx

        dag: nx.DiGraph[int] = nx.DiGraph(self._dag)
        entry = -1
        dag.add_edges_from((entry, uid) for uid in self._nodes if not self._dag.in_degree(uid))
        if entry not in dag:
            return {}
        found = nx.immediate_dominators(dag, entry)
        return {
            self._nodes[uid]: self._nodes[by]
            for uid, by in found.items()
            if uid != entry and by not in (entry, uid, None)
        }

    def window(self, node: Node, around: int = 2) -> str:
        """A few lines of the graph around a node, for diagnostics."""
        nodes = sorted(self._nodes.values(), key=lambda n: n.uid)
        at = nodes.index(node)
        lines = []
        for other in nodes[max(0, at - around) : at + around + 1]:
            lines.append(f"{'>' if other is node else ' '} {other!r} : {', '.join(str(r.type) for r in other.results)}")
        return "\n".join(lines)

    def _cycle_source(self) -> Source | None:
        import networkx as nx

        uid = nx.find_cycle(self._dag)[0][0]
        return self._nodes[uid].source


class Rewriter:
    """Edits a graph on behalf of a pass (or a frontend, with an empty pass name)."""

    def __init__(self, graph: Graph, pass_name: str = "") -> None:
        self.graph = graph
        self.pass_name = pass_name

    # -- values without a node ----------------------------------------------------------------------------------

    def input(self, name: str, type: TensorType, *, role: Role = Role.INPUT, source: Source | None = None) -> Value:
        """An input; where its type has contents, the program is made for these alone."""
        from pimc.ir.weights import Inline

        value = self._value(name, type, role, source)
        value.contents = Inline(type.array) if type.array is not None else None
        self.graph.inputs.append(value)
        return value

    def weight(self, name: str, type: TensorType, contents: Contents, *, source: Source | None = None) -> Value:
        value = self._value(name, type, Role.WEIGHT, source)
        value.contents = contents
        self.graph.weights.append(value)
        return value

    def constant(self, name: str, array: object, *, source: Source | None = None) -> Value:
        """A small array that the compiler knows (numpy arrays, numbers, lists)."""
        import numpy as np

        from pimc.ir.types import DType
        from pimc.ir.weights import Inline

        elements = np.asarray(array)
        type = TensorType(DType.of(elements.dtype), elements.shape, elements)
        value = self._value(name, type, Role.CONSTANT, source)
        value.contents = Inline(elements)
        self.graph.weights.append(value)
        return value

    def output(self, name: str, value: Value) -> None:
        self.graph.outputs.append((name, value))
        self._touch()

    def set_output(self, name: str, value: Value) -> None:
        """Let an existing output be another value."""
        self.graph.outputs = [(n, value if n == name else v) for n, v in self.graph.outputs]
        self._touch()

    def set_role(self, value: Value, role: Role) -> None:
        if value.role is not role:
            value.role = role
            self._touch()

    def set_shard(self, value: Value, axis: int, count: int) -> None:
        """Let each device of a group hold its own part of a value along an axis; the type becomes that of the part."""
        from pimc.ir.types import TensorType
        from pimc.ir.weights import Sharded

        shape = list(value.type.static_shape)
        shape[axis] //= count
        value.shard = (axis, count)
        value.type = TensorType(value.type.dtype, tuple(shape))
        if value.contents is not None:
            value.contents = Sharded(value.contents, axis, count)
        self._touch()

    def set_contents(self, value: Value, contents: Contents) -> None:
        value.contents = contents
        self._touch()

    # -- nodes --------------------------------------------------------------------------------------------------

    def add(
        self,
        op: OpDef,
        operands: Sequence[Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        name: str | None = None,
        names: Sequence[str] = (),
        source: Source | None = None,
        origins: Iterable[Node] = (),
        types: Sequence[TensorType] | None = None,
    ) -> Node:
        """Append a node. Result types are inferred, unless `types` gives them (a frontend that knows better).

        Attributes equal to their default are dropped. `origins` are the nodes that this one replaces or derives from;
        their places become its place. Raises CompileError where the type rule refuses.
        """
        given = dict(attributes or {})
        kept = {k: v for k, v in given.items() if k not in op.attributes or op.attributes[k] != v}
        trimmed = tuple(operands)
        while trimmed and trimmed[-1] is None:
            trimmed = trimmed[:-1]
        if source is None:
            places = tuple(dict.fromkeys(n.source for n in origins if n.source is not None))
            source = Derived(self.pass_name, places) if places and self.pass_name else (places[0] if places else None)
        node = Node(self.graph._next_uid, op, trimmed, kept, source=source)
        inferred = tuple(types) if types is not None else self._infer(node)
        self.graph._next_uid += 1
        wanted = list(names) or ([name] if name else [])
        results = []
        for i, type in enumerate(inferred):
            label = wanted[i] if i < len(wanted) else (f"{wanted[0]}_{i}" if wanted else self._fresh(op.name))
            value = self._value(label, type, Role.RESULT, source)
            value.owner, value.index = node, i
            results.append(value)
        node.results = tuple(results)
        self.graph._nodes[node.uid] = node
        self._connect(node)
        self._rewire()
        return node

    def replace_uses(self, old: Value, new: Value) -> None:
        """Let every reader of `old`, outputs included, read `new`."""
        if old is new:
            return
        for (uid, index), user in sorted(self.graph._uses.get(old, {}).items()):
            assert uid == user.uid
            self.set_operand(user, index, new)
        if self.graph.is_output(old):
            self.graph.outputs = [(n, new if v is old else v) for n, v in self.graph.outputs]
        self._touch()

    def replace(
        self,
        node: Node,
        op: OpDef,
        operands: Sequence[Value | None],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        absorbing: Iterable[Node] = (),
    ) -> Node:
        """Put one new node in the place of `node`; its first results take over the old ones' uses (and name).

        Nodes in `absorbing` lend their places too, and are removed if nothing reads them any more.
        """
        absorbed = list(absorbing)
        new = self.add(op, operands, attributes, origins=(node, *absorbed))
        for old, result in zip(node.results, new.results, strict=False):
            self.replace_uses(old, result)
            result.shard = old.shard if result.type == old.type else None
        new.facts.update(node.facts)
        labels = [r.name for r in node.results]
        self.remove(node)
        for label, result in zip(labels, new.results, strict=False):
            self.rename(result, label)
        for other in sorted(absorbed, key=lambda n: -n.uid):
            if other in self.graph and not any(self.graph.use_count(r) for r in other.results):
                self.remove(other)
        return new

    def remove(self, node: Node) -> None:
        """Remove a node that nothing reads; refuses with the readers' names."""
        if any(self.graph.use_count(r) for r in node.results):
            readers = [u.name for r in node.results for u in self.graph.users(r)]
            readers += [n for r in node.results for n in self.graph.output_names(r)]
            raise InternalError(f"{self.pass_name}: cannot remove %{node.name}, it is read by {', '.join(readers[:6])}")
        self._disconnect(node)
        del self.graph._nodes[node.uid]
        for result in node.results:
            del self.graph._values[result.name]
            self.graph._uses.pop(result, None)
        self._rewire()

    def absorb(self, other: Graph, suffix: str) -> dict[str, str]:
        """Take over everything of another graph, which must not be used any more. Names get a suffix, but for weights
        and constants that are here as well: those are one.

        Returns the names of inputs and outputs before, by those that they have now.
        """
        known = {w.name: w for w in self.graph.weights}
        one: dict[Value, Value] = {}
        names: dict[str, str] = {}
        for weight in other.weights:
            mine = known.get(weight.name)
            if mine is not None and _is_same(mine, weight):
                one[weight] = mine
            else:
                self._adopt(weight, weight.name)
                self.graph.weights.append(weight)
        for value in other.inputs:
            before = value.name
            self._adopt(value, before + suffix)
            names[value.name] = before
            self.graph.inputs.append(value)
        for node in other.order():
            node.uid = self.graph._next_uid
            self.graph._next_uid += 1
            node.operands = tuple(v if v is None else one.get(v, v) for v in node.operands)
            for result in node.results:
                self._adopt(result, result.name + suffix)
            self.graph._nodes[node.uid] = node
            self._connect(node)
        for name, value in other.outputs:
            names[name + suffix] = name
            self.graph.outputs.append((name + suffix, one.get(value, value)))
        self._rewire()
        return names

    def become(self, other: Graph) -> None:
        """Let the graph be what another one is, which must not be used any more."""
        mine = self.graph
        mine.inputs, mine.weights, mine.outputs = other.inputs, other.weights, other.outputs
        mine.defaults, mine.homes, mine.batch = other.defaults, other.homes, other.batch
        mine._values, mine._nodes, mine._uses = other._values, other._nodes, other._uses
        mine._next_uid = max(mine._next_uid, other._next_uid)
        self._rewire()

    def remove_dead(self) -> int:
        """Remove every node (and unused weight) that no output needs; the number of nodes removed."""
        removed = 0
        for node in reversed(self.graph.order()):
            if not any(self.graph.use_count(r) for r in node.results):
                self.remove(node)
                removed += 1
        dead = [w for w in self.graph.weights if not self.graph.use_count(w)]
        for weight in dead:
            del self.graph._values[weight.name]
        if dead:
            gone = set(map(id, dead))
            self.graph.weights = [w for w in self.graph.weights if id(w) not in gone]
            self._touch()
        return removed

    def reorder(self, nodes: Sequence[Node]) -> None:
        """Number all nodes anew, so that `order()` gives them in this order, and weights by first use.

        Raises InternalError unless `nodes` holds every node once, operands before their readers.
        """
        place = {node: i for i, node in enumerate(nodes)}
        if len(nodes) != len(self.graph) or set(place) != set(self.graph._nodes.values()):
            raise InternalError(f"{self.pass_name}: an order must hold every node of the graph once")
        if any(v.owner is not None and place[v.owner] >= i for i, node in enumerate(nodes) for v in node.inputs()):
            raise InternalError(f"{self.pass_name}: an order must have operands before their readers")
        self._sort_weights(nodes)
        if all(a.uid < b.uid for a, b in pairwise(nodes)):
            return
        new = {node.uid: self.graph._next_uid + i for node, i in place.items()}
        self.graph._next_uid += len(nodes)
        for node in nodes:
            node.uid = new[node.uid]
        self.graph._nodes = {node.uid: node for node in nodes}
        for value, uses in self.graph._uses.items():
            self.graph._uses[value] = {(user.uid, index): user for (_, index), user in uses.items()}
        self._rewire()

    def _sort_weights(self, nodes: Sequence[Node]) -> None:
        seen = dict.fromkeys(v for node in nodes for v in node.inputs() if v.owner is None)
        first = {value: i for i, value in enumerate(seen)}
        ordered = sorted(self.graph.weights, key=lambda w: first.get(w, len(first)))
        if ordered != self.graph.weights:
            self.graph.weights = ordered
            self._touch()

    def set_operand(self, node: Node, index: int, value: Value | None) -> None:
        operands = list(node.operands)
        old, operands[index] = operands[index], value
        node.operands = tuple(operands)
        if old is not None:
            self.graph._uses[old].pop((node.uid, index), None)
        if value is not None:
            self.graph._uses.setdefault(value, {})[(node.uid, index)] = node
        self._rewire()

    def set_attribute(self, node: Node, name: str, value: Attribute) -> None:
        attributes = dict(node.attributes)
        if name in node.op.attributes and node.op.attributes[name] == value:
            attributes.pop(name, None)
        else:
            attributes[name] = value
        if attributes != dict(node.attributes):
            node.attributes = attributes
            self._touch()

    def set_fact(self, node: Node, fact: Fact) -> None:
        if node.facts.get(type(fact)) != fact:
            node.facts[type(fact)] = fact
            self._note(late=isinstance(fact, AFTER_HOMES))

    def set_home(self, value: Value, home: Home) -> None:
        """Say where a value lives."""
        if self.graph.homes.get(value) != home:
            self.graph.homes[value] = home
            self._note(late=True)

    def set_batch(self, batch: Batch) -> None:
        """Say which requests the graph is for."""
        if self.graph.batch != batch:
            self.graph.batch = batch
            self._touch()

    def retype(self, value: Value, type: TensorType) -> None:
        """Give a value another type (binding dimensions, learning contents)."""
        if value.type != type or value.type.array is not type.array:
            value.type = type
            self._touch()

    def reinfer(self, node: Node) -> None:
        """Infer the result types of a node again from its operands' types."""
        for value, type in zip(node.results, self._infer(node), strict=True):
            self.retype(value, type)

    def rename(self, value: Value, name: str) -> None:
        if value.name != name:
            del self.graph._values[value.name]
            value.name = self._unique(name)
            self.graph._values[value.name] = value
            self._touch()

    # -- inside -------------------------------------------------------------------------------------------------

    def _infer(self, node: Node) -> tuple[TensorType, ...]:
        try:
            return node.infer()
        except TypeRuleError as error:
            shown = ", ".join(str(v.type) if v is not None else "_" for v in node.operands)
            raise CompileError(
                Diagnostic(Kind.TYPE, f"{node.op.name}: {error}", node.source, notes=(f"operands: {shown}",))
            ) from error

    def _value(self, name: str, type: TensorType, role: Role, source: Source | None) -> Value:
        value = Value(self._unique(name), type, role, source=source)
        self.graph._values[value.name] = value
        self._touch()
        return value

    def _unique(self, name: str) -> str:
        if name not in self.graph._values:
            return name
        suffix = 1
        while f"{name}.{suffix}" in self.graph._values:
            suffix += 1
        return f"{name}.{suffix}"

    def _adopt(self, value: Value, name: str) -> None:
        """Let a value of another graph be one of this."""
        value.name = self._unique(name)
        self.graph._values[value.name] = value

    def _fresh(self, stem: str) -> str:
        return f"{stem}_{self.graph._next_uid - 1}"

    def _connect(self, node: Node) -> None:
        for index, value in enumerate(node.operands):
            if value is not None:
                self.graph._uses.setdefault(value, {})[(node.uid, index)] = node

    def _disconnect(self, node: Node) -> None:
        for index, value in enumerate(node.operands):
            if value is not None:
                self.graph._uses[value].pop((node.uid, index), None)

    def _touch(self) -> None:
        self.graph.version += 1

    def _note(self, *, late: bool) -> None:
        self.graph.notes += 1
        self.graph.late_notes += late
        self._touch()

    def _rewire(self) -> None:
        """Nodes or edges have changed."""
        self.graph._order = self.graph._edges = None
        self._touch()


def _is_behind_operands(node: Node) -> bool:
    """Whether a node is younger than all whose results it reads."""
    for value in node.operands:
        if value is not None and value.owner is not None and value.owner.uid >= node.uid:
            return False
    return True


def _copied(value: Value) -> Value:
    """Without its owner."""
    return Value(
        value.name, value.type, value.role, None, value.index, value.contents, value.source, value.shard
    )  # fmt: skip


def _is_same(one: Value, other: Value) -> bool:
    """Whether weights or constants of two graphs of one model are the same tensor."""
    if one.role is not other.role or one.type != other.type or one.shard != other.shard:
        return False
    mine, theirs = one.type.array, other.type.array
    if mine is None or theirs is None:
        return mine is theirs
    return mine.shape == theirs.shape and mine.tobytes() == theirs.tobytes()
