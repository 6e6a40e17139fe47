"""Errors that tell the user what is wrong, where, and what to type next."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST_REASON = 2000  # characters of another library's error
SHOWN = 10  # entries of a list in a message


class RmtkdError(Exception):
    """A fault that the command line shows as a message, a hint and an exit code.

    `message` says what is wrong and where; `hint` is the next thing to do, best a command to type.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UserError(RmtkdError):
    """Something in the call or in what the user brought (exit 2)."""


class RecipeError(UserError):
    """A recipe or profile that cannot be used; the message lists every fault at once."""


class DataError(UserError):
    """A data set that is missing, empty, malformed or has the wrong columns."""


class NotFiniteError(UserError):
    """A model whose outputs are NaN or infinite on some rows."""


class RunDirError(UserError):
    """A run directory that cannot be created, read or trusted (wrong hash, other version, no space)."""


class ProviderError(UserError):
    """An execution provider, meter or device that was asked for and is not there."""


class TrainingError(RmtkdError):
    """Training that cannot continue (a loss that is not finite); the last good checkpoint stays (exit 1)."""

    exit_code = 1


class Finding(RmtkdError):
    """A check that was carried out and failed (exit 1); `table` holds its rows, the header first."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "", table: Sequence[Sequence[str]] = ()) -> None:
        super().__init__(message, hint)
        self.table = [list(row) for row in table]


def reason(err: BaseException) -> str:
    """Return what another library's error says: all its lines, for the first often only points to the others."""
    lines = [line.rstrip() for line in str(err).splitlines() if line.strip()]
    text = "\n".join(lines) or type(err).__name__
    return text if len(text) <= LONGEST_REASON else f"{text[:LONGEST_REASON]} ..."


def some(items: Sequence[object]) -> str:
    """Return a list for a message: its first ten entries, and how many there are more."""
    more = f" and {len(items) - SHOWN:,} more" if len(items) > SHOWN else ""
    return ", ".join(str(item) for item in items[:SHOWN]) + more
