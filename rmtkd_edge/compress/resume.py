"""Going on with a run of which a file was lost or changed: back to the last step that is whole."""

from __future__ import annotations

import re
from collections.abc import Callable

from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run

CYCLE = re.compile(rf"{layout.CYCLES}/(\d+)/")
TRAINING = re.compile(rf"({layout.TEACHER_TRAINING}|{layout.CYCLES}/\d+/training-\d+)/")


def forget_damaged(run: Run) -> list[str]:
    """Take lost and changed files out of a run that goes on, with all that was made from them.

    Every process of a distributed run forgets the same; the one that writes removes them.

    Returns:
        A sentence for each file, for the user.
    """
    said = []
    for rel, why in run.damaged("compress/").items():
        if run.has(rel) and rel != layout.LOG:  # it did not go with an earlier one
            said.append(f"{rel} {why}: compression goes on from {_forget(run, rel)}")
    return said


def _forget(run: Run, rel: str) -> str:
    """Remove a file and what was made from it; return where the run goes on."""
    if rel.startswith(f"{layout.TEACHER}/"):
        _remove(run, lambda name: name.startswith("compress/"))
        return "the start"
    for folder in (layout.PREPROCESSING, layout.STUDENT_PREPROCESSING):
        if rel.startswith(f"{folder}/"):
            run.remove(folder)
    if (match := CYCLE.match(rel)) and not TRAINING.match(rel):
        first = int(match[1])
        _remove(run, lambda name: (found := CYCLE.match(name)) is not None and int(found[1]) >= first)
        return f"the start of cycle {first}"
    run.remove(rel)
    return "the last finished step"


def _remove(run: Run, wanted: Callable[[str], bool]) -> None:
    for name in [name for name in run.manifest["files"] if wanted(name)]:
        run.remove(name)
