"""What a machine is asked while passes place and fuse: no more than what they cannot know without."""

from __future__ import annotations

from pimc.backends.machine import Machine
from pimc.backends.npu.answers import Answers
from pimc.backends.npu.candidates import Room
from pimc.backends.program import Program
from pimc.backends.target_registry import load_target
from pimc.ir.facts import Epilogue, Placement
from pimc.ir.graph import Graph, Node, Rewriter, Role
from pimc.ir.types import DType, TensorType
from pimc.passes.match import opdef


def product_and_sum(rows: int) -> list[Node]:
    """A product and an addition that could be computed on its tiles."""
    rewriter = Rewriter(Graph("chain"), "test")
    x, residual = (rewriter.input(name, TensorType(DType.F16, (rows, 2048))) for name in ("x", "residual"))
    w = rewriter.input("w", TensorType(DType.F16, (2048, 2048)), role=Role.WEIGHT)
    product = rewriter.add(opdef("matmul"), (x, w))
    added = rewriter.add(opdef("add"), (product.result, residual))
    return [node.with_fact(Placement("npu", "asked for")) for node in (product, added)]


def gate(rows: int) -> list[Node]:
    """Two products that could be computed side by side, and what goes on with both."""
    rewriter = Rewriter(Graph("gate"), "test")
    x = rewriter.input("x", TensorType(DType.F16, (rows, 4096)))
    weights = [rewriter.input(name, TensorType(DType.F16, (4096, 8192)), role=Role.WEIGHT) for name in ("up", "gate")]
    products = [rewriter.add(opdef("matmul"), (x, w)) for w in weights]
    both = rewriter.add(opdef("mul"), [product.result for product in products])
    return [node.with_fact(Placement("npu", "asked for")) for node in (*products, both)]


class Clock:
    """Times programs: what is timed first takes least."""

    def __init__(self) -> None:
        self.timed: list[Program] = []
        self.machine = Machine(load_target("npu"), self)

    def __call__(self, program: Program) -> float:
        self.timed.append(program)
        return float(len(self.timed))


def gains(rows: int) -> tuple[bool, int]:
    """Whether the addition gains by that, and how many programs are timed to find it out."""
    clock = Clock()
    return clock.machine.gains_by_following(product_and_sum(rows), [False, False]), len(clock.timed)


def gains_beside(rows: int) -> tuple[bool, int]:
    """The same of the two products."""
    clock, (product, second, both) = Clock(), gate(rows)
    joined = [product, second.with_fact(Epilogue(1)), both.with_fact(Epilogue(2))]
    apart = [product, second, both.with_fact(Epilogue(1))]
    return clock.machine.gains_by_joining(joined, apart), len(clock.timed)


def test_a_row_is_for_the_vector_unit_and_nothing_is_timed() -> None:
    assert gains(rows=1) == (True, 0)


def test_what_is_computed_while_weights_come_is_free_and_nothing_is_timed() -> None:
    assert gains(rows=32) == (True, 0)
    assert gains_beside(rows=32) == (True, 0)


def test_where_it_comes_on_tiles_both_are_timed_on_two_machines() -> None:
    assert gains(rows=8192) == (True, 4)
    assert gains_beside(rows=8192) == (True, 4)


def test_operands_come_ahead_no_faster_than_memory_gives_them() -> None:
    at_once: list[Program] = []

    def simulate(program: Program) -> float:
        if program.target["dma"]["transfers"] != "free":
            return 0.0
        at_once.append(program)
        return 2e-9 if len(at_once) == 1 else 1e-9  # of the chain on tiles, and apart

    assert Machine(load_target("npu"), simulate).gains_by_following(product_and_sum(8192), [False, False])
    assert len(at_once) == 2


def test_other_ops_have_no_bound_and_are_not_lowered() -> None:
    machine = Machine(load_target("npu"), lambda _: 0.0)
    (npu,) = (e for e in machine.engines() if e.kind == "npu")
    product, added = product_and_sum(rows=64)
    assert machine.bound(product, npu).startswith("bound by ")
    assert machine.bound(added, npu) == ""


def test_an_answer_holds_in_rooms_where_the_same_fits() -> None:
    asked: list[int] = []

    def largest(room: Room) -> int:
        asked.append(room.size)
        return max(size for size in (10, 20, 30) if room.holds(size))

    answers = Answers[str, int]()
    assert [answers.of("tile", room, largest) for room in (25, 20, 29, 30, 19)] == [20, 20, 20, 30, 10]
    assert asked == [25, 30, 19]
    assert answers.of("other", 25, largest) == 20
    assert asked == [25, 30, 19, 25]
