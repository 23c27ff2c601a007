"""The verbs for the shell.

Exit codes: 0 done, 1 error, 2 usage or bad input, 3 partly done and resumable, 130 interrupted. Results go to standard
output, errors to standard error, one sentence each. Long commands draw a progress bar on a terminal and print one JSON
object per event otherwise.
"""

from __future__ import annotations

import errno
import re
import sys
from collections.abc import Callable

import typer

from fewslice.cli.about import demo, doctor
from fewslice.cli.exchange import convert, export, info, simulate
from fewslice.cli.judgement import evaluate, plan, report
from fewslice.cli.objects import measure, mesh, segment
from fewslice.cli.prediction import predict, verify
from fewslice.cli.training import run, train
from fewslice.errors import FewsliceError

__all__ = ["app", "main"]

_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM)


def _short(verb: Callable[..., None]) -> str:
    """Return what the list of commands says of one: the first clause of its description, never cut off."""
    return re.split(r"(?:;|\.) |\.$", " ".join((verb.__doc__ or "").split()))[0] + "."


app = typer.Typer(
    name="fewslice",
    help="Segment whole microscopy volumes from a few labelled slices.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for verb in (
    *(train, run, predict, verify),
    *(segment, measure, mesh),
    *(evaluate, report, plan),
    *(info, convert, simulate, export),
    *(demo, doctor),
):
    app.command(short_help=_short(verb))(verb)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    argv = sys.argv[1:] if arguments is None else arguments
    try:
        if _show_settings(argv):
            sys.exit(0)
        code = typer.main.get_command(app)(argv, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except FewsliceError as error:
        _complain(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        _complain("interrupted; the same command resumes")
        sys.exit(130)
    except Exception as error:
        sys.exit(_unexpected(error))


def _unexpected(error: Exception) -> int:
    """Report usage errors, full disks and lacking memory in one sentence; let real bugs through."""
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        _complain(error.format_message())
        return int(error.exit_code)
    if type(error).__name__ == "Abort":
        _complain("interrupted; the same command resumes")
        return 130
    if isinstance(error, OSError) and error.errno in _DISK_ERRORS:
        _complain(f"{error.strerror}: {error.filename or 'the output'}; free some space or choose another place")
        return 1
    if isinstance(error, MemoryError):
        _complain("not enough memory; predict with a smaller --block, or train with --set patch=[z,y,x]")
        return 1
    raise error


def _complain(sentence: str) -> None:
    typer.echo("error: " + " ".join(sentence.split()), err=True)


def _show_settings(argv: list[str]) -> bool:
    """Print the settings of one kind: ``train --strategy KIND``, ``segment --segmenter KIND``, ``simulate KIND``."""
    if argv and argv[0] == "simulate" and "--help" in argv:
        return _show_simulator(argv[1:])
    rooms = {"train": ("--strategy", "strategies"), "segment": ("--segmenter", "segmenters")}
    if not argv or argv[0] not in rooms or "--help" not in argv:
        return False
    option, room = rooms[argv[0]]
    kind = None
    for index, text in enumerate(argv):
        if text == option and index + 1 < len(argv):
            kind = argv[index + 1]
        elif text.startswith(f"{option}="):
            kind = text.partition("=")[2]
    if kind is None:
        return False
    from fewslice.settings_help import settings_text

    typer.echo(settings_text(kind, room))
    return True


def _show_simulator(arguments: list[str]) -> bool:
    if arguments[0].startswith("-"):
        return False
    from fewslice.settings_help import settings_text

    typer.echo(settings_text(arguments[0], "synthesis.simulators"))
    return True
