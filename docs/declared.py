"""The reference pages, out of the declarations: ops, passes, commands, targets, command line, diagnostics, Python.

`filled` puts them where a page says `<!-- declared: NAME -->`. They say what the commands of the same names print with
`--json`, in Markdown.
"""

from __future__ import annotations

import enum
import inspect
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import click

_MARK = re.compile(r"^<!-- declared: ([\w-]+) -->$", re.MULTILINE)
_CODE = re.compile(r"(`+[^`]+`+)")
_SPECIAL = re.compile(r"([\\*_\[\]<>|])")


def filled(page: str) -> str:
    """The page with its reference parts."""
    return _MARK.sub(lambda mark: "\n".join(PARTS[mark[1]]()), page)


# -- Markdown ---------------------------------------------------------------------------------------------------------


def prose(text: str) -> str:
    """A docstring as Markdown: code stays, every other character means itself."""
    return "\n\n".join(
        part if part.startswith("    ") else _escaped(part) for part in re.split(r"\n\s*\n", inspect.cleandoc(text))
    )


def _escaped(text: str) -> str:
    parts = _CODE.split(text)
    return "".join(part if at % 2 else _SPECIAL.sub(r"\\\1", part) for at, part in enumerate(parts))


def cell(text: object) -> str:
    """A text as a cell of a table."""
    parts = _CODE.split(" ".join(str(text).split()))
    return "".join(p.replace("|", r"\|") if at % 2 else _SPECIAL.sub(r"\\\1", p) for at, p in enumerate(parts))


def code(text: object) -> str:
    """Code as a cell of a table."""
    shown = " ".join(str(text).split()).replace("|", r"\|")
    return f"`{shown}`" if shown else ""


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    found = list(rows)
    if found:
        yield f"| {' | '.join(titles)} |"
        yield "|" + "---|" * len(titles)
        yield from (f"| {' | '.join(row)} |" for row in found)
        yield ""


def fenced(language: str, text: str) -> Iterator[str]:
    yield from (f"```{language}", text.rstrip("\n"), "```", "")


# -- what there is ----------------------------------------------------------------------------------------------------


def ops() -> Iterator[str]:
    """Every op by the sort of its work."""
    from pimc.cli.ops import signature, to_json
    from pimc.ir.op import REGISTRY, lookup

    lookup("add")  # declares the built-in ops
    declared = [d for _, d in sorted(REGISTRY.items()) if d.rule.__module__.startswith("pimc.")]
    for kind in dict.fromkeys(d.cls for d in declared):
        yield from (f"## {kind.value}", "")
        for d in declared:
            if d.cls is kind:
                plain = to_json(d)
                yield from (f"### {_escaped(d.name)}", "")
                yield from fenced("text", f"{d.name}{signature(d)}")
                yield from (prose(d.doc), "")
                rows = [
                    (code(name), code(d.kinds[name]), "needed" if name in plain["required"] else code(_value(value)))
                    for name, value in {**dict.fromkeys(plain["required"]), **plain["attributes"]}.items()
                ]
                yield from table(("attribute", "type", "default"), rows)


def _value(value: object) -> str:
    return json.dumps(value)


def passes() -> Iterator[str]:
    """Every pass in the order in which passes run, with its options."""
    from pimc.cli.passes import to_json
    from pimc.passes.pipeline import DEFAULT
    from pimc.passes.registry import BUILTIN, PassRegistry

    registry = PassRegistry(dict(BUILTIN))
    others = [name for name in registry.names() if name not in DEFAULT]
    for name in dict.fromkeys((*DEFAULT, *others)):
        plain = to_json(registry.load(name), name)
        reached = f", and then is {plain['reaches']}" if plain["reaches"] else ""
        place = "" if name in DEFAULT else " It is not part of the default pipeline."
        yield from (f"## {name}", "", f"Needs a graph that is {plain['needs']}{reached}.{place}", "")
        yield from (prose(plain["doc"]), "")
        options = plain["options"]
        yield from table(
            ("option", "type", "default", ""),
            [(code(f"{name}.{o['name']}"), code(o["type"]), code(o["default"]), cell(o["doc"])) for o in options],
        )


def commands() -> Iterator[str]:
    """Every command of every back end, with its operands."""
    from pimc.backends.engines import commands as declared_commands
    from pimc.cli.commands import to_json

    declared = [c for c in declared_commands().values() if c.__module__.startswith("pimc.")]
    for unit in sorted({c.unit for c in declared}):
        yield from (f"## {unit or 'Every engine'}", "")
        for c in sorted((c for c in declared if c.unit == unit), key=lambda c: c.__module__):
            plain = to_json(c)
            yield from (f"### {_escaped(plain['name'])}", "", prose(plain["doc"]), "")
            rows = [
                (code(o["name"]), code(o["type"]), code(o["default"] or ""), cell(o["doc"])) for o in plain["operands"]
            ]
            yield from table(("operand", "type", "default", ""), rows)


def targets() -> Iterator[str]:
    """Every number of every target, with its source, and what follows."""
    from pimc.backends.target_registry import BUILTIN, load_target
    from pimc.cli.targets import to_json

    for name, _ in BUILTIN:
        plain = to_json(load_target(name))
        clock = plain["main_clock"]
        yield from (f"## {name}", "", prose(plain["description"]), "")
        yield from (f"Cycles of a report are of the {clock['engine']} clock, {clock['hz'] / 1e9:g} GHz.", "")
        engines = [
            (code(e["name"]), e["kind"], f"{e['clock_ps']} ps", str(e["instances"])) for e in plain["engines"]
        ]
        yield from table(("engine", "kind", "clock", "instances"), engines)
        numbers = {key: value for key, value in plain["numbers"].items() if key not in ("name", "description")}
        yield from _group("", numbers)
        yield from ("**derived**", "")
        derived = dict(plain["derived"])
        clocks = derived.pop("dram_clocks")
        rows = [(code(key), code(value)) for key, value in derived.items() if value is not None]
        rows += [(code("dram_clocks"), ", ".join(code(f"{key} {value}") for key, value in sorted(clocks.items())))]
        yield from table(("", ""), rows)


def _group(path: str, group: Mapping[str, Any]) -> Iterator[str]:
    """The numbers of a group with their source, and the groups in it."""
    flat = {key: value for key, value in group.items() if not isinstance(value, dict | list) and key != "source"}
    if path and (flat or "source" in group):
        yield from (f"**{path}**", "")
    if "source" in group:
        yield from (f"*Source:* {cell(group['source'])}", "")
    yield from table(("", ""), [(code(key), code(_text(value))) for key, value in flat.items()])
    for key, value in group.items():
        below = f"{path}.{key}".lstrip(".")
        if isinstance(value, dict) and value:
            yield from _group(below, value)
        elif isinstance(value, list) and value:
            yield from _rows(below, value)


def _rows(path: str, rows: Sequence[Any]) -> Iterator[str]:
    """A list: of texts, or a table, which is folded where it is long."""
    if not isinstance(rows[0], dict):
        yield from (f"**{path}**: {', '.join(code(_text(row)) for row in rows)}", "")
        return
    titles = list(dict.fromkeys(key for row in rows for key in row))
    shown = table(titles, [[code(_text(row[key])) if key in row else "" for key in titles] for row in rows])
    yield from (f"<details><summary>{path}: {len(rows)} rows</summary>", "", *shown, "</details>", "")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


# -- how it is asked --------------------------------------------------------------------------------------------------


def command_line() -> Iterator[str]:
    """Every subcommand: usage, what it does, arguments and options by section, examples."""
    from pimc.cli.group import COMMANDS, cli

    root = click.Context(cli, info_name="pimc")
    for name in COMMANDS:
        found = cli.get_command(root, name)
        assert found is not None
        ctx = click.Context(found, info_name=name, parent=root)
        yield from (f"## pimc {name}", "")
        yield from fenced("text", ctx.get_usage().removeprefix("Usage: "))
        yield from (prose((found.help or "").replace("\b\n", "")), "")
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in found.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                sections.setdefault(getattr(parameter, "section", "Options"), []).append(record)
        for title, records in sorted(sections.items(), key=lambda item: item[0] == "Options"):
            yield from table((title, ""), [(code(spelling), cell(text)) for spelling, text in records])
        examples = [line.strip() for line in (found.epilog or "").splitlines()[2:]]
        yield from fenced("bash", "\n".join(examples))


def statuses() -> Iterator[str]:
    """Exit statuses."""
    from pimc.cli.guard import STATUSES

    yield from table(("status", "when"), [(str(status), cell(about)) for status, about in STATUSES.items()])


def diagnostics() -> Iterator[str]:
    """Every kind of error."""
    from pimc.ir.diagnostics import Kind

    yield from table(("code", "name", "what it is about"), [(code(k.code), code(k.name), cell(k.about)) for k in Kind])


def python() -> Iterator[str]:
    """Every public name."""
    import pimc

    for module, names in _by_layer(pimc._PUBLIC):
        yield from (f"## {module}", "")
        for name in names:
            yield from (f"### {_escaped(name)}", "")
            yield from _public(name, getattr(pimc, name))


def _by_layer(places: Mapping[str, tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    titles = {"pimc.ir": "The graph", "pimc.passes": "Passes", "pimc.backends": "Machines and programs"}
    groups: dict[str, list[str]] = {}
    for name, (module, _) in places.items():
        layer = next((title for prefix, title in titles.items() if module.startswith(prefix)), "Compiling and running")
        groups.setdefault(layer, []).append(name)
    yield from groups.items()


def _public(name: str, thing: Any) -> Iterator[str]:
    if inspect.isclass(thing) and issubclass(thing, enum.Enum):
        yield from (prose(inspect.getdoc(thing) or ""), "")
        yield from (", ".join(code(f"{name}.{member.name}") for member in thing), "")
        return
    try:
        shown = f"{name}{inspect.signature(thing)}"
    except (TypeError, ValueError):
        shown = name
    yield from fenced("python", shown if len(shown) <= 110 else shown.replace(", ", ",\n    "))
    yield from (prose(inspect.getdoc(thing) or ""), "")
    if inspect.isclass(thing):
        public = {n: f for n, f in vars(thing).items() if inspect.isfunction(f) and not n.startswith("_")}
        rows = [(code(f"{n}{inspect.signature(f)}"), cell(_summary(f))) for n, f in public.items()]
        yield from table(("method", ""), rows)


def _summary(thing: object) -> str:
    return (inspect.getdoc(thing) or "").partition("\n\n")[0]


PARTS: Mapping[str, Callable[[], Iterator[str]]] = {
    "ops": ops,
    "passes": passes,
    "commands": commands,
    "targets": targets,
    "command-line": command_line,
    "statuses": statuses,
    "diagnostics": diagnostics,
    "python": python,
}
