"""One flipped byte in every file of a finished run: `doctor` names the file, and no stage computes anything from it."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import faults_data
from faults_kills import outcome
from faults_trials import Tally, call, refusal

from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import MANIFEST

READERS = {  # by the folder of a file, besides the report
    "compress": ("export",),
    "export": ("bundle", "profile"),
    "baseline": ("bundle", "profile"),
    "recipe.toml": ("export", "profile"),
    "bundles": ("collect",),
    MANIFEST: ("bundle", "collect", "export", "profile"),
}


def flips(case: faults_data.Case, seed: int, work: Path) -> Iterator[Tally]:
    """Flip one byte of every file of a finished run, one run a file, and give the commands that may read it."""
    rng, log, run = random.Random(f"{seed} bytes"), work / "log.txt", work / "flipped" / case.whole.name
    damaged = dataclasses.replace(case, whole=run)
    commands = {
        "report": case.command("report", run),
        "export": [*case.command("export", run), "--force"],
        "profile": [*case.command("profile", run), "--force"],
        "bundle": [*damaged.bundled(work / "board.toml", work / "flipped-bundle"), "--force"],
        "collect": ["collect", str(run), str(case.bundle / "results.json"), "--force"],
    }
    named, read = Tally(f"{case.name}: a flipped byte, named by doctor"), Tally(f"{case.name}: a flipped byte, read")
    for rel in sorted([*Run.open(case.whole).manifest["files"], MANIFEST]):
        for command in (None, "report", *READERS.get(rel.partition("/")[0], ())):
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(case.whole, run)
            place = _flip(run / rel, rng)
            if command is None:
                code = call(["doctor", str(run), "--json"], log)
                found = [c["name"] for c in json.loads(log.read_text())] if code == 1 else []
                named.note("" if found == [rel] else f"{rel}, byte {place}: exit {code}: {log.read_text()[-300:]}")
            else:
                fault = _computed(case, run, command, call(commands[command], log), log)
                read.note(fault and f"{rel}, byte {place}, {command}: {fault}")
    yield named
    yield read


def _flip(file: Path, rng: random.Random) -> int:
    data = bytearray(file.read_bytes())
    place = rng.randrange(len(data))
    data[place] ^= 1 << rng.randrange(8)
    file.write_bytes(data)
    return place


def _computed(case: faults_data.Case, run: Path, command: str, code: int | None, log: Path) -> str:
    """Return "" where a command refused, or did what it does with a whole run, since it does not read the file."""
    if code != 0:
        return refusal(code, log)
    if command in faults_data.STAGES and outcome(run, command) != outcome(case.whole, command):
        return "exit 0, with other results"
    return ""
