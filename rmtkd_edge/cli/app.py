"""The command line: argv in, text and an exit code out. One command a file; each calls the Python API.

Exit codes: 0 done; 1 a check was carried out and failed, or training could not continue; 2 the user's error; 3 a fault
of this program; 130 interrupted, 143 terminated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import threading
import traceback
from typing import Annotated

import typer

from rmtkd_edge.cli import (
    bundle,
    calibrate,
    collect,
    compare,
    compress,
    demo,
    doctor,
    export,
    profile,
    profiles,
    push,
    recipes,
    report,
)
from rmtkd_edge.cli.output import complain, explain, say
from rmtkd_edge.errors import RmtkdError

INTERRUPTED, TERMINATED = 130, 143  # 128 and the number of the signal, as a shell says it
_received: list[int] = []  # the signals that asked this process to end
# what the machine refuses, and no fault of this program: space, rights, names that are too long
SURROUNDINGS = {
    getattr(errno, name)
    for name in ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EPERM", "EFBIG", "EIO", "ENAMETOOLONG", "ENOTDIR", "EPIPE")
    if hasattr(errno, name)
}

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Shrink transformers and ResNets by RMT-KD (random matrices, self-distillation), to ONNX; measure on devices.",
    epilog="Start here: [bold]rmtkd-edge demo[/] runs all four stages offline in a few minutes.",
)
for module in (
    compress,
    export,
    profile,
    bundle,
    collect,
    compare,
    report,
    push,
    demo,
    doctor,
    recipes,
    profiles,
    calibrate,
):
    app.command(name=module.__name__.rsplit(".", 1)[-1])(module.command)


def print_version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        from rmtkd_edge import __version__

        say(__version__)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that come before a command."""


def main(argv: list[str] | None = None) -> None:
    """Run the command line (on sys.argv when `argv` is None) and leave with its exit code."""
    _received.clear()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
        if signal.getsignal(signal.SIGINT) in (signal.default_int_handler, _interrupt):  # a shell may ignore it for us
            signal.signal(signal.SIGINT, _interrupt)
    code = _run(argv)
    if code == INTERRUPTED and signal.SIGTERM in _received:
        code = TERMINATED
    try:
        sys.stdout.flush()
    except OSError as error:
        code = _refused(error)
    sys.exit(code)


def _interrupt(number: int, _: object) -> None:
    """End as Ctrl-C does, so that locks and folders are released; libraries that catch it do not hide that it came."""
    _received.append(number)
    raise KeyboardInterrupt


def _run(argv: list[str] | None) -> int:
    """Run the command line and return its exit code, whatever happens."""
    try:
        code = app(args=argv, standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Exception as error:
        code = INTERRUPTED if _received else _explained(error)  # after a signal it is what a library made of that
    if code == INTERRUPTED:  # typer turns the signal into this code
        complain("interrupted; run the same command again to resume")
    return code if isinstance(code, int) else 0


def _explained(error: Exception) -> int:
    """Explain what ended a command, and return the exit code."""
    if isinstance(error, RmtkdError):
        explain(error)
        return error.exit_code
    if isinstance(error, OSError):
        return _refused(error) if error.errno in SURROUNDINGS else _fault()
    if isinstance(error, ImportError) and not (error.name or "").startswith("rmtkd_edge"):
        complain(f"error: a package that this needs does not import: {error}\ntry: rmtkd-edge doctor")
        return 2
    if hasattr(error, "format_message") and hasattr(error, "show"):  # typer's own: a wrong option or argument
        error.show()
        return int(getattr(error, "exit_code", 2))
    return _fault()


def _fault() -> int:
    traceback.print_exc()
    complain("this is a fault of rmtkd-edge; please report it with the lines above")
    return 3


def _refused(error: OSError) -> int:
    """Explain what the machine refused, and return the exit code."""
    if error.filename is None:  # standard output: Python would try once more, and fail, when it ends
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if error.errno == errno.EPIPE:  # whoever read the output has seen enough
        return 1
    what = "the output cannot be written" if error.filename is None else error.filename
    complain(f"error: {what}: {error.strerror or error}\ntry: free space, or another place or name")
    return 2
