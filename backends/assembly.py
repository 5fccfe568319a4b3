"""The text form of programs, `.pimasm`: what is printed.

    .stream "pim" devices=0-7 instances=0 {
      loop i0 8 {
        MAC  row=0x100+64*i0 count=32 @3     ; op scores  model.onnx: node "MatMul_3"
      }
    }

One command a line; operands that have their default are left out; `@3` names the row of the op table that the command
belongs to, and what follows `;` is a comment. `assembler.py` reads the text back to the same program.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict

from pimc.backends.affine import Affine
from pimc.backends.batches import plain_request, plain_rows
from pimc.backends.isa import Command, OperandDecl, operands_of
from pimc.backends.numbering import canonical
from pimc.backends.plain_blocks import plain_blocks
from pimc.backends.program import Item, Loop, MapEntry, OpRow, Program, Step, Stream
from pimc.backends.provenance import plain_costs
from pimc.backends.references import Blobs, plain
from pimc.ir.layout import Layout
from pimc.ir.types import DType

INDENT = "  "
COMMENT_COLUMN = 100
"""Comments of a stream start no further right than this, but for lines that are longer."""


def disassemble(program: Program) -> str:
    """The whole program as text."""
    program = canonical(program)
    blobs = Blobs()
    memory = [entry_text(entry, blobs) for entry in program.memory]
    sections = [
        _header(program),
        *_block(".memory", memory),
        *_block(".ops", (op_text(i, row) for i, row in enumerate(program.ops))),
        *_block(".blobs", (f"{i} {base64.b64encode(blob).decode()}" for i, blob in enumerate(blobs.items))),
        *(line for stream in program.streams for line in ("", *stream_lines(stream, program.ops))),
    ]
    return "\n".join(sections) + "\n"


def stream_lines(stream: Stream, ops: Sequence[OpRow]) -> Iterator[str]:
    """One stream, line by line, with its comments aligned."""
    yield f".stream {quoted(stream.engine)} devices={ranks(stream.devices)} instances={ranks(stream.instances)} {{"
    lines = list(_item_lines(stream.items, ops, 1))
    widest = max((len(text) for text, comment in lines if comment), default=0)
    column = min(widest, COMMENT_COLUMN)
    for text, comment in lines:
        yield f"{text:<{column}} ; {comment}" if comment else text
    yield "}"


def _item_lines(items: tuple[Item, ...], ops: Sequence[OpRow], depth: int) -> Iterator[tuple[str, str]]:
    """Text and comment of each line. Mnemonics of one level are padded to the same width."""
    width = max((len(i.command.mnemonic) for i in items if isinstance(i, Step)), default=0)
    pad = INDENT * depth
    for item in items:
        if isinstance(item, Loop):
            yield f"{pad}loop i{depth - 1} {item.count} {{", ""
            yield from _item_lines(item.body, ops, depth + 1)
            yield f"{pad}}}", ""
        else:
            yield (pad + step_text(item, width), _comment(item, ops))


def step_text(step: Step, width: int = 0) -> str:
    """One command as text, without its comment."""
    words = [step.command.mnemonic.ljust(width), *operand_texts(step.command)]
    if step.instances is not None:
        words.append(f"%{ranks(step.instances)}")
    if step.op >= 0:
        words.append(f"@{step.op}")
    return " ".join(words).rstrip()


def operand_texts(command: Command) -> Iterator[str]:
    """`name=value` of every operand that differs from its default."""
    for name, declaration in operands_of(type(command)).items():
        value = getattr(command, name)
        text = operand_text(value, declaration)
        if declaration.default is MISSING or text != operand_text(declaration.default, declaration):
            yield f"{name}={text}"


def operand_text(value: object, declaration: OperandDecl) -> str:
    match value:
        case DType():
            return value.text
        case tuple():
            return f"[{','.join(str(v) for v in value)}]"
        case float():
            return repr(value)
        case int() if declaration.kind == "real":
            return repr(float(value))
        case int() if declaration.hexadecimal and value >= 0:
            return f"0x{value:x}"
        case Affine(base=base, terms=terms) if declaration.hexadecimal and base >= 0:
            return f"0x{base:x}" + str(Affine(0, terms))[1:]
    return str(value)


def _comment(step: Step, ops: Sequence[OpRow]) -> str:
    if not 0 <= step.op < len(ops):
        return ""
    row = ops[step.op]
    source = row.source.split("; ")[0]
    return "  ".join(part for part in (f"{row.op} {row.name}", source) if part).replace("\n", " ")


# -- everything but streams ---------------------------------------------------------------------------------------


def _header(program: Program) -> str:
    description = json.dumps(program.target, indent=2, ensure_ascii=False)
    lines = [
        f".pimprog {program.version}",
        f".graph {quoted(program.graph)}",
        f".phase {quoted(program.phase)}",
        ".dims" + "".join(f" {quoted(k)}={v}" for k, v in program.dims.items()),
        f".devices {program.devices}",
        *([f".stages {program.stages}"] if program.stages > 1 else []),
        *([f".turns {program.turns}"] if program.turns > 1 else []),
        ".inputs" + "".join(f" {quoted(n)}" for n in program.inputs),
        ".outputs" + "".join(f" {quoted(n)}" for n in program.outputs),
        *(f".note {quoted(n)}" for n in program.notes),
        *([f".no-values {quoted(program.no_values)}"] if program.no_values else []),
        *([".flight" + "".join(f" {k}={v}" for k, v in asdict(program.flight).items())] if program.flight else []),
        *(f".request {json.dumps(plain_request(r), ensure_ascii=False)}" for r in program.requests),
        ".extent" + "".join(f" {quoted(k)}={v}" for k, v in program.extent.items()),
        *([f".command {quoted(program.command)}"] if program.command else []),
        *([f".choice {json.dumps(program.choice.to_json())}"] if program.choice is not None else []),
        *(f".pass {json.dumps([p.name, p.changed, p.ops])}" for p in program.passes),
        f".target {quoted(program.target_name)} {program.target_hash or '-'}",
        ".description",
        description,
        ".end",
    ]
    return "\n".join(lines)


def _block(name: str, lines: Iterable[str]) -> list[str]:
    body = [INDENT + line for line in lines]
    return ["", f"{name} {{", *body, "}"] if body else []


def entry_text(entry: MapEntry, blobs: Blobs) -> str:
    """One row of the memory map."""
    words = [
        quoted(entry.name),
        f"role={entry.role}",
        f"space={entry.space}",
        f"dtype={entry.dtype.text}",
        f"logical={entry.logical.text}",
        f"layout={layout_text(entry.layout)}",
        f"devices={ranks(entry.devices)}",
    ]
    if entry.shard is not None:
        words.append(f"shard={entry.shard[0]}/{entry.shard[1]}")
    if entry.alias is not None:
        words.append(f"alias={quoted(entry.alias)}")
    if entry.extents is not None:
        words.append(f"extents=[{','.join(map(str, entry.extents))}]")
    if entry.blocks is not None:
        words.append(f"blocks={json.dumps(plain_blocks(entry.blocks), separators=(',', ':'))}")
    if entry.rows is not None:
        words.append(f"rows={json.dumps(plain_rows(entry.rows), separators=(',', ':'))}")
    if entry.contents is not None:
        words.append(f"fill={json.dumps(plain(entry.contents, blobs), separators=(',', ':'), ensure_ascii=False)}")
    return " ".join(words)


def op_text(index: int, row: OpRow) -> str:
    """One row of the op table."""
    passes = json.dumps(list(row.passes), separators=(",", ":"))
    words = ("beat", "weight")
    named = "".join(f"{word}={quoted(getattr(row, word))} " for word in words if getattr(row, word))
    return (
        f"{index} {quoted(row.name)} op={quoted(row.op)} phase={quoted(row.phase)} nature={quoted(row.nature)} "
        f"engine={quoted(row.engine)} flops={row.flops} bytes={row.bytes} layer={row.layer} shares={row.shares} "
        f"{named}source={quoted(row.source)} passes={passes} reason={quoted(row.reason)}"
        + (f" costs={compact(plain_costs(row))}" if row.costs else "")
    )


def compact(plain: object) -> str:
    """JSON without blanks."""
    return json.dumps(plain, separators=(",", ":"), ensure_ascii=False)


def layout_text(layout: Layout) -> str:
    """`@offset(4:32,2:64*8:4)`: dimensions between commas, digits count:stride between stars, `-` for none."""
    dims = ("*".join(f"{count}:{stride}" for count, stride in digits) or "-" for digits in layout.dims)
    return f"@{layout.offset}({','.join(dims)})"


def ranks(numbers: Sequence[int]) -> str:
    """Ranges of numbers: `0-3,6`; `-` for none."""
    parts: list[str] = []
    at = 0
    while at < len(numbers):
        end = at
        while end + 1 < len(numbers) and numbers[end + 1] == numbers[end] + 1:
            end += 1
        parts.append(str(numbers[at]) if end == at else f"{numbers[at]}-{numbers[end]}")
        at = end + 1
    return ",".join(parts) or "-"


def quoted(text: str) -> str:
    """The text as JSON, with what cannot be seen as escapes."""
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in json.dumps(text, ensure_ascii=False))
