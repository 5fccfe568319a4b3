"""From what a command raises to what the user sees and the exit status. No traceback reaches a screen."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

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


def guarded(run: Callable[[], object], *, as_json: bool = False) -> int:
    """Run a command; its exit status. Errors are told on stderr, as text or as one JSON object."""
    from pimc.ir.diagnostics import CompileError, UsageError

    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    tell = _TELL_AS_JSON if as_json else _TELL
    try:
        status = run()
    except CompileError as error:
        return tell.diagnostics(error)
    except UsageError as error:
        return tell.usage(click.UsageError(str(error)))
    except click.UsageError as error:
        return tell.usage(error)
    except click.ClickException as error:
        return tell.failure(error.format_message())
    except (KeyboardInterrupt, click.Abort, EOFError):
        return INTERRUPTED
    except MemoryError as error:
        return tell.failure(f"this computer has not enough memory. {error}".rstrip(". "))
    except Exception as error:
        return tell.bug(error)
    return status if isinstance(status, int) else DONE


class _Tell:
    """Errors as text."""

    def diagnostics(self, error: Exception) -> int:
        from pimc.cli.render import render
        from pimc.cli.screen import stderr_page
        from pimc.ir.diagnostics import CompileError

        assert isinstance(error, CompileError)
        stderr_page(render(error.diagnostics))
        return FAILED

    def usage(self, error: click.UsageError) -> int:
        lines = [f"error: {_message(error)}"]
        hint = getattr(error, "help", None)
        if hint:
            lines.append(f"  help: {hint}")
        if error.ctx is not None:
            lines += [error.ctx.get_usage(), f"Try '{error.ctx.command_path} --help'."]
        return _say(lines, USAGE)

    def failure(self, message: str) -> int:
        return _say([f"error: {message}"], FAILED)

    def bug(self, error: Exception) -> int:
        """One line on the screen; all that is known in a file."""
        said, place = _bug(error)
        where = f"the report is in {place}" if place else "no report could be written"
        return _say([f"internal error: {said}; this is a bug in pimc, {where}"], BUG)


class _TellAsJson(_Tell):
    """Errors as one JSON object: `status`, and `errors` with what a diagnostic has."""

    def diagnostics(self, error: Exception) -> int:
        from pimc.ir.diagnostics import CompileError

        assert isinstance(error, CompileError)
        return _put([d.to_json() for d in dict.fromkeys(error.diagnostics)], FAILED)

    def usage(self, error: click.UsageError) -> int:
        usage = [] if error.ctx is None else [error.ctx.get_usage()]
        return _put([_plain("usage", _message(error), usage, getattr(error, "help", None))], USAGE)

    def failure(self, message: str) -> int:
        return _put([_plain("failure", message)], FAILED)

    def bug(self, error: Exception) -> int:
        said, place = _bug(error)
        return _put([_plain("bug", said, [f"the report is in {place}"] if place else [])], BUG)


_TELL, _TELL_AS_JSON = _Tell(), _TellAsJson()


def _message(error: click.UsageError) -> str:
    text = error.format_message()
    return f"{text[:1].lower()}{text[1:].rstrip('.')}"


def _bug(error: Exception) -> tuple[str, str]:
    """What a bug says of itself, and the place of its report."""
    from pimc.cli.bug import write_report

    what = str(error).splitlines()[0] if str(error) else ""
    name = type(error).__name__
    return f"{name}: {what}" if what else name, write_report(error)


def _plain(kind: str, message: str, notes: Sequence[str] = (), help: str | None = None) -> dict[str, Any]:
    return {"code": None, "kind": kind, "message": message, "places": [], "notes": [*notes], "help": help}


def _put(errors: list[dict[str, Any]], status: int) -> int:
    import json

    from pimc.cli.screen import write_error

    write_error(json.dumps({"status": status, "errors": errors}, indent=2) + "\n")
    return status


def _say(lines: Iterable[str], status: int) -> int:
    from pimc.cli.screen import visible, write_error

    written = (part for line in lines for part in line.split("\n"))
    write_error("".join(f"{visible(part)}\n" for part in written))
    return status
