"""Ways of computing one thing, timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable


def cpu_ms_in_turns(run: Callable[[str], None], ways: Iterable[str], rounds: int) -> dict[str, float]:
    """Return the median CPU milliseconds of `run` by way; the first round is left out, every second one is reversed."""
    taken: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):
        for way in sorted(taken, reverse=number % 2 == 1):
            start = time.process_time()
            run(way)
            taken[way].append(1e3 * (time.process_time() - start))
    return {way: statistics.median(values[1:]) for way, values in taken.items()}
