"""Splits a model over devices: tensor parallelism by columns, rows and heads, pipeline parallelism by layers."""

from __future__ import annotations

from pimc.ir.diagnostics import Kind, fail
from pimc.ir.graph import Graph, Rewriter
from pimc.ir.stage import GraphStage
from pimc.passes.manager import Pass, PassContext
from pimc.passes.pipeline_parallel import assign_stages, cut_stages
from pimc.passes.tensor_parallel import TensorParallel
from pimc.record import record


@record
class PartitionPass(Pass):
    """Make the graph what each device runs, with the exchanges between devices as ops.

    tp=T: weights that begin a sharded stretch are split by columns, those that end one by rows, attention by heads.

        %y = matmul(%x, %w) : f16[1, 4096]  ->  %p = matmul(%x, %w) : f16[1, 4096]   // %w is each device's rows
                                                %y = all_reduce(%p) {group=8}

    pp=P: layers are dealt to P stages in order; values that cross go by `send` and `receive`. Stage s runs on the
    devices s*T to s*T + T-1. Where there are fewer devices than stages, those share them: each has a part of a device,
    or neighbours take turns on one (`backends/sharing.py`). Degrees come from `--parallel`; where it gives none
    and there are several devices, `pimc/parallel.py` has chosen them by cost.
    """

    name = "partition"
    before = GraphStage.CANONICAL
    after = GraphStage.PARTITIONED

    def run(self, graph: Graph, rewriter: Rewriter, context: PassContext) -> None:
        if context.target is not None and not context.target.cuts_graphs:
            return
        devices = context.target.devices if context.target is not None else 1
        tp, pp = self._degrees(graph, context, devices)
        if tp > 1:
            TensorParallel(graph, rewriter, tp).run()
        if pp > 1:
            turns = context.target.turns(pp, tp) if context.target is not None else 1
            assign_stages(graph, rewriter, pp, turns)
            cut_stages(graph, rewriter)

    @staticmethod
    def _degrees(graph: Graph, context: PassContext, devices: int) -> tuple[int, int]:
        given = context.parallel
        if not given:
            return 1, 1
        tp, pp = given.get("tp", 1), given.get("pp", 1)
        if min(tp, pp) < 1:
            raise fail(Kind.PARALLEL, f"pp={pp},tp={tp}: degrees must be 1 or more")
        turns = context.target.turns(pp, tp) if context.target is not None else 1
        if tp * -(-pp // turns) > devices:
            raise fail(
                Kind.PARALLEL,
                f"pp={pp},tp={tp} needs {tp * pp} devices, but the system has {devices}",
                help=f"--set system.devices={tp * pp}",
            )
        return tp, pp
