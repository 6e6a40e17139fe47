"""Intel and AMD processors: the energy counters of powercap (/sys/class/powercap/intel-rapl:N).

The domains are nested (psys contains the packages, a package contains its cores), so they are never added up: the
energy is the sum over the packages, or psys where there is nothing else. intel-rapl-mmio shows the same silicon again
and is left out. A counter that wrapped twice between two reads cannot be distinguished from one that wrapped once; at
100 W that takes about three quarters of an hour.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .base import Meter, MeterAbsent, Reading

WAYS_OUT = (
    "let this user read the counters: sudo chmod a+r /sys/class/powercap/intel-rapl:*/name "
    "/sys/class/powercap/intel-rapl:*/*_uj (until the next start)",
    "take another source: --meter modelled (with watts in the hardware profile) or --meter unavailable",
)


class Counter:
    """One energy_uj file: microjoules since it was opened, over any number of wraps that are seen."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = (folder / "name").read_text(encoding="ascii").strip()
        self.range_uj = int((folder / "max_energy_range_uj").read_text(encoding="ascii"))
        if self.range_uj <= 0:
            raise ValueError(f"max_energy_range_uj is {self.range_uj}")
        self.total_uj = 0
        self._last = self._now()

    def _now(self) -> int:
        return int((self.folder / "energy_uj").read_text(encoding="ascii"))

    def advance(self) -> int:
        """Read the counter and return the microjoules since it was opened."""
        now = self._now()
        self.total_uj += now - self._last if now >= self._last else now + self.range_uj - self._last
        self._last = now
        return self.total_uj


class Rapl(Meter):
    """The packages' counters, added up; psys, which contains them, is a cross-check."""

    provenance = "measured-counter"
    period_s = 0.001

    def __init__(self, counters: list[Counter], others: list[Counter]) -> None:
        self._counters, self._others = counters, others
        self.name = "rapl:" + "+".join(c.name for c in counters)
        self.scope = (
            "whole platform" if counters[0].name == "psys" else "processor packages; not the memory or the board"
        )

    def read(self) -> Reading:
        """Return the energy of the packages since the meter was opened."""
        return Reading(sum(c.advance() for c in self._counters) / 1e6, self.provenance, self.name, self.scope)

    def also(self) -> list[Reading]:
        """Return psys, where there are packages too."""
        return [Reading(c.advance() / 1e6, self.provenance, "rapl:" + c.name, "whole platform") for c in self._others]


def open_meter(options: Mapping[str, Any]) -> Meter:
    """Return the meter; raise MeterAbsent without powercap, without domains, or where only root may read them."""
    provider = options.get("provider", "CPUExecutionProvider")
    if provider != "CPUExecutionProvider":
        raise MeterAbsent(f"RAPL counts the processor, and the work runs on {provider}", WAYS_OUT)
    folder = Path(str(options.get("sysfs") or "/sys")) / "class" / "powercap"
    found = sorted(p for p in folder.glob("intel-rapl:*") if re.match(r"intel-rapl:\d+$", p.name))
    if not found:
        raise MeterAbsent(f"{folder} has no RAPL domain (a virtual machine, or no intel_rapl driver)", WAYS_OUT)
    packages, platform = _open_counters(found)
    if not packages and not platform:
        raise MeterAbsent(f"{folder} has neither a package nor a psys domain", WAYS_OUT)
    return Rapl(packages or platform[:1], platform if packages else [])


def _open_counters(found: list[Path]) -> tuple[list[Counter], list[Counter]]:
    packages, platform = [], []
    for path in found:
        try:
            counter = Counter(path)
        except PermissionError as err:
            raise MeterAbsent(f"{err.filename or path} is for root only (user id {os.getuid()})", WAYS_OUT) from err
        except (OSError, ValueError) as err:
            raise MeterAbsent(f"{path} cannot be read: {err}", WAYS_OUT) from err
        if counter.name.startswith("package"):
            packages.append(counter)
        elif counter.name == "psys":
            platform.append(counter)
    return packages, platform
