"""Two processes on one run: the second is refused with the first one's pid, and the lock of a dead one is taken."""

from __future__ import annotations

import json
import platform
import random
import shutil
import time
from pathlib import Path

from faults_data import Case
from faults_kills import differs, leftovers, repeated
from faults_trials import Tally, call, ended, refusal, started

DEAD = 2**22 + 1  # above the largest pid of Linux


def pairs(case: Case, stage: str, before: Path, duration: float, count: int, rng: random.Random, work: Path) -> Tally:
    """Give a stage's command twice, the second time at a random moment of the first."""
    tally, logs = Tally(f"{case.name}: two processes in {stage}"), (work / "first.txt", work / "second.txt")
    run = work / "pairs" / case.whole.name
    argv = case.command(stage, run)
    while tally.tried < count:
        shutil.rmtree(run, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, run)
        first = started(argv, logs[0])
        time.sleep(wait := rng.uniform(0, duration))
        second = started(argv, logs[1])
        codes = ended(second), ended(first)
        refused = [log for code, log in zip(reversed(codes), logs, strict=True) if code == 2]
        told = "".join(log.read_text() for log in refused)
        if codes == (0, 0) or (refused and "in use by" not in told and "--force" in told):
            duration *= 0.9  # the first had ended
            continue
        holder = first if refused == [logs[1]] else second
        fault = (
            "" if sorted(codes, key=str) == [0, 2] else f"exit {codes}: {''.join(p.read_text() for p in logs)[-600:]}"
        )
        if not fault and f"in use by process {holder} on {platform.node()}" not in told:
            fault = f"the holder is {holder}: {told[-300:]}"
        fault = fault or differs(case, stage, run) or leftovers(run, [first, second])
        tally.note(fault and f"the second after {wait:.2f} s: {fault}")
    return tally


def stale_lock(case: Case, stage: str, before: Path, work: Path) -> Tally:
    """Run a stage where a process that is no more has left its lock."""
    tally, log, run = Tally(f"{case.name}: stale lock in {stage}"), work / "log.txt", work / "pairs" / case.whole.name
    shutil.rmtree(run, ignore_errors=True)
    if before.exists():
        shutil.copytree(before, run)
    run.mkdir(parents=True, exist_ok=True)
    (run / "run.lock").write_text(json.dumps({"pid": DEAD, "host": platform.node()}) + "\n")
    fault = refusal(call(case.command(stage, run), log), log, (0,))
    tally.note(fault or repeated(case.command(stage, run), log, []) or differs(case, stage, run) or leftovers(run, []))
    return tally
