"""Disks that fill up in the middle of a stage or cannot be written at all: told with exit code 2, and gone on from.

The disk is a tmpfs that is mounted for it and filled up, or mounted again to be read only; that takes the right to
mount (root, or `unshare -rm python tools/faults.py ...`).
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from faults_data import Case
from faults_kills import differs, leftovers, repeated
from faults_trials import Tally, call, refusal

from rmtkd_edge.run.folders import files_of

SIZE = 256 * 2**20  # bytes
PAGE = 4096


@contextmanager
def disk(place: Path) -> Iterator[Path]:
    """Mount an empty tmpfs; raise SystemExit where that is not allowed."""
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)], check=False)
    if mounted.returncode:
        raise SystemExit(
            "the part `disks` mounts a tmpfs: run it as root, or by `unshare -rm`, or leave it out (--parts)"
        )
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def full_disks(case: Case, stage: str, before: Path, count: int, rng: random.Random, work: Path) -> Tally:
    """Run a stage on a disk with too little space left, free it, and give the command again."""
    tally, log = Tally(f"{case.name}: full disk in {stage}"), work / "log.txt"
    room = _bytes(case.whole) - (_bytes(before) if before.exists() else 0)
    for _ in range(count):
        with disk(work / "disk") as mounted:
            run, scratch, free = mounted / "runs" / case.whole.name, mounted / "tmp", room
            scratch.mkdir()
            code: int | None = 0
            while code == 0:  # it had space enough
                shutil.rmtree(run, ignore_errors=True)
                _copy(before, run)
                free = int(rng.uniform(0, free))
                fill(mounted, free)
                code = call(case.command(stage, run), log, scratch_in(scratch))
                (mounted / "filler").unlink()
            fault = refusal(code, log)
            fault = fault or repeated(case.command(stage, run), log, []) or differs(case, stage, run)
            fault = fault or leftovers(run, []) or "; ".join(f"{p} is left" for p in scratch.glob("rmtkd-*"))
            tally.note(fault and f"{free} bytes free: {fault}")
    return tally


def read_only(case: Case, stage: str, before: Path, work: Path) -> Tally:
    """Run a stage on a disk that cannot be written, make it writable, and give the command again."""
    tally, log = Tally(f"{case.name}: read-only folder in {stage}"), work / "log.txt"
    with disk(work / "disk") as mounted:
        run = mounted / "runs" / case.whole.name
        run.parent.mkdir()
        _copy(before, run)
        subprocess.run(["mount", "-o", "remount,ro", str(mounted)], check=True)
        fault = refusal(call(case.command(stage, run), log), log)
        subprocess.run(["mount", "-o", "remount,rw", str(mounted)], check=True)
        if not fault and before.exists() and files_of(run) != files_of(before):
            fault = "other files"
        fault = fault or repeated(case.command(stage, run), log, []) or differs(case, stage, run) or leftovers(run, [])
        tally.note(fault)
    return tally


def fill(mounted: Path, free: int) -> None:
    """Leave so many bytes of a disk free, in whole pages."""
    found = os.statvfs(mounted)
    size = found.f_bavail * found.f_frsize - free // PAGE * PAGE
    with open(mounted / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(PAGE, size))


def scratch_in(folder: Path) -> Callable[[], None]:
    """Return what makes a fork keep its temporary files in a folder."""

    def before() -> None:
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    return before


def _copy(before: Path, run: Path) -> None:
    if before.exists():
        shutil.copytree(before, run)


def _bytes(folder: Path) -> int:
    return sum((folder / name).stat().st_size for name in files_of(folder))
