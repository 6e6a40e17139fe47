"""The battery: unplugged only, watts before counters, other people's batteries, what a plug does in the middle."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_machines as fake
import pytest

from rmtkd_edge.profile.meters import battery
from rmtkd_edge.profile.meters.base import MeterAbsent

POWER = {"power_now": 8_000_000}
PRODUCT = {"voltage_now": 12_000_000, "current_now": -500_000}
ENERGY = {"energy_now": 30_000_000}
CHARGE = {"charge_now": 3_000_000, "voltage_now": 12_000_000}


def machine(root: Path, **files: Any) -> Path:
    """A laptop on its battery."""
    fake.supply(root, "ADP1", type="Mains", online=0)
    return fake.supply(root, "BAT0", **{"type": "Battery", "status": "Discharging", **files})


def spent(root: Path, seconds: float = 100.0, **later: Any) -> tuple[Any, Any]:
    """Return the meter and its reading after some seconds, the files of BAT0 changed as `later` says."""
    clock = fake.Clock()
    meter = battery.open_meter({"sysfs": root, "clock": clock})
    fake.supply(root, "BAT0", **later)
    clock.now += seconds
    reading = meter.read()
    meter.close()
    return meter, reading


@pytest.mark.parametrize(
    ("files", "name", "watts"),
    [
        (POWER, "power_now", 8.0),
        ({**POWER, **PRODUCT, **ENERGY}, "power_now", 8.0),
        (PRODUCT, "voltage_now", 6.0),  # the minus of some drivers
        ({**PRODUCT, "power_now": 0}, "voltage_now", 6.0),  # a driver that does not support it
    ],
)
def test_constant_power(tmp_path: Path, files: dict[str, int], name: str, watts: float) -> None:
    machine(tmp_path, **files)
    meter, reading = spent(tmp_path)
    assert meter.name == f"battery:{name}"
    assert reading.joules == pytest.approx(100 * watts)
    assert reading.provenance == "measured-sampled"
    assert "whole machine" in reading.scope


@pytest.mark.parametrize(
    ("files", "later", "joules"),
    [
        (ENERGY, {"energy_now": 29_750_000}, 900.0),  # 0.25 Wh
        (CHARGE, {"charge_now": 2_980_000}, 864.0),  # 0.02 Ah x 12 V
        (CHARGE, {"charge_now": 2_980_000, "voltage_now": 11_000_000}, 828.0),
        (ENERGY, {"energy_now": 30_010_000}, 0.0),  # the gauge corrected itself
    ],
)
def test_counters_where_there_is_no_power(
    tmp_path: Path, files: dict[str, int], later: dict[str, int], joules: float
) -> None:
    machine(tmp_path, **files)
    meter, reading = spent(tmp_path, **later)
    assert meter.period_s > battery.PERIOD_S
    assert reading.provenance == "measured-counter"
    assert reading.joules == pytest.approx(joules)


def test_a_counter_never_falls(tmp_path: Path) -> None:
    machine(tmp_path, **ENERGY)
    meter = battery.open_meter({"sysfs": tmp_path})
    joules = []
    for left in (30_000_000, 29_990_000, 29_995_000, 29_980_000):
        fake.supply(tmp_path, "BAT0", energy_now=left)
        joules.append(meter.read().joules)
    meter.close()
    assert joules == pytest.approx([0.0, 36.0, 36.0, 72.0])


@pytest.mark.parametrize("status", ["Charging", "Full", "Not charging", "Unknown"])
def test_plugged_in_is_absent(tmp_path: Path, status: str) -> None:
    machine(tmp_path, **{**POWER, "status": status})
    with pytest.raises(MeterAbsent, match="plugged in") as caught:
        battery.open_meter({"sysfs": tmp_path})
    assert "unplug" in caught.value.ways_out[0]


@pytest.mark.parametrize("files", [POWER, ENERGY])
@pytest.mark.parametrize("change", ["charger", "status"])
def test_plugged_in_during_the_measurement(tmp_path: Path, files: dict[str, int], change: str) -> None:
    machine(tmp_path, **files)
    clock = fake.Clock()
    meter = battery.open_meter({"sysfs": tmp_path, "clock": clock})
    clock.now += 1
    assert meter.read().joules is not None
    for plugged in (True, False):  # pulling the plug again does not bring back what was missed
        fake.supply(tmp_path, "ADP1", online=int(plugged and change == "charger"))
        fake.supply(tmp_path, "BAT0", status="Charging" if plugged and change == "status" else "Discharging")
        clock.now += 1
        reading = meter.read()
        assert (reading.joules, reading.provenance) == (None, "unavailable")
        assert "plugged in" in reading.why
    meter.close()


def test_two_batteries_of_which_one_rests(tmp_path: Path) -> None:
    machine(tmp_path, **POWER)
    fake.supply(tmp_path, "BAT1", type="Battery", status="Not charging", power_now=0)
    assert spent(tmp_path)[1].joules == pytest.approx(800.0)
    fake.supply(tmp_path, "BAT1", status="Discharging", power_now=2_000_000)
    assert spent(tmp_path)[1].joules == pytest.approx(1000.0)
    fake.supply(tmp_path, "BAT1", status="Charging")
    with pytest.raises(MeterAbsent, match="BAT1 charges"):
        battery.open_meter({"sysfs": tmp_path})


def test_the_mouses_battery_is_none_of_the_machine(tmp_path: Path) -> None:
    fake.supply(tmp_path, "hid-mouse", type="Battery", scope="Device", status="Discharging", **POWER)
    fake.supply(tmp_path, "BAT9", type="Battery", present=0, status="Discharging", **POWER)
    with pytest.raises(MeterAbsent, match="no battery"):
        battery.open_meter({"sysfs": tmp_path})


def test_a_battery_without_figures_is_absent(tmp_path: Path) -> None:
    machine(tmp_path, capacity=80)
    with pytest.raises(MeterAbsent, match="neither power nor energy"):
        battery.open_meter({"sysfs": tmp_path})


@pytest.mark.parametrize("files", [POWER, ENERGY])
def test_a_file_that_vanishes_is_no_zero(tmp_path: Path, files: dict[str, int]) -> None:
    folder = machine(tmp_path, **files)
    meter = battery.open_meter({"sysfs": tmp_path})
    (folder / next(iter(files))).unlink()
    reading = meter.read()
    meter.close()
    assert reading.joules is None
    assert reading.why
