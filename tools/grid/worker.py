"""The process of one cell: it takes the run directory's lock, compresses or goes on with it, and notes a failure."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from _thread import interrupt_main
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shapes import this_processor

from grid.order import Order
from rmtkd_edge.errors import RmtkdError, RunDirError
from rmtkd_edge.run.directory import Run, atomic_write_bytes
from rmtkd_edge.run.layout import LOCK, MANIFEST
from rmtkd_edge.run.leftovers import sweep
from rmtkd_edge.run.lock import RunLock

CELL, FAILED, LOG = "cell.json", "failed.json", "cell.log"
NOT_ON_RECORD = "not on record"  # the machine of a cell of an older version
DONE, FAULT, IN_USE, INTERRUPTED = 0, 1, 75, 130  # exit codes of a cell's process
_received: list[int] = []  # signals that asked this process to end


def run_order(order: Order) -> int:
    """Run one cell and return an exit code; a failure is noted in the run directory."""
    for number in (signal.SIGTERM, signal.SIGINT):  # a shell may have ignored the latter for its background jobs
        signal.signal(number, _interrupt)
    if order.until is not None:
        timer = threading.Timer(max(0.0, order.until - time.time()), interrupt_main)
        timer.daemon = True
        timer.start()
    folder = Path(order.folder)
    try:
        with RunLock(folder) as lock:
            try:
                lock.take()
            except RunDirError as err:
                print(f"{folder}: {err.message}", file=sys.stderr)
                return IN_USE
            return _run_locked(order, folder)
    except KeyboardInterrupt:
        return INTERRUPTED


def _interrupt(number: int, _: object) -> None:
    _received.append(number)
    raise KeyboardInterrupt


def _run_locked(order: Order, folder: Path) -> int:
    (folder / FAILED).unlink(missing_ok=True)
    try:
        if (folder / MANIFEST).is_file() and Run.open(folder).stage("compress").get("state") == "done":
            return DONE  # by another process, since this one was started
        if order.copy_of is not None:
            copy_run(Path(order.copy_of), folder, order.facts)
        else:
            _compress(order, folder)
    except Exception as err:
        if _received:  # what a library made of the signal
            return INTERRUPTED
        if isinstance(err, RmtkdError):
            return _fail(folder, f"{err.message}\n{err.hint}".strip())
        traceback.print_exc()
        return _fail(folder, f"{type(err).__name__}: {err}")
    return DONE


def _compress(order: Order, folder: Path) -> None:
    from rmtkd_edge.api.compress import open_or_create, refuse_other_run
    from rmtkd_edge.cli.output import progress

    recipe = order.resolved()
    sweep(folder)
    run = open_or_create(recipe, folder, force=False)
    if not run.has(CELL):
        run.write_json(CELL, {**order.facts, "machine": this_machine()})
    with _logged(folder / LOG), progress() as reporter:
        import torch

        from rmtkd_edge.compress.stage import compress_run

        torch.set_num_threads(order.threads)
        refuse_other_run(run, Path(order.data))
        compress_run(run, recipe, data=Path(order.data), reporter=reporter)


def this_machine() -> str:
    """Return what trains here, and its torch; where a cell is interrupted, others may go on with it elsewhere."""
    import torch

    gpu = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if gpu else f"{this_processor().model}, {os.cpu_count()} cores"
    return f"{device}; torch {torch.__version__}"


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Let everything that is written go to a log file."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with open(path, "a", encoding="utf-8") as log:
        for number in (1, 2):
            os.dup2(log.fileno(), number)
    try:
        yield
    except Exception:
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, old in zip((1, 2), kept, strict=True):
            os.dup2(old, number)
            os.close(old)


def copy_run(source: Path, folder: Path, facts: dict[str, Any]) -> None:
    """Copy a finished run into a folder; the manifest comes last, so that a part of a copy is no run."""
    shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(LOCK, MANIFEST, FAILED, CELL))
    machine = json.loads((source / CELL).read_text()).get("machine", NOT_ON_RECORD)
    Run(folder, Run.open(source).manifest).write_json(CELL, {**facts, "machine": machine})


def _fail(folder: Path, reason: str) -> int:
    atomic_write_bytes(folder / FAILED, (json.dumps({"reason": reason}, indent=1) + "\n").encode())
    return FAULT
