"""Whether the files of a run are those that its stages wrote; nothing is changed."""

from __future__ import annotations

import shlex
from pathlib import Path

from rmtkd_edge.cli.examine import Check
from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run


def examine_run(path: Path) -> list[Check]:
    """Return a check for every file of a run that is not what was written, or one that says that all are.

    Raises:
        RunDirError: there is no run.
    """
    try:
        run = Run.open(path)
    except RunDirError as err:
        if not (path / layout.MANIFEST).is_file():
            raise
        return [Check(layout.MANIFEST, "problem", err.message, err.hint)]
    damaged = run.damaged()
    if not damaged:
        count = len(run.manifest["files"])
        return [Check(str(path), "ok", f"all {count} files are as they were written")]
    return [Check(rel, "problem", why, _advice(run, rel)) for rel, why in damaged.items()]


def _advice(run: Run, rel: str) -> str:
    """Return the command that writes a file again."""
    where, (folder, _, name) = shlex.quote(str(run.path)), rel.partition("/")
    device = Path(name).stem
    if folder == "compress" and run.stage("compress").get("state") != "done":
        return "the same compress command goes back to the last finished step"
    commands = {
        "compress": f"restore it, or rmtkd-edge compress {where}/{layout.RECIPE} --out {where} --force",
        layout.ROLES["candidate"].folder: f"rmtkd-edge export {where} --force",
        layout.ROLES["baseline"].folder: f"rmtkd-edge export {where} --force",
        layout.STUDENTS: f"rmtkd-edge export {where} --force",
        layout.EXPLAINED: f"rmtkd-edge export {where} --explain",
        layout.PROFILES: f"rmtkd-edge profile {where} --on {device} --force",
        layout.TUNED: f"rmtkd-edge profile {where} --on {device} --tune",
        layout.BUNDLES: f"rmtkd-edge bundle {where} --on {device} --force",
        layout.REPORT: f"rmtkd-edge report {where}",
    }
    return commands.get(folder, "restore it")
