"""One point, from job to answer. Runs in workers, which keep the models that they have read."""

from __future__ import annotations

from collections import OrderedDict
from math import prod

from pimc.driver import Result, compile_model, read_model
from pimc.ir.diagnostics import CompileError, Diagnostic, Kind
from pimc.ir.graph import Graph
from pimc.ir.types import Sym
from pimc.points import Original
from pimc.step_dims import token_input
from pimc.sweeps.identity import model_digest, revision
from pimc.sweeps.job import Answer, Failure, Job, lost
from pimc.sweeps.numbers import Measured, measure

MOST_MODELS = 4
"""Models that a worker keeps."""

_models: OrderedDict[tuple[str, str | None, str], Original] = OrderedDict()


def answer(job: Job) -> Answer:
    """Compile and simulate a point; whatever goes wrong is an answer too."""
    if job.revision != revision():
        return lost(job, f"the worker runs pimc {revision()}, not {job.revision}", "install the same pimc everywhere")
    try:
        graph = _model(job).copy()
        tokens = _token_dims(graph)
        result = compile_model(graph, job.target, job.options)
    except CompileError as error:
        return Answer(job.key, failures=tuple(Failure.of(d) for d in error.diagnostics), lasting=not _passing(error))
    except MemoryError:
        return lost(job, "the worker has not enough memory", "run fewer points at once (--jobs)")
    except Exception as error:
        what = " ".join(str(error).split()) or type(error).__name__
        return lost(job, f"internal error: {type(error).__name__}: {what}; this is a bug in pimc")
    if result.program.target_hash != job.target_hash:
        return lost(job, f"the target '{job.target}' changed while the sweep ran")
    return _answer(job, result, tokens)


def _answer(job: Job, result: Result, token_dims: tuple[int | Sym, ...] | None) -> Answer:
    report = result.report
    assert report is not None
    dims = dict(report.dims)
    sizes = [d if isinstance(d, int) else d.bind(dims) for d in token_dims or ()]
    known = [size for size in sizes if isinstance(size, int)]
    tokens = prod(known) if sizes and len(known) == len(sizes) else None
    engines = {e.name: e.busy for e in report.engines if e.commands}
    return Answer(job.key, measure(Measured(result, report, tokens)), dims, engines)


def _passing(error: CompileError) -> bool:
    """Whether it is about a file that may be there another time."""
    return any(d.kind is Kind.FILE_MISSING for d in error.diagnostics)


def _model(job: Job) -> Original:
    """The model of a job, read once. Raises CompileError, also where the file is no longer what it was."""
    place = (job.model, job.options.phase, job.model_digest)
    if place not in _models:
        graph = read_model(job.model, job.options)
        if model_digest(job.model, graph) != job.model_digest:
            message = f"{job.model} is not what it was when the sweep began"
            raise CompileError(Diagnostic(Kind.FILE_MISSING, message, help="run the sweep again"))
        _models[place] = Original(graph)
        while len(_models) > MOST_MODELS:
            _models.popitem(last=False)
    _models.move_to_end(place)
    return _models[place]


def _token_dims(graph: Graph) -> tuple[int | Sym, ...] | None:
    """The extents of the token ids, [batch, new tokens]; None for a model without any."""
    try:
        return tuple(token_input(graph).type.shape)
    except CompileError:
        return None
