"""NVIDIA Jetson: the INA3221 power monitors of the module, sampled.

The rails are nested: VDD_IN (POM_5V_IN on the Nano, VDD_MUX where only the carrier is metered) is the whole input and
contains the others, so it is taken alone and the others are cross-checks, never added. Boards without such a rail (AGX
Xavier, AGX Orin) give the sum of their rails, and the scope names them. Two drivers are read: hwmon (in1_label,
in1_input, curr1_input) and the older iio one (rail_name_0, in_power0_input).
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .base import Integral, Meter, MeterAbsent, Reading, Sampler

PERIOD_S = 0.1
TOTALS = ("VDD_IN", "POM_5V_IN", "VDD_MUX")  # the first that is there; VDD_SYS_GPU and the like are parts
INSIDE = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}  # NVIDIA's Jetson Orin guide: the second contains the first
LABELS = (re.compile(r"^(?:in|curr|power)(\d+)_label$"), re.compile(r"^rail_name_(\d+)$"))
# The files whose product is the power, and watts per unit of it. Voltage x current comes first, since its units are
# the same everywhere; hwmon's power is in uW, the older driver's in mW.
SOURCES = (
    (("in{}_input", "curr{}_input"), 1e-6),
    (("power{}_input",), 1e-6),
    (("in_power{}_input",), 1e-3),
    (("in_voltage{}_input", "in_current{}_input"), 1e-6),
)
WAYS_OUT = (
    "run on a Jetson as a user who may read /sys/bus/i2c/drivers/ina3221*/*/hwmon/hwmon*/ (older: .../iio:device*/)",
    "take another source: --meter external_csv with a meter at the supply, or --meter unavailable",
)


@dataclass(frozen=True)
class Rail:
    """One channel of one monitor: the product of its files in watts."""

    label: str
    files: tuple[Path, ...]
    scale: float

    def watts(self) -> float:
        """Return the power now; raises OSError or ValueError."""
        product = self.scale
        for file in self.files:
            product *= int(file.read_text(encoding="ascii"))
        return product


class Ina3221(Meter):
    """The input rail, or the sum of the rails where there is none; the others are cross-checks."""

    provenance = "measured-sampled"
    period_s = PERIOD_S

    def __init__(self, counted: list[Rail], others: list[Rail], scope: str, clock: Any) -> None:
        self.name = "ina3221:" + "+".join(rail.label for rail in counted)
        self.scope = scope
        self._main = Integral(lambda: sum(rail.watts() for rail in counted), clock)
        self._others = [(rail.label, Integral(rail.watts, clock)) for rail in others]
        self._sampler = Sampler([self._main, *(integral for _, integral in self._others)], PERIOD_S)
        self._sampler.start()

    def read(self) -> Reading:
        """Return the energy since the meter was opened."""
        return self._main.reading(self.provenance, self.name, self.scope)

    def also(self) -> list[Reading]:
        """Return the other rails, each for itself: they lie inside the figure or around it."""
        return [
            integral.reading(self.provenance, f"ina3221:{label}", f"the rail {label} alone")
            for label, integral in self._others
        ]

    def close(self) -> None:
        """Stop the sampler."""
        self._sampler.stop()


def open_meter(options: Mapping[str, Any]) -> Meter:
    """Return the meter; raise MeterAbsent without monitors, or where the rails cannot be read."""
    drivers = Path(str(options.get("sysfs") or "/sys")) / "bus" / "i2c" / "drivers"
    try:
        found = find_rails(drivers)
        rails = [rail for rail in found if _answers(rail)]
    except (OSError, ValueError) as err:
        raise MeterAbsent(f"a rail of the INA3221 cannot be read: {err}", WAYS_OUT) from err
    if not rails:
        what = "no rail that answers" if found else "no INA3221 with named rails"
        raise MeterAbsent(f"{drivers} has {what}", WAYS_OUT)
    counted, scope = choose_rails(rails)
    others = [rail for rail in rails if rail not in counted]
    return Ina3221(counted, others, scope, options.get("clock") or time.perf_counter)


def _answers(rail: Rail) -> bool:
    """Return whether a part can be read (a channel may be switched off); what must not be missing raises OSError."""
    try:
        rail.watts()
    except (OSError, ValueError) as err:
        if rail.label in TOTALS or isinstance(err, PermissionError):
            raise
        return False
    return True


def find_rails(drivers: Path) -> list[Rail]:
    """Return the named rails of all monitors, each once; raises OSError where a name cannot be read."""
    rails: dict[str, Rail] = {}
    for device in sorted(path for driver in ("ina3221", "ina3221x") for path in (drivers / driver).glob("*-*")):
        for folder in [device, *device.glob("hwmon/hwmon*"), *device.glob("hwmon*"), *device.glob("iio*")]:
            for rail in _rails_of(folder):
                rails.setdefault(rail.label, rail)
    return list(rails.values())


def _rails_of(folder: Path) -> list[Rail]:
    rails = []
    for file in sorted(folder.iterdir()) if folder.is_dir() else []:
        found = next((match for pattern in LABELS for match in [pattern.match(file.name)] if match), None)
        label = file.read_text(encoding="ascii").strip() if found else ""
        if not found or label.upper() in ("", "NC"):  # NC: a channel that nothing is connected to
            continue
        for names, scale in SOURCES:
            files = tuple(folder / name.format(found[1]) for name in names)
            if all(path.is_file() for path in files):
                rails.append(Rail(label, files, scale))
                break
    return rails


def choose_rails(rails: list[Rail]) -> tuple[list[Rail], str]:
    """Return the rails that are added up (one, where a rail of the whole input is there) and what they cover."""
    by_label = {rail.label: rail for rail in rails}
    for total in TOTALS:
        if total in by_label:
            where = "the carrier board and the module" if total == "VDD_MUX" else "the module; not the carrier board"
            return [by_label[total]], f"the input rail {total}: {where}"
    parts = [rail for rail in rails if INSIDE.get(rail.label) not in by_label]
    names = ", ".join(rail.label for rail in parts)
    return parts, f"sum of the rails {names}; no known rail of the whole input"
