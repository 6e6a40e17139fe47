"""Raspberry Pi 5: current x voltage of the rails that its power management chip feeds (vcgencmd pmic_read_adc).

The converters of the chip are not calibrated, and what it does not feed is missing, so the figure counts as modelled,
not as measured: it compares two models on one board; it does not give the watts at the socket. Every sample starts a
process, five a second, which costs the processor a little; with four threads on four cores the slowest calls show it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from .base import Integral, Meter, MeterAbsent, Reading, Sampler

PERIOD_S = 0.2
TIMEOUT_S = 5.0
SCOPE = "rails of the power management chip, uncalibrated; not USB, fan, HATs or the losses of the 5 V input"
# `VDD_CORE_A current(7)=1.2A` and `VDD_CORE_V volt(15)=0.8V`; other firmware leaves out the kind, or the unit.
LINE = re.compile(
    r"^[ \t]*(\w+)_([AV])(?:[ \t]+\w+[ \t]*\(\d+\))?[ \t]*[=:][ \t]*(\d+(?:\.\d*)?(?:e[-+]?\d+)?)[ \t]*[AV]?[ \t\r]*$",
    re.MULTILINE | re.IGNORECASE,
)
WAYS_OUT = (
    "run on a Raspberry Pi 5 as a user of the group `video` (sudo usermod -aG video $USER, then log in again)",
    "take another source: --meter external_csv with a USB power meter, or --meter modelled with watts in the profile",
)


def parse_rails(text: str) -> dict[str, float]:
    """Return watts by rail, of the rails that have a current and a voltage (the 5 V input and the RTC have none)."""
    values: dict[str, dict[str, float]] = {"A": {}, "V": {}}
    for name, kind, number in LINE.findall(text):
        values[kind.upper()][name] = float(number)
    return {name: amperes * values["V"][name] for name, amperes in values["A"].items() if name in values["V"]}


def read_rails(command: str) -> dict[str, float]:
    """Return watts by rail; raises OSError with the reason where the command or the chip does not answer."""
    try:
        done = subprocess.run(
            [command, "pmic_read_adc"], capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as err:
        raise OSError(f"{command} did not answer within {TIMEOUT_S:g} s") from err
    text = done.stdout.decode("utf-8", "replace")
    said = " ".join((done.stderr.decode("utf-8", "replace") + " " + text).split())[:160]
    if done.returncode != 0:
        raise OSError(f"{command} ended with {done.returncode}: {said}")
    rails = parse_rails(text)
    if not rails:
        raise OSError(f"this board reports no currents (only the Raspberry Pi 5 does); {command} said: {said}")
    return rails


class Pmic(Meter):
    """The sum over the rails, sampled; a rail that drops out ends it, since the sum would then cover less."""

    name = "pmic"
    provenance = "modelled"
    scope = SCOPE
    period_s = PERIOD_S

    def __init__(self, command: str, rails: set[str], clock: Any) -> None:
        self._command, self._rails = command, rails
        self._integral = Integral(self._watts, clock)
        self._sampler = Sampler([self._integral], PERIOD_S)
        self._sampler.start()

    def _watts(self) -> float:
        found = read_rails(self._command)
        if set(found) != self._rails:
            raise OSError(f"the rails changed: {', '.join(sorted(set(found) ^ self._rails))}")
        return sum(found.values())

    def read(self) -> Reading:
        """Return the energy since the meter was opened."""
        return self._integral.reading(self.provenance, self.name, self.scope)

    def close(self) -> None:
        """Stop the sampler."""
        self._sampler.stop()


def open_meter(options: Mapping[str, Any]) -> Meter:
    """Return the meter; raise MeterAbsent without vcgencmd, without the right to use it, or on an older board."""
    command = str(options.get("vcgencmd") or "vcgencmd")
    try:
        rails = set(read_rails(command))
    except FileNotFoundError as err:
        raise MeterAbsent(f"there is no {command} here (it comes with Raspberry Pi OS)", WAYS_OUT) from err
    except OSError as err:
        raise MeterAbsent(str(err), WAYS_OUT) from err
    return Pmic(command, rails, options.get("clock") or time.perf_counter)
