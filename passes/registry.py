"""Where passes are found: entry points of the group `pimc.passes`, and files given by `--load`.

pimc's own passes are entry points like anybody's. `BUILTIN` repeats them for checkouts that are not installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Container
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import ModuleType

from pimc.installed import references
from pimc.ir.diagnostics import Kind, did_you_mean, fail, file_missing
from pimc.ir.reading import read_bytes
from pimc.passes.manager import Pass

GROUP = "pimc.passes"

BUILTIN: tuple[tuple[str, str], ...] = (
    ("assign-requests", "pimc.passes.assign_requests:AssignRequestsPass"),
    ("spread-positions", "pimc.passes.spread_positions:SpreadPositionsPass"),
    ("bind", "pimc.passes.bind:BindPass"),
    ("fold", "pimc.passes.fold:FoldPass"),
    ("canonicalize", "pimc.passes.canonicalize:CanonicalizePass"),
    ("dce", "pimc.passes.dce:DcePass"),
    ("fuse-cache", "pimc.passes.fuse_cache:FuseCachePass"),
    ("fuse-norm", "pimc.passes.fuse_norm:FuseNormPass"),
    ("fuse-activation", "pimc.passes.fuse_activation:FuseActivationPass"),
    ("fuse-rotary", "pimc.passes.fuse_rotary:FuseRotaryPass"),
    ("fuse-attention", "pimc.passes.fuse_attention:FuseAttentionPass"),
    ("fuse-experts", "pimc.passes.fuse_experts:FuseExpertsPass"),
    ("fuse-quantized", "pimc.passes.fuse_quantized:FuseQuantizedPass"),
    ("canonical-order", "pimc.passes.canonical_order:CanonicalOrderPass"),
    ("tag-phase", "pimc.passes.tag_phase:TagPhasePass"),
    ("tag-nature", "pimc.passes.tag_nature:TagNaturePass"),
    ("find-layers", "pimc.passes.find_layers:FindLayersPass"),
    ("partition", "pimc.passes.partition:PartitionPass"),
    ("ragged-attention", "pimc.passes.ragged_attention:RaggedAttentionPass"),
    ("split-attention", "pimc.passes.split_attention:SplitAttentionPass"),
    ("place", "pimc.passes.place:PlacePass"),
    ("sub-batches", "pimc.passes.sub_batches:SubBatchesPass"),
    ("split-reductions", "pimc.passes.split_reductions:SplitReductionsPass"),
    ("schedule", "pimc.passes.schedule:SchedulePass"),
    ("fuse-epilogues", "pimc.passes.fuse_epilogues:FuseEpiloguesPass"),
    ("fuse-prologues", "pimc.passes.fuse_prologues:FuseProloguesPass"),
    ("share-rows", "pimc.passes.share_rows:ShareRowsPass"),
    ("layout", "pimc.passes.layout:LayoutPass"),
    ("tile", "pimc.passes.tile:TilePass"),
    ("emit", "pimc.passes.emit:EmitPass"),
)
"""Name and class of each pass of pimc, as the entry points of its distribution declare them."""


def import_builtin(names: Container[str]) -> None:
    """Import the modules of pimc's own passes of such names."""
    for name, reference in BUILTIN:
        if name in names:
            importlib.import_module(reference.partition(":")[0])


@dataclass
class PassRegistry:
    """Passes by name, loaded when asked for."""

    references: dict[str, str] = field(default_factory=dict)
    """`module:Class` by name."""
    loaded: dict[str, type[Pass]] = field(default_factory=dict)
    loaded_from_files: tuple[str, ...] = ()

    def names(self) -> list[str]:
        return sorted({*self.references, *self.loaded})

    def builtin(self) -> frozenset[str]:
        """Names of pimc's own passes that nothing has replaced."""
        own = {name for name, reference in BUILTIN if self.references.get(name) == reference}
        return frozenset(own - set(self.loaded_from_files))

    def load(self, name: str) -> type[Pass]:
        """The class of a pass; raises CompileError (PASS_UNKNOWN, PLUGIN)."""
        if name in self.loaded:
            return self.loaded[name]
        if name not in self.references:
            raise fail(Kind.PASS_UNKNOWN, f"no such pass: '{name}'", help=did_you_mean(name, self.names()))
        module, _, attribute = self.references[name].partition(":")
        try:
            kind = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise fail(Kind.PLUGIN, f"cannot load pass '{name}' from {self.references[name]}: {error}") from error
        if not (isinstance(kind, type) and issubclass(kind, Pass)):
            raise fail(Kind.PLUGIN, f"pass '{name}': {self.references[name]} is not a subclass of Pass")
        self.loaded[name] = kind
        return kind

    def load_file(self, path: str | Path) -> list[type[Pass]]:
        """Run a Python file and register the passes it defines; raises CompileError (FILE_MISSING, PLUGIN)."""
        file = Path(path)
        if not file.is_file():
            raise file_missing(file, f"there is no file {file} that passes could be loaded from")
        module = _module_of(file)
        kinds = [k for k in vars(module).values() if _is_pass_of(k, module.__name__)]
        if not kinds:
            raise fail(Kind.PLUGIN, f"{file} defines no pass", help="define a subclass of Pass that has a name")
        for kind in kinds:
            self.loaded[kind.name] = kind
        self.loaded_from_files += tuple(kind.name for kind in kinds)
        return kinds


_MODULES: dict[tuple[Path, bytes], ModuleType] = {}
"""Plug-ins of this process by place and text: what a file declares, it declares once."""


def _module_of(file: Path) -> ModuleType:
    """Run a Python file, or find it as it was run before; raises CompileError (PLUGIN)."""
    name = f"pimc_plugin_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise fail(Kind.PLUGIN, f"{file} is not a Python file", help="the name must end in .py")
    try:
        key = file.resolve(), read_bytes(file)
    except OSError as error:
        raise file_missing(file, f"cannot read {file}: {error.strerror}") from None
    if key in _MODULES:
        return _MODULES[key]
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise fail(Kind.PLUGIN, f"{file} failed while it was loaded: {type(error).__name__}: {error}") from error
    _MODULES[key] = module
    return module


def _is_pass_of(kind: object, module_name: str) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, Pass)
        and kind.__module__ == module_name
        and not inspect.isabstract(kind)
        and hasattr(kind, "name")
    )


@cache
def default_registry() -> PassRegistry:
    """The registry of this process."""
    return PassRegistry(references(GROUP, dict(BUILTIN)))
