"""Run an exported folder in other programs, and compare their labels and outputs with our own session.

    python tools/clients.py --setup [--only NAME,...] [--environments DIR]
    python tools/clients.py RUN [--data DIR] [--rows 200] [--only NAME,...] [--environments DIR] [--json FILE]

The clients: Optimum, transformers.js in Node, onnxruntime-node, onnxruntime-web in Chromium, onnxruntime's C API
(examples/c/classify.c) and OpenVINO, each in an environment of pinned versions. --setup makes the environments that are
not there and names those that it cannot make. A client whose environment is not there is skipped, with the reason. The
exit code is 1 where a client differs, or an environment could not be made though its programs are there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from client.comparing import Compared, Reference, compare
from client.environments import Missing, default_place, set_up
from client.rows import rows_of_run
from client.running import CLIENTS, DTYPES

from rmtkd_edge.export.bundle import read_record
from rmtkd_edge.export.load import exported_folder
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks.base import find_task


def set_up_all(names: list[str], place: Path) -> bool:
    """Make the environments of clients; return whether all went well that could be tried."""
    good = True
    for name in dict.fromkeys(place for client in names for place in CLIENTS[client].environments):
        begun = time.monotonic()
        try:
            done = "made" if set_up(name, place) else "is there"
        except Missing as err:
            done = f"left out: {err}"
        except (subprocess.CalledProcessError, RuntimeError) as err:
            done, good = f"failed: {err}", False
        print(f"{name}: {done} ({time.monotonic() - begun:.0f} s)", flush=True)
    return good


def compare_all(names: list[str], place: Path, run: Path, data: Path | None, count: int) -> tuple[str, list[Compared]]:
    """Return the split that was read, and every client on every precision that the folder has."""
    found = []
    with tempfile.TemporaryDirectory() as work:
        split, items = rows_of_run(Run.open(run), data, count, Path(work))
        folder = exported_folder(run)
        variants = read_record(folder).variants
        for precision in (p for p in DTYPES if p in variants and variants[p].refused is None):
            reference = Reference.of(folder, precision, items)
            for name in names:
                own = Path(work) / f"{name}-{precision}"
                own.mkdir()
                found.append(compare(CLIENTS[name], place, reference, own))
                print(line(found[-1]), flush=True)
    return split, found


def line(found: Compared) -> str:
    """Return a row of the table."""
    cells = [found.client, found.precision]
    if found.skipped:
        return f"| {' | '.join([*cells, '', '', ''])} | skipped: {found.skipped} |"
    told = " ".join(f"{name} {version}" for name, version in (found.versions or {}).items())
    cut = f"; {found.cut} too long, left out" if found.cut else ""
    figures = ["", ""] if found.difference is None else [f"{found.difference:.1e}", f"{found.agreement:.1%}"]
    cells += [f"{found.rows}{cut}", *figures]
    return f"| {' | '.join([*cells, told + (f' WRONG: {found.wrong}' if found.wrong else '')])} |"


def main() -> None:
    """Make environments, or show a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, nargs="?", help="whose export is run")
    parser.add_argument("--setup", action="store_true", help="make the environments")
    parser.add_argument("--environments", type=Path, default=default_place(), help="their folder (%(default)s)")
    parser.add_argument("--only", help="names of clients with commas")
    parser.add_argument("--data", type=Path, help="rows, where they are not where compress read them")
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--json", type=Path, help="file to write")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(CLIENTS)
    if unknown := set(names) - set(CLIENTS):
        parser.error(f"{', '.join(sorted(unknown))}: the names are {', '.join(CLIENTS)}")
    if args.setup:
        sys.exit(not set_up_all(names, args.environments))
    if args.run is None:
        parser.error("name a run, or --setup")
    kind = read_record(exported_folder(args.run)).kind
    if find_task(kind).head != "row":
        parser.error(f"it compares outputs of rows; those of {kind} are others")
    print("| client | precision | rows | largest difference | same prediction | versions |\n|---|---|---|---|---|---|")
    split, found = compare_all(names, args.environments, args.run, args.data, args.rows)
    if args.json:
        told = {"split": split, "clients": [asdict(item) for item in found]}
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(f"rows of {split}")
    sys.exit(any(item.wrong for item in found))


if __name__ == "__main__":
    main()
