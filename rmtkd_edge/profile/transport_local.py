"""Carry out a bundle on this machine: runner.py in a fresh process, its progress passed on, its results read back."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from rmtkd_edge.errors import Finding, ProviderError, RmtkdError, RunDirError, UserError
from rmtkd_edge.profile.emulation import find_python
from rmtkd_edge.run.records.base import read_json_file
from rmtkd_edge.run.reporter import Reporter

Progress = Callable[[dict[str, Any]], None]
STALL_S = 900.0  # without output from the runner for this long, it counts as hung

_KINDS: dict[str, tuple[type[RmtkdError], str]] = {
    "provider": (
        ProviderError,
        "--on local-cpu measures on the processor, for which onnxruntime is enough; CUDAExecutionProvider needs "
        "an NVIDIA GPU and onnxruntime-gpu in place of onnxruntime",
    ),
    "meter": (ProviderError, "--meter auto takes what can be read here"),
    "disk": (RunDirError, "free space; the same command continues from what is there"),
    "limit": (UserError, "change [limits] in a copy of the profile, or measure on the device itself"),
    "runtime": (ProviderError, "pip install -U onnxruntime, there; or export with a lower --opset"),
    "hash": (RunDirError, "export the run again: rmtkd-edge export RUN"),
    "output": (Finding, "the exported model does not compute what it did on the host: export it again and verify"),
}


# What kills a process whatever it does: what it means, and what to do; Windows has not all of these signals
_DEATHS: dict[str, tuple[str, str]] = {
    "SIGILL": (
        "its processor lacks instructions that this onnxruntime is built with (illegal instruction)",
        "another version of onnxruntime, with {python} -m pip; else build onnxruntime for that processor",
    ),
    "SIGKILL": (
        "it was killed, most likely for want of memory",
        "close other programs, or measure fewer models or shorter sequences; the same command continues",
    ),
    "SIGSEGV": (
        "onnxruntime crashed (segmentation fault)",
        "another version of onnxruntime, with {python} -m pip",
    ),
    "SIGBUS": ("onnxruntime crashed (bus error)", "another version of onnxruntime, with {python} -m pip"),
}


def death(code: int, where: str, python: str) -> ProviderError | None:
    """Return the error for an exit code that says that a signal ended a process, None for any other code.

    Args:
        code: negative, as Python has it, or 128 and more, as shells have it.
        where: the machine, for the message.
        python: what runs Python there.
    """
    names = {number.value: number.name for number in signal.Signals}
    found = _DEATHS.get(names.get(-code if code < 0 else code - 128, ""))
    return (
        None
        if found is None
        else ProviderError(f"the measurement on {where}: {found[0]}", found[1].format(python=python))
    )


def progress_of(reporter: Reporter) -> Progress:
    """Return what passes the runner's events on to a reporter."""

    def progress(event: dict[str, Any]) -> None:
        reporter.event("runner", **{key: value for key, value in event.items() if key != "event"})

    return progress


def run_bundle(
    bundle: Path,
    results: Path,
    *,
    timeout_s: float | None = None,
    stall_s: float = STALL_S,
    progress: Progress | None = None,
    python: str | None = None,
) -> dict[str, Any]:
    """Run bundle/runner.py on bundle/plan.json and return the results document, which stays at `results`.

    progress: called with every event of the runner ({"event", "text", ...}). python: what runs it, this Python when
    None. What an earlier call left at `results` is continued. Raises ProviderError, RunDirError or Finding for the
    runner's refusals, UserError when it takes longer than `timeout_s`, or says nothing for `stall_s`, seconds; what was
    measured until then stays at `results`.
    """
    results.parent.mkdir(parents=True, exist_ok=True)
    plan = json.loads((bundle / "plan.json").read_text(encoding="utf-8"))
    env = {**os.environ, "OMP_NUM_THREADS": str(plan["threads"]), "PYTHONUNBUFFERED": "1"}
    program = sys.executable if python is None else find_python(python)
    command = [program, str(bundle / "runner.py"), str(bundle / "plan.json"), str(results.resolve()), "--json"]
    errors = bundle / "stderr.txt"
    with errors.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, cwd=bundle, env=env, stdout=subprocess.PIPE, stderr=stderr, text=True)
        try:
            _follow(process, timeout_s, stall_s, progress, results)
            code = process.wait()
        finally:
            _stop(process)
    if (dead := death(code, "this machine", program)) is not None:
        raise dead
    return read_outcome(results, code, errors.read_text(encoding="utf-8", errors="replace"))


def _follow(
    process: subprocess.Popen[str], timeout_s: float | None, stall_s: float, progress: Progress | None, results: Path
) -> None:
    """Pass the runner's events on until it closes its output; raise UserError when it is too slow or silent."""
    lines: queue.Queue[str | None] = queue.Queue()
    if process.stdout is None:
        raise RmtkdError("the runner was started without a pipe")
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    end = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = stall_s if end is None else min(stall_s, end - time.monotonic())
        try:
            line = lines.get(timeout=max(0.0, left))
        except queue.Empty:
            late = end is not None and time.monotonic() >= end
            what = f"took longer than {timeout_s:g} s" if late else f"said nothing for {stall_s:g} s"
            hint = f"repeat the command: it continues from {results}; or give it more time or fewer workloads"
            raise UserError(f"the runner {what} and was stopped", hint) from None
        if line is None:
            return
        if progress is not None:
            progress(event_of(line))


def _pump(stream: IO[str], lines: queue.Queue[str | None]) -> None:
    for line in stream:
        lines.put(line.rstrip("\n"))
    lines.put(None)


def event_of(line: str) -> dict[str, Any]:
    """Return an event; a line of something else (a library that prints) is passed on as text."""
    with contextlib.suppress(ValueError):
        found = json.loads(line)
        if isinstance(found, dict) and "event" in found:
            return found
    return {"event": "output", "text": line}


def _stop(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process.stdout is not None:
        process.stdout.close()


def read_outcome(results: Path, code: int, stderr: str) -> dict[str, Any]:
    """Return the finished document at `results`; raise the error of the runner's refusal or exit code."""
    try:
        document = read_json_file(results)
    except RunDirError:
        document = {}
    refused = document.get("error") if isinstance(document, dict) else None
    if code == 0 and isinstance(document, dict) and document.get("complete"):
        return document
    if refused and code == 2:
        raise refusal(refused["kind"], refused["message"])
    last = stderr.strip()[-600:] or "it said nothing"
    raise RmtkdError(f"the runner ended with code {code}: {last}", "repeat the command: what was measured is kept")


def refusal(kind: str, message: str) -> RmtkdError:
    """Return the error of a refusal by the runner."""
    error, hint = _KINDS.get(kind, (RmtkdError, "see the message above"))
    return error(message, hint)
