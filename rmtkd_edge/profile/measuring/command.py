"""The command line of a bundle: python3 runner.py [plan.json results.json] [--json]"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from .basics import HOME, RunnerError
from .execute import measure
from .probes import probe


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; return the exit code."""
    parser = argparse.ArgumentParser(prog="runner.py", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("paths", nargs="*", metavar="FILE", help="plan.json results.json; those next to runner.py")
    parser.add_argument("--json", action="store_true", help="progress as one JSON object a line")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    def say(event: str, text: str, **facts: Any) -> None:
        print(json.dumps({"event": event, "text": text, **facts}) if args.json else text, flush=True)

    try:
        if args.probe:
            print(json.dumps(probe(args.paths, args.started, args.memory)), flush=True)
        elif len(args.paths) not in (0, 2):
            parser.error("give plan.json and results.json, or neither")
        else:
            plan, results = args.paths or (HOME / "plan.json", HOME / "results.json")
            measure(Path(plan), Path(results), say)
            if not args.json:
                print(f"written: {results}")
    except RunnerError as err:
        print(f"runner.py: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("runner.py: stopped; the same command continues from here", file=sys.stderr)
        return 130
    return 0
