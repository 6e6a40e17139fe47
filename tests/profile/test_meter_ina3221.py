"""The Jetson's monitors: the input rail alone, parts as cross-checks, both drivers, units, rails that fail."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_machines as fake
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtkd_edge.profile.meters import ina3221
from rmtkd_edge.profile.meters.base import MeterAbsent

ORIN_NANO = {"1-0040": {"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 200)}}
AGX_ORIN = {
    "1-0040": {"VDD_GPU_SOC": (20000, 100), "VDD_CPU_CV": (20000, 50), "VIN_SYS_5V0": (5000, 800)},
    "1-0041": {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (5000, 100)},
}


def energies(root: Path, seconds: float = 10.0) -> tuple[Any, dict[str, float]]:
    """Return the meter and {name: joules} after some seconds of what stands in the files."""
    clock = fake.Clock()
    meter = ina3221.open_meter({"sysfs": root, "clock": clock})
    clock.now += seconds
    readings = [meter.read(), *meter.also()]
    meter.close()
    return meter, {r.meter: r.joules for r in readings}


def test_the_input_rail_stands_alone_and_its_parts_are_cross_checks(tmp_path: Path) -> None:
    meter, joules = energies(fake.jetson(tmp_path, ORIN_NANO))
    assert meter.name == "ina3221:VDD_IN"
    assert meter.provenance == "measured-sampled"
    assert "not the carrier" in meter.scope
    expected = {"ina3221:VDD_IN": 60.0, "ina3221:VDD_CPU_GPU_CV": 20.0, "ina3221:VDD_SOC": 10.0}
    assert joules == pytest.approx(expected)


def test_without_an_input_rail_the_sum_is_named_and_nothing_counts_twice(tmp_path: Path) -> None:
    meter, joules = energies(fake.jetson(tmp_path, AGX_ORIN))
    assert meter.name == "ina3221:VDD_GPU_SOC+VDD_CPU_CV+VIN_SYS_5V0"
    assert "VIN_SYS_5V0" in meter.scope and "no known rail" in meter.scope
    assert joules == pytest.approx({meter.name: 70.0, "ina3221:VDDQ_VDD2_1V8AO": 5.0})


def test_the_older_driver_gives_milliwatts(tmp_path: Path) -> None:
    root = fake.old_jetson(tmp_path, {"POM_5V_IN": 2500, "POM_5V_GPU": 800, "POM_5V_CPU": 700})
    device = root / "bus" / "i2c" / "drivers" / "ina3221x" / "6-0040"
    (device / "iio_device").symlink_to(device / "iio:device0")  # the same rails once more
    _, joules = energies(root)
    expected = {"ina3221:POM_5V_IN": 25.0, "ina3221:POM_5V_GPU": 8.0, "ina3221:POM_5V_CPU": 7.0}
    assert joules == pytest.approx(expected)


def test_the_modules_input_comes_before_the_carriers(tmp_path: Path) -> None:
    root = fake.old_jetson(tmp_path, {"VDD_SYS_GPU": 300, "VDD_SYS_SOC": 200}, "0-0040")
    fake.old_jetson(root, {"VDD_IN": 3000, "VDD_SYS_CPU": 900}, "0-0041")
    fake.old_jetson(root, {"VDD_MUX": 5000, "VDD_3V3_SYS": 100}, "0-0042")
    meter, joules = energies(root)
    assert meter.name == "ina3221:VDD_IN"
    assert joules["ina3221:VDD_IN"] == pytest.approx(30.0)
    assert joules["ina3221:VDD_MUX"] == pytest.approx(50.0)


def test_power_in_hwmon_is_microwatts_and_gives_way_to_voltage_times_current(tmp_path: Path) -> None:
    folder = tmp_path / "bus" / "i2c" / "drivers" / "ina3221" / "1-0040" / "hwmon" / "hwmon1"
    fake.write(folder, power1_label="VDD_IN", power1_input=4_000_000)
    assert energies(tmp_path)[1] == pytest.approx({"ina3221:VDD_IN": 40.0})
    fake.write(folder, in1_input=5000, curr1_input=1000)
    assert energies(tmp_path)[1] == pytest.approx({"ina3221:VDD_IN": 50.0})


labels = st.lists(st.sampled_from(["VDD_IN", "VDD_MUX", "POM_5V_IN", "VDD_SOC", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"]))


@given(labels.filter(bool).map(lambda names: list(dict.fromkeys(names))))
def test_a_rail_is_never_added_to_one_that_contains_it(names: list[str]) -> None:
    counted, scope = ina3221.choose_rails([ina3221.Rail(name, (), 1.0) for name in names])
    chosen = {rail.label for rail in counted}
    assert chosen
    assert not chosen & set(ina3221.TOTALS) or len(chosen) == 1
    assert bool(chosen & set(ina3221.TOTALS)) == bool(set(names) & set(ina3221.TOTALS))
    assert not {"VDDQ_VDD2_1V8AO", "VIN_SYS_5V0"} <= chosen
    assert all(name in scope for name in chosen)


def test_a_switched_off_part_is_left_out_and_the_input_rail_is_not(tmp_path: Path) -> None:
    root = fake.jetson(tmp_path, ORIN_NANO)
    folder = root / "bus" / "i2c" / "drivers" / "ina3221" / "1-0040" / "hwmon" / "hwmon0"
    (folder / "curr3_input").write_text("")  # reading a channel that is switched off fails
    assert set(energies(root)[1]) == {"ina3221:VDD_IN", "ina3221:VDD_CPU_GPU_CV"}
    (folder / "curr1_input").write_text("")
    with pytest.raises(MeterAbsent, match="cannot be read"):
        ina3221.open_meter({"sysfs": root})


def test_for_root_only_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, read = fake.jetson(tmp_path, ORIN_NANO), Path.read_text

    def refuse(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "curr2_input":
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(MeterAbsent, match="Permission denied"):
        ina3221.open_meter({"sysfs": root})


def test_a_rail_that_fails_in_the_middle_is_no_zero_and_leaves_the_others(tmp_path: Path) -> None:
    root, clock = fake.jetson(tmp_path, ORIN_NANO), fake.Clock()
    meter = ina3221.open_meter({"sysfs": root, "clock": clock})
    folder = root / "bus" / "i2c" / "drivers" / "ina3221" / "1-0040" / "hwmon" / "hwmon0"
    (folder / "in2_input").unlink()
    clock.now += 1
    assert meter.read().joules == pytest.approx(6.0)
    part = next(r for r in meter.also() if r.meter == "ina3221:VDD_CPU_GPU_CV")
    assert part.joules is None and part.why
    (folder / "in1_input").unlink()
    assert meter.read().provenance == "unavailable"
    meter.close()
