"""pimc as backends of ONNX's own test suite: one compiles and simulates, one interprets."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.base import Backend, BackendRep

from pimc.driver import Options, checked_program, lower_model
from pimc.frontends.onnx_import import import_file
from pimc.frontends.onnx_model import OnnxFile, dtype_of
from pimc.ir import interp
from pimc.ir.op import Array
from pimc.sim.values import execute

Outputs = dict[str, Array]
Run = Callable[[OnnxFile, Outputs], tuple[Outputs, int]]
"""Outputs by name from inputs by name, and how many commands (or nodes) were executed for them."""


class Work:
    """What has been executed since the count was last taken."""

    def __init__(self) -> None:
        self.runs = 0
        self.steps = 0

    def add(self, steps: int) -> None:
        self.runs += 1
        self.steps += steps

    def take(self) -> tuple[int, int]:
        taken, self.runs, self.steps = (self.runs, self.steps), 0, 0
        return taken


@cache
def simulated(target: str) -> Run:
    """Compile for a machine, and execute the streams on its memories in the wide value format."""

    def run(file: OnnxFile, inputs: Outputs) -> tuple[Outputs, int]:
        graph = import_file(file, inputs)
        program = checked_program(lower_model(graph, target, Options(simulate=False), inputs))
        commands = [0]

        def progress(done: int, total: int) -> None:
            commands[0] = done

        outputs, _ = execute(program, inputs, wide=True, progress=progress)
        return outputs, commands[0]

    return run


def interpreted(file: OnnxFile, inputs: Outputs) -> tuple[Outputs, int]:
    """The reference meanings of the imported ops."""
    seen: list[object] = []
    outputs = interp.run(import_file(file, inputs), inputs, observe=lambda node, _: seen.append(node))
    return outputs, len(seen)


class Prepared(BackendRep):
    """A model that is compiled when arrays come, since shapes may depend on their contents."""

    def __init__(self, model: onnx.ModelProto, run: Run, work: Work) -> None:
        self.file, self.execute, self.work = OnnxFile(model.graph.name, Path(), model), run, work

    def run(self, inputs: Any, **kwargs: Any) -> tuple[Any, ...]:
        graph = self.file.proto.graph
        given = {i.name: np.asarray(array) for i, array in zip(graph.input, inputs, strict=True)}
        outputs, steps = self.execute(self.file, given)
        self.work.add(steps)
        return tuple(_of_type(outputs[o.name], o.type.tensor_type.elem_type) for o in graph.output)


def _of_type(array: Array, elem_type: int) -> Array:
    """An output in the type that the model declares, which its reader gets (simulated floats are float32)."""
    dtype = dtype_of(elem_type)
    assert dtype is not None
    return array.astype(dtype.numpy)


def backend_of(run: Run) -> tuple[type[Backend], Work]:
    """A backend class for `onnx.backend.test`, and the count of what it executes."""
    work = Work()

    class Pimc(Backend):
        @classmethod
        def prepare(cls, model: onnx.ModelProto, device: str = "CPU", **kwargs: Any) -> BackendRep:
            return Prepared(model, run, work)

        @classmethod
        def supports_device(cls, device: str) -> bool:
            return device == "CPU"

    return Pimc, work
