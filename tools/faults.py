"""Kill the stages, fill their disk, change their inputs: does a run end as if nothing had happened, or say what did?

    python tools/faults.py [--seed 0] [--kills 5] [--mutations 50] [--trials 3] [--cases text,images]
                           [--stages compress,export,profile,report] [--parts kills,disks,pairs,bytes,mutations,...]

kills: SIGKILL, SIGTERM, SIGINT in turn at a uniform moment of the stage's own duration while it runs; the same command
is given again until it is done. The run must then have the ranks, metrics and files of one that was left alone; no
temporary file and no process may be left. disks: too little space, or none that can be written (a tmpfs; needs the
right to mount). pairs: two processes on one run, and a stale lock. bytes: one flipped in every file of a finished run.
mutations: an odd value or damaged bytes in a document; the command must end with exit code 0 or 2, in time. bundles:
links, pipes, paths and sizes that lead out of one. names: markup in all that reaches a report.

Commands run in forks of this process, which has imported what they need. The table is Markdown; failures are told as
they come (stderr). Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import faults_bundles
import faults_bytes
import faults_data
import faults_disks
import faults_kills
import faults_mutations
import faults_names
import faults_pairs
from faults_data import STAGES, Case
from faults_trials import Tally

from rmtkd_edge.errors import RmtkdError

BY_STAGE = {"kills", "disks", "pairs"}
PARTS = ("kills", "disks", "pairs", "bytes", "mutations", "bundles", "names")


def tallies(asked: argparse.Namespace, work: Path) -> Iterator[Tally]:
    """Yield what the parts of the campaign counted, one after the other."""
    parts = set(asked.parts.split(","))
    for name in asked.cases.split(","):
        case = faults_data.make_case(name, work)
        yield from stages(case, asked, parts, work)
        if parts & {"bytes", "mutations", "bundles"}:
            faults_data.make_bundle(case, work)
        if "bytes" in parts:
            yield from faults_bytes.flips(case, asked.seed, work)
        if name == "text" and "mutations" in parts:
            yield from faults_mutations.mutations(case, asked.mutations, asked.seed, work)
        if name == "text" and "bundles" in parts:
            yield from faults_bundles.bundles(case, work)
        if name == "text" and "names" in parts:
            yield from faults_names.names(case, work)


def stages(case: Case, asked: argparse.Namespace, parts: set[str], work: Path) -> Iterator[Tally]:
    """Run a case whole, stage by stage, and disturb the stages that were asked for from where each begins."""
    wanted = asked.stages.split(",") if parts & BY_STAGE else []
    last = max(map(STAGES.index, wanted)) if parts <= BY_STAGE else len(STAGES) - 1
    for stage in STAGES[: last + 1]:
        before, rng = work / f"{case.name}-before-{stage}", random.Random(f"{asked.seed} {case.name} {stage}")
        if case.whole.exists():
            shutil.copytree(case.whole, before)
        begin = time.monotonic()
        case.run_whole(stage, work / "log.txt")
        duration = time.monotonic() - begin
        if stage in wanted and "kills" in parts:
            yield faults_kills.kills(case, stage, before, duration, asked.kills, rng, work)
        if stage in wanted and "disks" in parts:
            yield faults_disks.full_disks(case, stage, before, asked.trials, rng, work)
            yield faults_disks.read_only(case, stage, before, work)
        if stage in wanted and "pairs" in parts:
            yield faults_pairs.pairs(case, stage, before, duration, asked.trials, rng, work)
            yield faults_pairs.stale_lock(case, stage, before, work)
        shutil.rmtree(before, ignore_errors=True)


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=5, help="of every stage of every case")
    parser.add_argument("--mutations", type=int, default=50, help="of every kind of document")
    parser.add_argument("--trials", type=int, default=3, help="of full disks and of two processes, in every stage")
    parser.add_argument("--cases", default="text,images")
    parser.add_argument("--stages", default=",".join(faults_data.STAGES), help="that are disturbed")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--json", action="store_true")
    asked, counted = parser.parse_args(), []
    faults_data.warm_up()
    if not asked.json:
        print("| what | tried | survived | command |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory(prefix="rmtkd-faults-") as folder:
        work, scratch = Path(folder), Path(folder) / "tmp"
        scratch.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)  # of the forks, and looked through after a kill
        for tally in tallies(asked, work):
            counted.append(tally)
            if not asked.json:
                print(tally.row(" ".join(sys.argv[1:])), flush=True)
    if asked.json:
        print(json.dumps([vars(t) for t in counted], indent=1))
    sys.exit(1 if any(t.failures for t in counted) else 0)


if __name__ == "__main__":
    try:
        main()
    except RmtkdError as error:
        sys.exit(f"{error.message}; {error.hint}")
