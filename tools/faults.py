"""Kill the stages, fill their disk, change their inputs: does a run end as if nothing had happened, or say what did?

    python tools/faults.py [--seed 0] [--kills 5] [--mutations 50] [--cases text,images] [--stages compress,export]
                           [--parts kills,mutations]

Every kill (SIGKILL, SIGTERM, SIGINT in turn) falls at a uniform moment of the stage's own duration while it runs; the
same command is given again until it is done. The run must then have the ranks, metrics and files of one that was left
alone; no temporary file and no process may be left. Every mutation puts an odd value or a flipped byte somewhere into a
document; the command must end with exit code 0 or 2, in time. Stages run in forks of this process, which has imported
what they need. The table is Markdown; failures are told as they come (stderr). Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import faults_data
import faults_kills
import faults_mutations
from faults_trials import Tally

from rmtkd_edge.errors import RmtkdError

PARTS = ("kills", "mutations")


def tallies(asked: argparse.Namespace, work: Path) -> Iterator[Tally]:
    """Yield what the parts of the campaign counted, one after the other."""
    parts = asked.parts.split(",")
    for name in asked.cases.split(","):
        case = faults_data.make_case(name, work)
        kills = asked.kills if "kills" in parts else 0
        yield from faults_kills.kills(case, asked.stages.split(","), kills, asked.seed, work)
        if name == "text" and "mutations" in parts:
            yield from faults_mutations.mutations(case, asked.mutations, asked.seed, work)


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=5, help="of every stage of every case")
    parser.add_argument("--mutations", type=int, default=50, help="of every kind of document")
    parser.add_argument("--cases", default="text,images")
    parser.add_argument("--stages", default=",".join(faults_data.STAGES), help="that are killed")
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
