"""How Node or a page of a browser is started and spoken to: a command goes out, one JSON object comes back."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import RmtkdError, UserError
from rmtkd_edge.profile.javascript_server import PageServer
from rmtkd_edge.profile.measuring.basics import RunnerError, read_text
from rmtkd_edge.profile.measuring.machine import status_bytes

QUIET = (
    "--headless=new",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-extensions",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--password-store=basic",
)


@dataclass(frozen=True)
class Limits:
    """When to stop waiting: at `end` (time.monotonic seconds; None: never), or `stall_s` seconds after a command."""

    end: float | None
    stall_s: float


class Link:
    """A runtime that answers commands; stop() ends its processes."""

    name = ""

    def __init__(self, limits: Limits, errors: Path) -> None:
        self.limits, self.errors, self.sent = limits, errors, 0
        self.replies: queue.Queue[dict[str, Any]] = queue.Queue()
        self.process: subprocess.Popen[str]

    def call(self, what: str, **facts: Any) -> dict[str, Any]:
        """Return the answer to a command.

        Raises RunnerError (kind `model`) for what the runtime refuses, UserError when it takes too long, RmtkdError
        when it has ended.
        """
        self.sent += 1
        begun = time.monotonic()
        self._send({"id": self.sent, "what": what, **facts})
        while True:
            try:
                reply = self.replies.get(timeout=0.5)
            except queue.Empty:
                self._check(what, begun)
                continue
            if reply.get("id") in (self.sent, None):  # None: the page itself failed
                break
        if "error" in reply:
            raise RunnerError("model", f"{self.name}: {reply['error']}")
        return reply

    def _check(self, what: str, begun: float) -> None:
        if self.process.poll() is not None or not self._alive():
            last = self.errors.read_text(encoding="utf-8", errors="replace").strip()[-600:] or "it said nothing"
            raise RmtkdError(
                f"{self.name} ended during `{what}`: {last}",
                "repeat the command: what was measured is kept; a model too large for memory ends it too",
            )
        now = time.monotonic()
        late = self.limits.end is not None and now >= self.limits.end
        if late or now - begun > self.limits.stall_s:
            why = "the time was up" if late else f"it said nothing for {self.limits.stall_s:g} s"
            raise UserError(
                f"{self.name} was stopped: {why}",
                "repeat the command: it continues from there; or give it more time or fewer workloads",
            )

    def _send(self, command: dict[str, Any]) -> None:
        raise NotImplementedError

    def _alive(self) -> bool:
        return True

    def workers(self) -> list[int]:
        """Return the processes that may run the model."""
        return [self.process.pid]

    def memory(self) -> tuple[int | None, int | None]:
        """Return VmRSS and VmHWM of the process that holds the model, in bytes; None where /proc does not give them."""
        found = [_memory_of(pid) for pid in self.workers()]
        return max(found, key=lambda pair: pair[0] or 0, default=(None, None))

    def stop(self) -> None:
        """End the runtime's processes."""
        if self.process.poll() is None:
            _signal(self.process, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=10)
        _signal(self.process, getattr(signal, "SIGKILL", signal.SIGTERM))
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def _signal(process: subprocess.Popen[str], number: int) -> None:
    """Signal a process and all that it started, which share its group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number) if hasattr(os, "killpg") else process.send_signal(number)


def _memory_of(pid: int) -> tuple[int | None, int | None]:
    text = read_text(f"/proc/{pid}/status") or " "
    return status_bytes("VmRSS", text), status_bytes("VmHWM", text)


class NodeLink(Link):
    """Node on node.mjs: commands on its standard input, answers on its output."""

    name = "node"

    def __init__(self, binary: str, script: Path, modules: Path, bundle: Path, limits: Limits) -> None:
        super().__init__(limits, bundle / "node-stderr.txt")
        command = [binary, str(script), str(modules), str(bundle)]
        with self.errors.open("w", encoding="utf-8") as stderr:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": stderr}
            self.process = subprocess.Popen(command, cwd=bundle, encoding="utf-8", start_new_session=True, **pipes)
        threading.Thread(target=self._pump, daemon=True).start()

    def _send(self, command: dict[str, Any]) -> None:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended, which _check says better
            self.process.stdin.write(json.dumps(command) + "\n")
            self.process.stdin.flush()

    def _pump(self) -> None:
        assert self.process.stdout is not None
        with contextlib.suppress(ValueError):  # stop() closed the pipe
            for line in self.process.stdout:
                with contextlib.suppress(ValueError):  # a library that prints
                    self.replies.put(dict(json.loads(line)))


class PageLink(Link):
    """A page in a headless browser that fetches commands from this process and posts the answers."""

    name = "the page"

    def __init__(self, binary: str, folders: Mapping[str, Path], threads: int, limits: Limits, errors: Path) -> None:
        super().__init__(limits, errors)
        self.server = PageServer(folders, self.replies)
        self.settings = tempfile.TemporaryDirectory(prefix="rmtkd-browser-", ignore_cleanup_errors=True)
        self.seen_renderer = False
        root = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []  # it refuses to start otherwise
        url = f"{self.server.url}/js/page.html?threads={threads}"
        command = [binary, *QUIET, *root, f"--user-data-dir={self.settings.name}", url]
        try:
            with errors.open("w", encoding="utf-8") as stderr:
                self.process = subprocess.Popen(
                    command, stdout=subprocess.DEVNULL, stderr=stderr, text=True, start_new_session=True
                )
        except OSError:
            self.server.stop()
            self.settings.cleanup()
            raise

    def _send(self, command: dict[str, Any]) -> None:
        self.server.commands.put(command)

    def _alive(self) -> bool:
        """Return whether the page's process is there: a browser outlives the crash of its page."""
        there = any(_is_renderer(pid) for pid in family(self.process.pid))
        self.seen_renderer |= there
        return there or not self.seen_renderer

    def workers(self) -> list[int]:
        """Return the browser's processes that run pages."""
        return [pid for pid in family(self.process.pid) if _is_renderer(pid)]

    def stop(self) -> None:
        """End the browser and the server, and remove the browser's settings."""
        self.server.stop()
        super().stop()
        self.settings.cleanup()


def family(root: int) -> list[int]:
    """Return a process and its descendants, as far as /proc shows them."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        after = (read_text(f"{folder}/stat") or "").rpartition(")")[2].split()
        if len(after) > 1:
            parents[int(folder.name)] = int(after[1])
    found, grew = {root}, True
    while grew:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found, grew = found | more, bool(more)
    return sorted(found)


def _is_renderer(pid: int) -> bool:
    return "--type=renderer" in (read_text(f"/proc/{pid}/cmdline") or "")
