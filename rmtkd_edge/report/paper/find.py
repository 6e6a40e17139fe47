"""Which folders are run directories: those that are named, and those that lie in folders that are named."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rmtkd_edge.errors import UserError
from rmtkd_edge.run.layout import MANIFEST


@dataclass(frozen=True)
class Skipped:
    """A run or folder that is not in the report, why, and what helps (empty where nothing does)."""

    run: str
    why: str
    hint: str = ""


def find_runs(paths: Sequence[Path]) -> tuple[list[Path], list[Skipped]]:
    """Return the run directories, each once, in the order given, and the folders that hold none.

    Raises:
        UserError: a path that is no folder.
    """
    found: dict[Path, Path] = {}
    skipped = []
    for path in paths:
        if not path.is_dir():
            raise UserError(f"{path} is no folder", "name run directories, or folders that contain them")
        errors: list[OSError] = []
        inside = _runs_in(path, errors)
        skipped += [Skipped(str(err.filename), f"it cannot be read: {err.strerror}") for err in errors]
        if not inside and not errors:
            skipped.append(Skipped(str(path), "it holds no run directory"))
        for run in inside:
            found.setdefault(run.resolve(), run)
    return list(found.values()), skipped


def _runs_in(path: Path, errors: list[OSError]) -> list[Path]:
    """Return a folder itself where it is a run, else the runs below it, sorted; links are not followed.

    Folders that cannot be read are added to `errors`.
    """
    runs = []
    for folder, below, files in os.walk(path, onerror=errors.append):
        if MANIFEST in files:
            runs.append(Path(folder))
            below.clear()
    return sorted(runs)
