"""Energy by arithmetic: watts that the hardware profile names x processor seconds. It measures nothing and says so."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from .base import Meter, MeterAbsent, Reading

WAYS_OUT = (
    "write idle_watts, active_watts_per_core and their source under [power] of the hardware profile",
    "measure with a meter instead: --meter rapl or --meter nvml",
)


class Modelled(Meter):
    """joules = active watts per core x CPU seconds of this process + idle watts x seconds (if the profile has them).

    What it leaves out: memory, frequency, and everything that the processor does for others.
    """

    name = "modelled"
    provenance = "modelled"
    needs_window = False

    def __init__(
        self,
        active_watts: float,
        idle_watts: float | None,
        source: str,
        cpu_clock: Callable[[], float] = time.process_time,
        wall_clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.active_watts, self.idle_watts = active_watts, idle_watts
        self.scope = f"processor cores, from {active_watts:g} W a core; {source}"
        self.gross_why = "" if idle_watts is not None else "the hardware profile names no idle_watts"
        self._clocks = (cpu_clock, wall_clock)
        self._start = (cpu_clock(), wall_clock())

    def read(self) -> Reading:
        """Return the modelled energy since the meter was opened."""
        cpu, wall = self._clocks[0]() - self._start[0], self._clocks[1]() - self._start[1]
        joules = self.active_watts * cpu + (self.idle_watts or 0.0) * wall
        return Reading(joules, self.provenance, self.name, self.scope)


def open_meter(options: Mapping[str, Any]) -> Meter:
    """Return the meter; raise MeterAbsent where the profile names no watts or the work is not done by the processor."""
    provider = options.get("provider", "CPUExecutionProvider")
    if provider != "CPUExecutionProvider":
        raise MeterAbsent(f"watts per processor core say nothing about {provider}", WAYS_OUT)
    active, source = options.get("active_watts_per_core"), options.get("source")
    if not active or not source:
        raise MeterAbsent("the hardware profile names no active_watts_per_core with a source", WAYS_OUT)
    return Modelled(float(active), options.get("idle_watts"), str(source))
