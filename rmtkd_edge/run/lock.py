"""One process writes to a run directory at a time.

The operating system holds the lock and drops it when its process ends, however that ends, so that the lock of a dead
process is never in the way. The file says who holds it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import LOCK
from rmtkd_edge.run.leftovers import sweep

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

BEYOND = 2**30  # Windows locks bytes: one after the text, so that others can read who holds it


@contextlib.contextmanager
def open_to_write(path: Path | str) -> Iterator[Run]:
    """Open a run directory that no other process writes to, and sweep what killed ones left there.

    Raises:
        RunDirError: there is no run, or another process holds it; the message names the process.
    """
    Run.open(path)  # nothing is written to a folder that is no run
    with RunLock(Path(path)) as lock:
        lock.take()
        sweep(Path(path))
        yield Run.open(path)


class RunLock:
    """The lock of a run directory; leaving the `with` releases it, whether it was taken or not."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path / LOCK
        self._handle: IO[str] | None = None

    def take(self) -> None:
        """Take the lock if it is not held yet; raise RunDirError naming the process that holds it."""
        while self._handle is None:
            handle = self._open()
            if not hold_file(handle):
                holder = _read(handle)
                handle.close()
                raise RunDirError(
                    f"{self.path} is in use by {holder}", "wait until it ends; `report --out FOLDER` only reads"
                )
            if _is_at(handle, self.file):
                self._handle = handle
            else:  # its holder removed it between our opening and our locking
                handle.close()
        self._handle.seek(0)
        self._handle.truncate()
        self._handle.write(json.dumps({"pid": os.getpid(), "host": platform.node()}) + "\n")
        self._handle.flush()

    def _open(self) -> IO[str]:
        if self.path.exists() and not self.path.is_dir():
            raise RunDirError(f"{self.path} is a file, not a folder", "choose another --out")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            return open(os.open(self.file, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o644), "r+")
        except OSError as err:
            raise RunDirError(
                f"cannot write {self.file}: {err.strerror or err}", "free space, or choose a folder that can be written"
            ) from err

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if self._handle is not None:
            with contextlib.suppress(OSError):  # Windows removes no open file; an empty lock is in nobody's way
                self.file.unlink()
            with contextlib.suppress(OSError):
                self._handle.close()
            self._handle = None


def hold_file(handle: IO[str]) -> bool:
    """Lock an open file until it is closed, or its process ends; return False where another process holds it."""
    try:
        if sys.platform == "win32":
            handle.seek(BEYOND)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: two processes at once are then up to the user
        return True
    return True


def _read(handle: IO[str]) -> str:
    handle.seek(0)
    try:
        found = json.loads(handle.read(1000))
        return f"process {int(found['pid'])} on {found['host']}"
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        return "another process"  # it has just begun


def _is_at(handle: IO[str], file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle.fileno()), file.stat())
    except OSError:
        return False
