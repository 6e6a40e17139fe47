"""Laptops and other machines that run on a battery: what it delivers (/sys/class/power_supply), unplugged only.

The figure covers the whole machine, display included: keep its brightness, and subtract the idle power. Fuel gauges
are slow, about one new value a second, so a measurement takes long. Batteries of mice and headsets do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .base import Integral, Meter, MeterAbsent, Reading, Sampler

SAMPLE_S, PERIOD_S = 0.5, 1.0
COUNTER_PERIOD_S = 10.0  # the remaining energy goes down in steps of 10 mWh or more: 36 J, some seconds each
JOULES_PER_UWH = 3.6e-3
SCOPE = "the whole machine on battery, display included"
PLUGGED = "plugged in: {} (what the battery gives says nothing then)"
WAYS_OUT = (
    "unplug the machine (a battery that discharges is the meter) and measure again",
    "take another source: --meter rapl for the processor, or --meter external_csv with a meter at the supply",
)


def number(folder: Path, *names: str) -> float:
    """Return the product of the numbers in files of a folder; raises OSError or ValueError."""
    product = 1.0
    for name in names:
        product *= int((folder / name).read_text(encoding="ascii"))
    return product


def text(folder: Path, name: str) -> str:
    """Return a file's text, empty where it cannot be read."""
    try:
        return (folder / name).read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""


def supplies(root: Path) -> tuple[list[Path], list[Path]]:
    """Return the batteries and the chargers of the machine itself."""
    found = [path for path in sorted(root.glob("*")) if text(path, "scope") != "Device"]
    batteries = [path for path in found if text(path, "type") == "Battery" and text(path, "present") != "0"]
    return batteries, [path for path in found if text(path, "type") not in ("Battery", "UPS", "")]


def check_unplugged(batteries: list[Path], chargers: list[Path]) -> None:
    """Raise OSError, with the reason, unless the machine draws from its batteries alone."""
    states = {path.name: text(path, "status") for path in batteries}
    online = [path.name for path in chargers if text(path, "online") not in ("", "0")]
    charging = [name for name, state in states.items() if state == "Charging"]
    if online or charging:
        raise OSError(PLUGGED.format(f"{', '.join(online or charging)} {'is online' if online else 'charges'}"))
    if "Discharging" not in states.values():  # one of two may rest while the other gives
        raise OSError(PLUGGED.format(", ".join(f"{name} is {state or 'silent'}" for name, state in states.items())))


def _discharging(batteries: list[Path]) -> list[Path]:
    return [path for path in batteries if text(path, "status") == "Discharging"]


def power_of(*files: str) -> Callable[[list[Path]], float]:
    """Return what gives the watts of all batteries from the product of these files, in uW or uV x uA.

    Some drivers give the current of a battery that discharges a minus.
    """
    scale = 1e-6 if len(files) == 1 else 1e-12
    return lambda batteries: sum(abs(number(path, *files)) * scale for path in _discharging(batteries))


POWERS = (("power_now",), ("voltage_now", "current_now"))
COUNTERS = (("energy_now",), ("charge_now", "voltage_now"))  # uWh, or uAh x uV


class Battery(Meter):
    """Sampled power, or the remaining energy where there is no power; either ends for good when it is plugged in."""

    scope = SCOPE

    def __init__(self, batteries: list[Path], chargers: list[Path], files: tuple[str, ...], clock: Any) -> None:
        self._batteries, self._chargers, self._files = batteries, chargers, files
        self._counts = files in COUNTERS
        self._watts = (lambda _: 0.0) if self._counts else power_of(*files)
        self.provenance = "measured-counter" if self._counts else "measured-sampled"
        self.period_s = COUNTER_PERIOD_S if self._counts else PERIOD_S
        self.name = "battery:" + files[0]
        self._first = self._remaining()
        self._drawn = 0.0
        self._integral = Integral(self._power, clock)  # of a counter it only watches the plug
        self._sampler = Sampler([self._integral], SAMPLE_S)
        self._sampler.start()

    def _power(self) -> float:
        check_unplugged(self._batteries, self._chargers)
        return self._watts(self._batteries)

    def _remaining(self) -> list[tuple[float, float]]:
        """Return of each battery the counter and the volts by which it is multiplied (1 where it counts energy)."""
        if not self._counts:
            return []
        volts = [number(path, *self._files[1:]) / (1e6 if self._files[1:] else 1.0) for path in self._batteries]
        return [(number(path, self._files[0]), volt) for path, volt in zip(self._batteries, volts)]  # noqa: B905

    def read(self) -> Reading:
        """Return the energy since the meter was opened; once it was plugged in there is none."""
        reading = self._integral.reading(self.provenance, self.name, self.scope)
        if reading.joules is None or not self._counts:
            return reading
        try:
            now = self._remaining()
        except (OSError, ValueError) as err:
            return Reading(None, "unavailable", self.name, self.scope, str(err))
        pairs = zip(self._first, now)  # noqa: B905
        drawn = sum((was - left) * (volt + volts) / 2 for (was, volt), (left, volts) in pairs) * JOULES_PER_UWH
        self._drawn = max(self._drawn, drawn)  # a gauge that corrects itself upwards gives nothing back
        return Reading(self._drawn, self.provenance, self.name, self.scope)

    def close(self) -> None:
        """Stop the sampler."""
        self._sampler.stop()


def open_meter(options: Mapping[str, Any]) -> Meter:
    """Return the meter; raise MeterAbsent without a battery, while plugged in, or where it reports no energy."""
    root = Path(str(options.get("sysfs") or "/sys")) / "class" / "power_supply"
    batteries, chargers = supplies(root)
    if not batteries:
        raise MeterAbsent(f"{root} has no battery of this machine", WAYS_OUT)
    try:
        check_unplugged(batteries, chargers)
    except OSError as err:
        raise MeterAbsent(str(err), WAYS_OUT) from err
    for files in (*POWERS, *COUNTERS):
        if _answers(batteries, files):
            return Battery(batteries, chargers, files, options.get("clock") or time.perf_counter)
    raise MeterAbsent("the battery gives neither power nor energy nor charge that can be read", WAYS_OUT)


def _answers(batteries: list[Path], files: tuple[str, ...]) -> bool:
    """Return whether all batteries have these files, and those that discharge something in them (0: not supported)."""
    try:
        values = {path: number(path, *files) for path in batteries}
    except (OSError, ValueError):
        return False
    return any(values[path] for path in _discharging(batteries))
