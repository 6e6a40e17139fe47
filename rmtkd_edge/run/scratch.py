"""Folders in the system's temporary directory, which the next process sweeps where a killed one left them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rmtkd_edge.run.lock import hold_file

PREFIX, IN_USE = "rmtkd-scratch-", "in-use"


@contextlib.contextmanager
def scratch_folder(kind: str) -> Iterator[Path]:
    """Return the context of an empty temporary folder; those that killed processes left are removed first."""
    _sweep()
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{kind}-") as name:
        folder = Path(name) / kind
        folder.mkdir()
        new = Path(name) / f".{IN_USE}"
        with open(new, "w", encoding="utf-8") as mark:
            hold_file(mark)  # until this process ends, however it ends
            with contextlib.suppress(OSError):  # Windows renames no open file: such a folder is never swept
                new.rename(Path(name) / IN_USE)  # seen by others once it is locked, and not before
            yield folder


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError), open(folder / IN_USE, "r+", encoding="utf-8") as mark:
            if hold_file(mark):
                shutil.rmtree(folder, ignore_errors=True)
