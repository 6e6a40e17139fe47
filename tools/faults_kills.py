"""Kills at random moments of a stage: the same command, given again, must lead to what an undisturbed run leads to."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from faults_data import Case
from faults_trials import Tally, ended, orphans, started

from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.folders import files_of

ENDS = {signal.SIGKILL: -9, signal.SIGTERM: 143, signal.SIGINT: 130}
SAYS = "interrupted; run the same command again to resume\n"
AGAIN = 5  # times that a command is given until it must be done
PROMPT_S = 20.0  # from a signal to the end of a stage of seconds, on a busy machine
VOLATILE = {"seconds", "created", "finished", "version", "time", "threads"}


def kills(case: Case, stage: str, before: Path, duration: float, count: int, rng: random.Random, work: Path) -> Tally:
    """Kill a stage `count` times, from the run in which it begins (`before`)."""
    tally = Tally(f"{case.name}: kills of {stage}")
    scratch = Path(tempfile.gettempdir())
    caches = set(scratch.iterdir())  # of the libraries
    for number in range(count):
        name = list(ENDS)[number % len(ENDS)]
        fault = kill(case, stage, before, duration, name, rng, work)
        left = [path.name for path in scratch.iterdir() if path not in caches]
        tally.note(fault or (f"{name.name}: {', '.join(left)} left in TMPDIR" if left else ""))
    return tally


def kill(
    case: Case, stage: str, before: Path, duration: float, name: signal.Signals, rng: random.Random, work: Path
) -> str:
    """Kill a stage at a random moment, give its command again until it is done; return "" or how it ended otherwise."""
    run, log = work / "killed" / case.whole.name, work / "log.txt"
    argv, groups = case.command(stage, run), []
    while True:  # until the signal finds it running
        shutil.rmtree(run, ignore_errors=True)
        if before.exists():
            shutil.copytree(before, run)
        wait = rng.uniform(0, duration)
        pid = started(argv, log)
        groups.append(pid)
        time.sleep(wait)
        with contextlib.suppress(ProcessLookupError):  # Ctrl-C goes to the children too
            (os.killpg if name == signal.SIGINT else os.kill)(pid, name)
        begin = time.monotonic()
        code = ended(pid)
        took = time.monotonic() - begin
        if code != 0:
            break
        if took > PROMPT_S:
            return f"{name.name} after {wait:.2f} s did not end it for {took:.0f} s"
        duration *= 0.9  # it was the first of its kind that took so long
    what, text = f"{name.name} after {wait:.2f} s", log.read_text()
    if code != ENDS[name] or (code > 0 and not text.endswith(SAYS)) or "Traceback" in text or took > PROMPT_S:
        return f"{what}: exit {code} {took:.1f} s later: {text[-600:]}"
    fault = repeated(argv, log, groups) or differs(case, stage, run) or leftovers(run, groups)
    return fault and f"{what}: {fault}"


def repeated(argv: list[str], log: Path, groups: list[int]) -> str:
    """Give a command until it is done; return "" or how it ended otherwise."""
    for _ in range(AGAIN):
        pid = started(argv, log)
        groups.append(pid)
        code, text = ended(pid), log.read_text()
        if code == 0 or (code == 2 and ("--force" in text or "finished run" in text)):
            return ""
    return f"exit {code} when repeated: {text[-600:]}"


def differs(case: Case, stage: str, run: Path) -> str:
    """Return "" where a run has what the one has that was left alone."""
    if (here := files_of(run)) != (there := files_of(case.whole)):
        return f"other files: {sorted(set(here) ^ set(there))}"
    return "" if outcome(run, stage) == outcome(case.whole, stage) else "other results"


def outcome(run: Path, stage: str) -> Any:
    """Return what a stage left that must not depend on how often it was killed."""
    if stage == "compress":
        opened = Run.open(run)
        weights = {k: v for k, v in opened.manifest["files"].items() if k.endswith(".safetensors")}
        return plain(opened.read_json("compress/result.json")), weights
    if stage == "export":
        return [plain(json.loads((run / folder / "rmtkd.json").read_text())) for folder in ("export", "baseline")]
    if stage == "profile":
        results = json.loads((run / "profile/local-cpu.json").read_text())["results"]
        return [(r["label"], r["model"]["sha256"], r["workload"], len(r["latency"]["round_sizes"])) for r in results]
    return [(name, (run / "report" / name).read_bytes()) for name in files_of(run / "report")]


def plain(value: Any) -> Any:
    """Return JSON without what differs between two equal runs."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VOLATILE}
    return [plain(item) for item in value] if isinstance(value, list) else value


def leftovers(run: Path, groups: list[int]) -> str:
    """Return "" where a run's files are whole, and neither files nor processes are left that nobody needs."""
    opened = Run.open(run)
    stray = [n for n in files_of(run) if n not in opened.manifest["files"] and n != "run.json"]
    faults = [*(f"{rel} {why}" for rel, why in opened.damaged().items()), *(f"{n} is left" for n in stray)]
    faults += [f"`{command}` still runs" for group in groups for command in orphans(group)]
    faults += [f"{p} is left empty" for p in run.rglob("*") if p.is_dir() and not any(p.iterdir())]
    return "; ".join(faults)
