"""Times of prefill and decode steps, as `--generate` prints them."""

from __future__ import annotations

from pimc.cli.layout import Column, count_text, grouped, table, time_text
from pimc.cli.screen import Line, line
from pimc.generation import Generation, StepResult


def generation_page(found: Generation, form: str) -> list[Line]:
    """Times to the first and to each further token, step by step."""
    first, *later = found.steps
    page = [[(found.model, "bold"), (" · ", "dim"), (found.target, "bold"), (f" · batch {found.batch}", "")]]
    page += [
        _number("first token", time_text(found.time_to_first_token), f", prompt of {first.new}"),
        _number("each further", time_text(found.time_per_token), f", mean of {len(later)}"),
        _number("tokens a second", count_text(found.tokens_per_second)),
        line(),
    ]
    page += step_table(found)
    if found.steps[0].comparison is not None:
        page += [line(), values_line(found, form)]
    if found.tokens is not None:
        for n, row in enumerate(found.tokens[:4]):
            page.append(line(f"  tokens of request {n}: {' '.join(map(str, row))}", "dim"))
    return page


def step_table(found: Generation) -> list[Line]:
    """The prefill and the decode steps, each with its time and what its values are like."""
    columns = [Column("step"), Column("cached", ">"), Column("new", ">"), Column("time", ">"), Column("cycles", ">")]
    checked = any(s.comparison is not None for s in found.steps)
    if checked:
        columns += [Column("values"), Column("largest error", ">"), Column("caches")]
    return table(columns, [_step_row(n, s, checked) for n, s in enumerate(found.steps)])


def values_line(found: Generation, form: str) -> Line:
    """Whether all steps compute what they should."""
    said = ("ok", "bold green") if found.ok else ("differ", "bold red")
    return [("  values  ", "dim"), said, (f", {form} format", "")]


def _number(label: str, number: str, rest: str = "") -> Line:
    return [(f"  {label:<17}", "dim"), (number, "bold green"), (rest, "")]


def _step_row(number: int, s: StepResult, checked: bool) -> list[str | Line]:
    name = f"decode {number}" if number else "prefill"
    row: list[str | Line] = [name, str(s.past), str(s.new), time_text(s.timing.time * 1e-12), grouped(s.timing.cycles)]
    if checked:
        c = s.comparison
        row += ["" if c is None else "ok" if c.ok else "differ", "" if c is None else f"{c.max_rel_err:.2g}"]
        row.append("carried" if s.carried else "")
    return row
