"""Commands of the program in forks of this process, which has imported what they need, and what is counted of them."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmtkd_edge.cli.app import main as rmtkd_edge

PATIENCE_S = 300.0  # after which a command counts as hung
MEMORY = 8 * 2**30  # bytes that a command may take
GRACE_S = 30.0  # for the children of a command that was killed, which notice it with their next line of output


@dataclass
class Tally:
    """What was tried of one kind, and what went wrong."""

    kind: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, fault: str) -> None:
        """Count a trial; `fault` is "" where it survived."""
        self.tried += 1
        if fault:
            self.failures.append(fault)
            print(f"{self.kind}: {fault}", file=sys.stderr, flush=True)

    def row(self, asked: str) -> str:
        """Return the row of a Markdown table, with the command's arguments."""
        return f"| {self.kind} | {self.tried} | {self.tried - len(self.failures)} | `{asked}` |"


Program = Callable[[list[str]], object]


def started(
    argv: list[str], log: Path, before: Callable[[], object] = lambda: None, program: Program = rmtkd_edge
) -> int:
    """Run a command in a fork with a process group of its own, once it is about to begin; return its process id.

    Args:
        log: takes what it prints.
        before: called in the fork first.
        program: of this package, or the runner of a bundle.
    """
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        os.read(reading, 1)  # it begins, or ended already
        os.close(reading)
        return pid
    code: Any = 3
    try:
        os.setpgid(0, 0)
        with open(log, "w", encoding="utf-8") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))  # a file that never ends must not take the machine
        before()
        os.write(writing, b".")
        code = program(argv)
    except SystemExit as left:
        code = left.code
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0)


def ended(pid: int, patience_s: float = PATIENCE_S) -> int | None:
    """Return the exit code of a fork (negative: the signal), None where it had to be killed."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def call(
    argv: list[str], log: Path, before: Callable[[], object] = lambda: None, program: Program = rmtkd_edge
) -> int | None:
    """Run a command to its end and return its exit code, None where it hung."""
    return ended(started(argv, log, before, program))


def orphans(group: int, grace_s: float = GRACE_S) -> list[str]:
    """Return the commands of a process group that still run after a while (Linux; elsewhere none are seen)."""
    end = time.monotonic() + grace_s
    while (found := _members(group)) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def _members(group: int) -> list[str]:
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, member_of = (folder / "stat").read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state != "Z":
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200])
        except (OSError, ValueError):  # it ended in between
            continue
    return found


def refusal(code: int | None, log: Path, codes: tuple[int, ...] = (2,)) -> str:
    """Return "" where a command ended with one of `codes` and told why without a traceback; else how it ended."""
    text = log.read_text(encoding="utf-8", errors="replace")
    if code is None:
        return f"hung: {text[-400:]}"
    if code not in codes or "Traceback" in text or (code and not text.strip()):
        return f"exit {code}: {text[-600:]}"
    return ""
