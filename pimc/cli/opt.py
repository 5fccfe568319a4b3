"""`pimc opt`: passes on the text of a graph, for looking at them and for tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from pimc.cli import options as o
from pimc.cli.command import command, option

if TYPE_CHECKING:
    from pimc.ir.graph import Graph
    from pimc.ir.stage import GraphStage


@command(
    "opt",
    example="""
pimc compile models/tiny-llama.pimc -t npu --emit ir | pimc opt - --passes 'bind,fold,canonicalize' --dim past=7
pimc compile models/tiny-llama.pimc -t npu --emit tagged | pimc opt - --passes 'place{only=npu}' -t neupims
""",
)
@click.argument("ir", metavar="IR")
@option(o.PASSES, "--passes", metavar="'a,b{k=v}'", required=True, help="The passes, in order, with their options.")
@o.load_option
@option(o.MACHINE, "-t", "--target", type=o.TargetType(), help="The machine, for passes that need one.")
@o.set_option
@o.degrees_option
@o.dims_option
@option(o.MODEL, "--phase", type=o.PHASE, help="The phase of the graph; default: found out from its dataflow.")
@option(o.OUTPUT, "-o", "--output", default="-", metavar="OUT.pimir", help="Where the graph goes; default: stdout.")
@o.json_option
@o.quiet_option
@o.watch_options
def opt(**given: Any) -> None:
    """Run passes on a graph: IR is a .pimir text (- is stdin), an ONNX or a .pimc model."""
    from pimc.cli.files import check_writable, write_text_file
    from pimc.cli.screen import write_text
    from pimc.cli.watch import check_pass_names, observers_of, print_timing
    from pimc.driver import Options, registry_for
    from pimc.frontends import load_model
    from pimc.ir.facts import Phase
    from pimc.ir.text import show
    from pimc.passes.manager import PassContext, PassManager
    from pimc.passes.pipeline import parse_pipeline

    check_writable(given["output"])
    registry = registry_for(Options(plugins=given["plugins"]))
    pipeline = parse_pipeline(given["passes"], registry)
    check_pass_names(given["print_ir_after"], [p.name for p in pipeline])
    graph = load_model(given["ir"])
    watch = {name: given[name] for name in ("print_ir_after", "print_ir_after_all", "dump_stages", "timing")}
    observers = observers_of(**watch)
    context = PassContext(
        dims=o.unique_dims(given["dims"]),
        target=_machine(given),
        phase=Phase(given["phase"]) if given["phase"] else None,
        parallel=given["parallel"] or {},
    )
    manager = PassManager(observers=observers, trusted=registry.builtin())
    manager.run(pipeline, graph, context, start=stage_of(graph))
    print_timing(observers)
    if given["as_json"]:
        found = {"graph": graph.name, "passes": [p.name for p in pipeline], "nodes": len(graph.order())}
        text = {"text": show(graph)} if given["output"] == "-" else {"written": given["output"]}
        write_text(json.dumps({**found, **text}, indent=2) + "\n")
    if given["output"] != "-" or not (given["as_json"] or given["quiet"]):
        write_text_file(given["output"], show(graph))


def _machine(given: dict[str, Any]) -> Any:
    """The machine for passes that ask for one."""
    if not given["target"]:
        if given["overrides"]:
            raise click.UsageError("--set changes a machine: give one with -t")
        return None
    from pimc.backends.schedules import scheduled_machine
    from pimc.backends.target_registry import load_target
    from pimc.execution import seconds_of

    return scheduled_machine(load_target(given["target"], given["overrides"]), seconds_of("fast"))


def stage_of(graph: Graph) -> GraphStage:
    """How far a graph has come, as far as it can be seen; raises CompileError where it is not well formed."""
    from pimc.ir.diagnostics import CompileError
    from pimc.ir.stage import GraphStage
    from pimc.ir.verify import verify

    verify(graph, GraphStage.IMPORTED)
    reached = GraphStage.IMPORTED
    for stage in GraphStage:
        if stage > GraphStage.PLACED:  # homes are not in the text
            break
        try:
            verify(graph, stage)
            reached = stage
        except CompileError:
            continue
    return reached
