"""From what a command raises to what the user sees and the exit status. No traceback reaches a screen."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable

import click

DONE, FAILED, USAGE, BUG, INTERRUPTED = 0, 1, 2, 70, 130

STATUSES = {
    DONE: "done",
    FAILED: "the work could not be done, values differ, or there are violations",
    USAGE: "wrong usage",
    BUG: "a bug of pimc; a report has been written",
    INTERRUPTED: "interrupted",
}
"""Exit statuses, and when a command ends with them."""


def guarded(run: Callable[[], object]) -> int:
    """Run a command; its exit status. Errors are shown on stderr."""
    from pimc.ir.diagnostics import CompileError, UsageError

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        status = run()
    except CompileError as error:
        return _show_diagnostics(error)
    except UsageError as error:
        return _show_usage(click.UsageError(str(error)))
    except click.UsageError as error:
        return _show_usage(error)
    except click.ClickException as error:
        return _say([f"error: {error.format_message()}"], FAILED)
    except (KeyboardInterrupt, click.Abort, EOFError):
        return INTERRUPTED
    except MemoryError as error:
        return _say([f"error: this computer has not enough memory. {error}".rstrip(". ")], FAILED)
    except Exception as error:
        return _report_bug(error)
    return status if isinstance(status, int) else DONE


def _say(lines: Iterable[str], status: int) -> int:
    from pimc.cli.screen import visible, write_error

    written = (part for line in lines for part in line.split("\n"))
    write_error("".join(f"{visible(part)}\n" for part in written))
    return status


def _show_diagnostics(error: Exception) -> int:
    from pimc.cli.render import render
    from pimc.cli.screen import stderr_page
    from pimc.ir.diagnostics import CompileError

    assert isinstance(error, CompileError)
    stderr_page(render(error.diagnostics))
    return FAILED


def _show_usage(error: click.UsageError) -> int:
    text = error.format_message()
    lines = [f"error: {text[:1].lower()}{text[1:].rstrip('.')}"]
    hint = getattr(error, "help", None)
    if hint:
        lines.append(f"  help: {hint}")
    if error.ctx is not None:
        lines += [error.ctx.get_usage(), f"Try '{error.ctx.command_path} --help'."]
    return _say(lines, USAGE)


def _report_bug(error: Exception) -> int:
    """One line on the screen; all that is known in a file."""
    from pimc.cli.bug import write_report

    what = str(error).splitlines()[0] if str(error) else ""
    name = type(error).__name__
    said = f"{name}: {what}" if what else name
    place = write_report(error)
    where = f"the report is in {place}" if place else "no report could be written"
    return _say([f"internal error: {said}; this is a bug in pimc, {where}"], BUG)
