"""The contents of weights that a .pimc file takes from another file: the initializers of an ONNX model, or an .npz."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.lib import format as npy

from pimc.ir.diagnostics import Kind, did_you_mean, fail
from pimc.ir.op import Array
from pimc.ir.source import TextSpan
from pimc.ir.types import DType, TensorType
from pimc.ir.weights import Contents
from pimc.record import record


@record
class Stored:
    """A weight in a file: its type, known at once, and its contents, read when asked for."""

    dtype: DType
    shape: tuple[int, ...]
    contents: Contents


@record
class WeightFile:
    """A file of weights, found by their names."""

    name: str
    weights: Mapping[str, Stored]

    def find(self, label: str, type: TensorType, name_span: TextSpan, type_span: TextSpan) -> Contents:
        """The contents of a weight declared with that type; raises CompileError where the file has no such weight."""
        found = self.weights.get(label)
        if found is None:
            help = did_you_mean(label, self.weights)
            raise fail(Kind.WEIGHT_MISSING, f"{self.name} has no weight '{label}'", name_span, help=help)
        stored = TensorType(found.dtype, found.shape)
        if stored != type:
            raise fail(Kind.TYPE, f"weight '{label}' is declared as {type}, but {self.name} has {stored}", type_span)
        return found.contents


@record
class NpzMember:
    """An array of an .npz file, read when asked for."""

    path: Path
    name: str

    def array(self) -> Array:
        try:
            with np.load(self.path, allow_pickle=False) as arrays:
                return np.asarray(arrays[self.name])
        except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
            raise fail(Kind.WEIGHT_MISSING, f"cannot read '{self.name}' of {self.path}: {error}") from None

    def describe(self) -> str:
        return f"{self.path.name}:{self.name}"


def read_weights(path: Path, span: TextSpan) -> WeightFile:
    """The weights of a file by name; raises CompileError at `span` where it cannot be read."""
    if path.suffix not in (".onnx", ".npz"):
        raise fail(Kind.FILE_MISSING, f"weights come from an .onnx or .npz file, not from '{path.name}'", span)
    if not path.is_file():
        raise fail(
            Kind.FILE_MISSING, f"there is no file '{path}'", span, help="the path is relative to the model's own folder"
        )
    return WeightFile(path.name, _npz(path, span) if path.suffix == ".npz" else _onnx(path))


def _onnx(path: Path) -> Mapping[str, Stored]:
    from pimc.frontends.onnx_model import read_onnx, read_tensor

    file = read_onnx(path)
    read = [read_tensor(file, tensor) for tensor in file.proto.graph.initializer]
    return {tensor.name: Stored(tensor.dtype, tensor.shape, tensor.contents) for tensor in read}


def _npz(path: Path, span: TextSpan) -> Mapping[str, Stored]:
    found = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                with archive.open(member) as stream:
                    version = npy.read_magic(stream)
                    header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = header(stream)
                name = member.removesuffix(".npy")
                found[name] = Stored(DType.of(dtype), shape, NpzMember(path, name))
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise fail(Kind.MODEL_BROKEN, f"'{path.name}' is not a readable .npz file: {error}", span) from None
    return found
