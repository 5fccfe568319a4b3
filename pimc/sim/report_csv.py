"""The tables of a report as CSV: a column for each field, and for each key of a field that is a mapping."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

from pimc.backends.assembly import layout_text, ranks

if TYPE_CHECKING:
    from pimc.backends.program import Program
    from pimc.sim.report import Report

Record = Mapping[str, Any]


def csv_text(records: Iterable[Any], columns: Sequence[str] = ()) -> str:
    """Records (dataclasses or mappings) as CSV with a header. `columns`: those of a table that may be empty.

    Fields that are mappings become `field.key`, for every key that any record has. Numbers are written in full.
    """
    flat = [_flat(record if isinstance(record, Mapping) else asdict(record)) for record in records]
    names = list(dict.fromkeys([*columns, *_in_order(flat)]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(row.get(name)) for name in names] for row in flat)
    return text.getvalue()


def _flat(record: Record) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in value.items()}
        else:
            found[name] = value
    return found


def _in_order(rows: Sequence[Record]) -> list[str]:
    """All names, the keys of one field side by side."""
    groups: dict[str, dict[str, None]] = {}
    for row in rows:
        for name in row:
            groups.setdefault(name.partition(".")[0], {})[name] = None
    return [name for group in groups.values() for name in group]


def _cell(value: Any) -> Any:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else value


def ops_csv(*reports: Report) -> str:
    """The table of ops; of several reports one after another."""
    from pimc.sim.report import OpReport

    return csv_text([op for report in reports for op in report.ops], _scalars(OpReport))


def tables_of(report: Report, program: Program) -> dict[str, str]:
    """Every table by the name of its file."""
    from pimc.backends.roofs import Roof
    from pimc.sim.moves import MoveReport
    from pimc.sim.report import BeatReport, EngineReport, PassReport, PhaseReport, RequestReport, ResourceReport

    tables: dict[str, tuple[Iterable[Any], Sequence[str]]] = {
        "run": ([_headline(report)], ()),
        "engines": (report.engines, _scalars(EngineReport)),
        "resources": (report.resources, _scalars(ResourceReport)),
        "phases": (report.phases, _scalars(PhaseReport)),
        "moved": (({"what": name, "bytes": n} for name, n in report.bytes_moved.items()), ("what", "bytes")),
        "moves": (report.moves, _scalars(MoveReport)),
        "energy": (_energy(report), ("of", "name", "joules")),
        "roofs": (report.roofs, _scalars(Roof)),
        "beats": (report.beats, _scalars(BeatReport)),
        "passes": (report.passes, _scalars(PassReport)),
        "sources": (({"numbers": n, "source": s} for n, s in report.sources.items()), ("numbers", "source")),
        "requests": (report.requests, _scalars(RequestReport)),
        "memory": (_memory(program), ("name",)),
        "streams": (_streams(program), ("engine",)),
    }
    found = {f"{name}.csv": csv_text(records, columns) for name, (records, columns) in tables.items()}
    return {"ops.csv": ops_csv(report), **found}


def _scalars(cls: type[Any]) -> list[str]:
    """The fields of a dataclass that are one column, whatever they hold."""
    return [f.name for f in fields(cls) if not str(f.type).startswith("Mapping")]


def _headline(report: Report) -> dict[str, Any]:
    """What is said of the run as a whole: all that is no table, and no drawing."""
    plain = report.to_json()
    left = ("banks", "channels", "timeline", "sources", "energy")
    found = {name: value for name, value in plain.items() if not isinstance(value, list | tuple) and name not in left}
    if report.energy is not None:
        found |= {"energy": report.energy.total_j, "power": report.energy.power_w}
    return found


def _energy(report: Report) -> Iterable[Record]:
    """Joules by what they are spent on, and once more by engine with what belongs to none."""
    if report.energy is None:
        return
    for name, joules in report.energy.groups.items():
        yield {"of": "group", "name": name, "joules": joules}
    for name, joules in {**report.energy.engines, "static": report.energy.static_j}.items():
        yield {"of": "engine", "name": name, "joules": joules}


def _memory(program: Program) -> Iterable[Record]:
    for e in program.memory:
        yield {
            "name": e.name,
            "role": e.role,
            "space": e.space,
            "dtype": e.dtype.text,
            "shape": "x".join(map(str, e.shape)),
            "bytes": e.layout.elements * max(1, e.dtype.bits // 8) if e.blocks is None else e.blocks.pool[1],
            "offset": e.layout.offset,
            "layout": layout_text(e.layout),
            "devices": ranks(e.devices),
        }


def _streams(program: Program) -> Iterable[Record]:
    from pimc.backends.program import count, steps

    for s in program.streams:
        yield {
            "engine": s.engine,
            "devices": ranks(s.devices),
            "instances": ranks(s.instances),
            "written": sum(1 for _ in steps(s.items)),
            "executed": count(s.items),
        }
