"""What a meter is. The files of this folder use the standard library alone (Python 3.9): they travel beside runner.py.

A meter is one file with `open_meter(options) -> Meter`, which raises `MeterAbsent` where it cannot be read here.
`options` is a mapping: `sysfs` (root of sysfs), `provider` (the execution provider that runs), `idle_watts`,
`active_watts_per_core` and `source` (of the hardware profile), `device` (index of the accelerator).
"""

from __future__ import annotations

from dataclasses import dataclass

PROVENANCES = ("measured-counter", "measured-sampled", "modelled", "unavailable")


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
