"""What a meter is. The files of this folder use only the standard library (Python 3.9): they travel with runner.py.

A meter is one file with `open_meter(options) -> Meter`, which raises `MeterAbsent` where it cannot be read here.
`options` is a mapping: `sysfs` (root of sysfs), `provider` (the execution provider that runs), `idle_watts`,
`active_watts_per_core`, `source` and `csv` (of the hardware profile), `device` (index of the accelerator), `vcgencmd`
(path of that command), `clock` (stands in for the meter's own in tests).

A third-party package adds a meter by an entry point of the group `rmtkd_edge.meters`, whose name (lower case, with
underscores) is what profiles and --meter say and whose value is the module:

    [project.entry-points."rmtkd_edge.meters"]
    sundial = "my_package.sundial"

That one file is copied into every bundle as meters/sundial.py, next to this one. So it must do with the standard
library, and take the names of this file from wherever it is:

    try:
        from .base import Meter, MeterAbsent, Reading  # in a bundle
    except ImportError:
        from rmtkd_edge.profile.meters.base import Meter, MeterAbsent, Reading
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """Joules since the meter was opened (they never fall), or None and the reason; `scope` says what is covered."""

    joules: float | None
    provenance: str
    meter: str
    scope: str
    why: str = ""


class MeterAbsent(Exception):
    """A meter that cannot be read here: the reason, and two ways out that a user can follow."""

    def __init__(self, why: str, ways_out: tuple[str, str]) -> None:
        super().__init__(why)
        self.why = why
        self.ways_out = ways_out


class Meter:
    """An open meter. `period_s` is the time between updates, `idle_watts` the idle power where it is not measured.

    `needs_window` is False for meters that no short window can mislead; `gross_why` says why only the net figure holds.
    """

    name = ""
    provenance = ""
    scope = ""
    period_s = 0.0
    needs_window = True
    idle_watts: float | None = None
    gross_why = ""

    def read(self) -> Reading:
        """Return the energy since the meter was opened."""
        raise NotImplementedError

    def also(self) -> list[Reading]:
        """Return readings of the same energy by other means, for a cross-check; none by default."""
        return []

    def close(self) -> None:
        """Release what the meter holds."""


class Integral:
    """Joules of a power that is read now and then, by the trapezium rule; `why` says what ended it, if anything did.

    `read_watts` raises OSError or ValueError, whose text is the reason, where it cannot say; from then on there is no
    energy either, since what was used in the meantime is unknown. Power below zero is the noise of a sensor: zero.
    """

    def __init__(self, read_watts: Callable[[], float], clock: Callable[[], float] = time.perf_counter) -> None:
        self._read_watts, self._clock, self._lock = read_watts, clock, threading.Lock()
        self._joules, self.why = 0.0, ""
        self._last = self._sample()

    def _sample(self) -> tuple[float, float]:
        now, watts = self._clock(), 0.0
        try:
            watts = max(0.0, self._read_watts())
        except (OSError, ValueError) as err:
            self.why = str(err) or type(err).__name__
        return now, watts

    def advance(self) -> float | None:
        """Take one more sample and return the joules so far, or None once a sample failed."""
        with self._lock:
            if not self.why:
                (before, earlier), (now, watts) = self._last, self._sample()
                self._joules += max(0.0, now - before) * (watts + earlier) / 2.0
                self._last = (now, watts)
            return None if self.why else self._joules

    def reading(self, provenance: str, meter: str, scope: str) -> Reading:
        """Return the energy up to now, or a reading without joules and the reason."""
        joules = self.advance()
        if joules is None:
            return Reading(None, "unavailable", meter, scope, self.why)
        return Reading(joules, provenance, meter, scope)


class Sampler(threading.Thread):
    """Advances integrals on a thread of its own, every `period_s` seconds until it is stopped."""

    def __init__(self, integrals: Sequence[Integral], period_s: float) -> None:
        super().__init__(daemon=True)
        self._integrals, self._period_s, self._halt = integrals, period_s, threading.Event()

    def run(self) -> None:
        """Sample until stopped."""
        while not self._halt.wait(self._period_s):
            for integral in self._integrals:
                integral.advance()

    def stop(self) -> None:
        """Stop sampling and wait for the thread."""
        self._halt.set()
        self.join(timeout=5)
