"""pimc: compiles language models for machines of NPU, PIM and PNM, and executes the command streams.

    import pimc

    result = pimc.compile("model.onnx", "neupims", dims={"batch": 64}, values="random")
    print(result.report.cycles, result.comparison.ok)

Everything that authors of passes and targets need is here; names are imported when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pimc.api import compile as compile
    from pimc.backends import storage as _storage
    from pimc.backends.assembler import assemble as assemble
    from pimc.backends.assembly import disassemble as disassemble
    from pimc.backends.program import Program as Program
    from pimc.backends.target import TargetSpec as TargetSpec
    from pimc.backends.target_registry import load_target as load_target
    from pimc.disaggregated import serve as serve
    from pimc.driver import Options as Options
    from pimc.driver import Result as Result
    from pimc.frontends import load_model as load_model
    from pimc.ir import interp as _interp
    from pimc.ir import op as _op
    from pimc.ir import text as _text
    from pimc.ir.diagnostics import CompileError as CompileError
    from pimc.ir.diagnostics import Diagnostic as Diagnostic
    from pimc.ir.diagnostics import Kind as Kind
    from pimc.ir.diagnostics import fail as fail
    from pimc.ir.facts import Alternative as Alternative
    from pimc.ir.facts import Layer as Layer
    from pimc.ir.facts import Nature as Nature
    from pimc.ir.facts import Phase as Phase
    from pimc.ir.facts import Placement as Placement
    from pimc.ir.facts import Position as Position
    from pimc.ir.facts import Stage as Stage
    from pimc.ir.facts import Tile as Tile
    from pimc.ir.facts import Work as Work
    from pimc.ir.graph import Graph as Graph
    from pimc.ir.graph import Node as Node
    from pimc.ir.graph import Rewriter as Rewriter
    from pimc.ir.graph import Role as Role
    from pimc.ir.graph import Value as Value
    from pimc.ir.op import OpClass as OpClass
    from pimc.ir.op import op as op
    from pimc.ir.op import require as require
    from pimc.ir.stage import GraphStage as GraphStage
    from pimc.ir.target import Engine as Engine
    from pimc.ir.target import Target as Target
    from pimc.ir.types import DType as DType
    from pimc.ir.types import TensorType as TensorType
    from pimc.ir.verify import verify as verify
    from pimc.ir.weights import Inline as Inline
    from pimc.passes.manager import Observer as Observer
    from pimc.passes.manager import Pass as Pass
    from pimc.passes.manager import PassContext as PassContext
    from pimc.passes.manager import PassManager as PassManager
    from pimc.passes.manager import PatternPass as PatternPass
    from pimc.passes.manager import Pipeline as Pipeline
    from pimc.passes.pipeline import default_pipeline as default_pipeline
    from pimc.passes.pipeline import parse_pipeline as parse_pipeline
    from pimc.phases import Phases as Phases
    from pimc.phases import compile_phases as compile_phases
    from pimc.simulation import Run as Run
    from pimc.simulation import load_program as load_program
    from pimc.simulation import simulate as simulate
    from pimc.sweeps.results import SweepResult as SweepResult
    from pimc.sweeps.run import sweep as sweep

    save_program = _storage.save
    interpret = _interp.run
    lookup_op = _op.lookup
    parse_ir = _text.parse
    show_ir = _text.show
    __version__: str

_PLACES = {
    "api": ("compile",),
    "simulation": ("load_program", "simulate", "Run"),
    "phases": ("compile_phases", "Phases"),
    "disaggregated": ("serve",),
    "sweeps.run": ("sweep",),
    "sweeps.results": ("SweepResult",),
    "driver": ("Options", "Result"),
    "frontends": ("load_model",),
    "backends.assembler": ("assemble",),
    "backends.assembly": ("disassemble",),
    "backends.program": ("Program",),
    "backends.storage": ("save_program:save",),
    "backends.target": ("TargetSpec",),
    "backends.target_registry": ("load_target",),
    "ir.diagnostics": ("CompileError", "Diagnostic", "Kind", "fail"),
    "ir.facts": ("Alternative", "Layer", "Nature", "Phase", "Placement", "Position", "Stage", "Tile", "Work"),
    "ir.graph": ("Graph", "Node", "Rewriter", "Role", "Value"),
    "ir.interp": ("interpret:run",),
    "ir.op": ("OpClass", "lookup_op:lookup", "op", "require"),
    "ir.stage": ("GraphStage",),
    "ir.target": ("Engine", "Target"),
    "ir.text": ("parse_ir:parse", "show_ir:show"),
    "ir.types": ("DType", "TensorType"),
    "ir.verify": ("verify",),
    "ir.weights": ("Inline",),
    "passes.manager": ("Observer", "Pass", "PassContext", "PassManager", "PatternPass", "Pipeline"),
    "passes.pipeline": ("default_pipeline", "parse_pipeline"),
}
_PUBLIC = {
    name.partition(":")[0]: (f"pimc.{module}", name.rpartition(":")[2])
    for module, names in _PLACES.items()
    for name in names
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from pimc.version import version

        return version()
    place = _PUBLIC.get(name)
    if place is None:
        raise AttributeError(f"module 'pimc' has no attribute '{name}'")
    from pimc.garbage import collecting_seldom

    with collecting_seldom():
        found = getattr(importlib.import_module(place[0]), place[1])
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*_PUBLIC, "__version__"])
