"""Measure every method on the same teacher, budget and steps, and what each part of rmt-kd is worth, on real data.

    python tools/reproduce.py --scale small --data DIR --teachers DIR --out runs/reproduce --slice 60
    python tools/reproduce.py --scale small --data DIR --teachers DIR --out runs/reproduce --list
    python tools/reproduce.py --table --out runs/reproduce

DIR/sst2, DIR/ag_news, DIR/cifar10, ... hold train.parquet and validation.parquet (the tasks of GLUE, whose validation
split is the test split of the recipes) or test.parquet. TEACHERS may hold teachers, trained under seed 0, by the names
that tools/grid/studies.py gives: folders that tools/train_teacher.py wrote, or compress/teacher of a run. A teacher
that is not there is trained once, as the recipe says.

Every cell of the grid is a run directory, OUT/BUDGET/STUDY/METHOD-TARGET/seed-N. All cells of a study start from its
teacher. Under `steps` all methods take the same optimiser steps; under `time` each takes as many as fit into the
compression time of rmt-kd, its search included. `attribution` takes one part of rmt-kd away, or changes it, at the same
steps; `quantile` is the closed form alone at each quantile of the edge rules. Validation rows, held out of train by
the teacher's seed whatever the cell's, choose; what the table shows is of the test split.

The same command goes on where it was stopped or killed. A cell is run by one process, which holds the lock of its run
directory: several commands, also on several machines with a shared OUT, take different cells. A cell that failed is
left until --retry; the exit code is 1 while there is one.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from grid.cells import BUDGETS, Cell, Where, all_cells, needs
from grid.engines import find_engine
from grid.order import Order, order_of
from grid.running import Session
from grid.settings import RULES, VARIANTS
from grid.state import FINISHED, State, expected_seconds, seconds_of, state_of
from grid.studies import ENCODER_METHODS, RESNET_METHODS, SCALES, STUDIES
from grid.worker import run_order

from rmtkd_edge.config.recipes import apply_override
from rmtkd_edge.errors import RmtkdError

NAMES = tuple(dict.fromkeys([*ENCODER_METHODS, *RESNET_METHODS, *VARIANTS, *RULES]))
ENDING = 30.0  # seconds before the end of a slice at which cells are interrupted


def parse_arguments() -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default=SCALES[0], choices=SCALES)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--teachers", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/reproduce"))
    parser.add_argument("--only", nargs="+", choices=list(STUDIES), help="studies, of any scale")
    parser.add_argument("--budgets", nargs="+", default=list(BUDGETS), choices=BUDGETS)
    parser.add_argument("--methods", nargs="+", default=[], choices=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--targets", nargs="+", type=float, default=[], help="of the studies' own, not all of them")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, help="optimiser steps in place of the studies' own")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="further recipe overrides")
    parser.add_argument("--slice", type=float, metavar="MINUTES", help="stop within this time; the next call goes on")
    parser.add_argument("--retry", action="store_true", help="run cells that failed before once more")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time")
    parser.add_argument("--threads", type=int, default=1, help="threads of a cell")
    parser.add_argument("--engine", default="local", choices=["local", "slurm", "ray"])
    parser.add_argument(
        "--engine-set",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="parameters of submitit's executor (timeout_min=600 slurm_partition=gpu), or of Ray's task (num_gpus=1)",
    )
    parser.add_argument("--list", action="store_true", help="only say what is done, runs, failed and is open")
    parser.add_argument("--table", action="store_true", help="only print the figures of what is done")
    parser.add_argument("--order", help=argparse.SUPPRESS)  # the process of one cell
    args = parser.parse_args()
    if args.order is None and not args.table and args.data is None:
        parser.error("give --data, or --table")
    if any(item.partition("=")[0].strip() in ("distil.steps", "distil.evaluate_every") for item in args.set):
        parser.error("--steps sets the steps of all cells")
    return args


def list_cells(cells: list[Cell], where: Where) -> int:
    """Print the state of every cell and what it took or will take; return 1 where one failed, else 0."""
    states = {cell: state_of(cell, where) for cell in cells}
    done = {cell: seconds_of(cell, where) for cell, state in states.items() if state.name == FINISHED}
    open_seconds = 0.0
    for cell, state in states.items():
        seconds = done.get(cell) or expected_seconds(cell, where, done)
        open_seconds += 0.0 if state.name == FINISHED else seconds
        print(f"{state.name:8s} {seconds / 60:6.1f} min  {cell.id}{_after(cell, state, states, where)}")
    counts = Counter(state.name for state in states.values())
    print(", ".join(f"{count} {name}" for name, count in counts.items()), end="; ")
    print(f"about {open_seconds / 3600:.1f} hours of one core to go")
    return 1 if counts["failed"] else 0


def _after(cell: Cell, state: State, states: dict[Cell, State], where: Where) -> str:
    if state.reason:
        return f": {state.reason}"
    first = [other.id for other in needs(cell, where) if states[other].name != FINISHED]
    return f" (after {', '.join(first)})" if first and state.name != FINISHED else ""


def print_table(out: Path) -> None:
    """Print the figures of what is there, and write them."""
    from grid.table import markdown, table

    figures = table(out)
    if not figures["rows"]:
        print(f"{out}: no cell is done")
        return
    (out / "accuracy.json").write_text(json.dumps(figures, indent=1))
    print(markdown(figures))


def run_grid(args: argparse.Namespace) -> int:
    """Run or list the cells that were asked for; return the exit code."""
    where = Where(args.out, args.data, args.teachers, tuple(args.set), args.steps)
    studies = args.only or [name for name, study in STUDIES.items() if study.scale == args.scale]
    cells = all_cells(where, studies, args.budgets, args.seeds, args.methods, args.targets)
    for cell in cells:  # settings that are none are the user's error, before any work
        if all(first.budget == "teachers" for first in needs(cell, where)):
            order_of(cell, where).resolved()
    if args.list:
        return list_cells(cells, where)
    seconds = None if args.slice is None else 60 * args.slice
    options: dict[str, object] = {}
    for item in args.engine_set:
        apply_override(options, item)
    session = Session(
        cells=cells,
        where=where,
        engine=find_engine(args.engine, args.out, options),
        jobs=args.jobs,
        threads=args.threads,
        end=None if seconds is None else time.time() + seconds,
        ending=ENDING if seconds is None else min(ENDING, seconds / 10),
        retry=args.retry,
        say=lambda text: print(time.strftime("%H:%M:%S"), text, flush=True),
    )
    code = session.run()
    counts = Counter(state.name for state in session.states.values())
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    for cell, reason in session.failures().items():
        print(f"{cell.id}: {reason}")
    print_table(args.out)
    return code


def main() -> int:
    """Run what is asked for and print the table."""
    args = parse_arguments()
    if args.order is not None:
        return run_order(Order.from_json(args.order))
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if not args.table:
            return run_grid(args)
        print_table(args.out)
    except RmtkdError as err:
        print(f"error: {err.message}\ntry: {err.hint}", file=sys.stderr)
        return err.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
