"""Two ways of computing one thing, timed in turns on one thread."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import torch
from shapes import this_processor


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """Set one thread and a seed; print and return the machine, torch, and the batch and rounds of the command line."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    facts = {"machine": asdict(this_processor()), "torch": torch.__version__}
    facts |= {"batch": args.batch, "rounds": args.rounds}
    print(json.dumps(facts), flush=True)
    return facts


def compare(run: Callable[[str], None], before: str, after: str, rounds: int) -> dict[str, float]:
    """Return median CPU milliseconds of two ways, in turns, and the ratio of the first to the second."""
    found = cpu_ms_in_turns(run, (before, after), rounds)
    return {**{f"{way}_ms": round(found[way], 2) for way in found}, "ratio": round(found[before] / found[after], 2)}


def cpu_ms_in_turns(run: Callable[[str], None], ways: Iterable[str], rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of `run` by way; the first round is left out, every second one is reversed."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in sorted(taken, reverse=number % 2 == 1):
            start = time.process_time()
            run(way)
            taken[way].append(1e3 * (time.process_time() - start))
    return {way: statistics.median(values[1:]) for way, values in taken.items()}
