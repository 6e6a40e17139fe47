"""Imitations of what meters read: a Jetson's sysfs, a battery, vcgencmd, the log of an external meter."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

RAILS = {"3V7_WL_SW": (0.0039, 3.72), "VDD_CORE": (1.5, 0.8), "DDR_VDDQ": (0.0, 0.6)}  # amperes, volts


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def write(folder: Path, **files: object) -> Path:
    """Write one small file a keyword, as sysfs has them."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name).write_text(f"{value}\n")
    return folder


def jetson(root: Path, chips: Mapping[str, Mapping[str, tuple[int, int]]]) -> Path:
    """Write monitors as the hwmon driver shows them: {address: {label: (mV, mA)}}, and the noise around them."""
    for number, (address, rails) in enumerate(chips.items()):
        folder = root / "bus" / "i2c" / "drivers" / "ina3221" / address / "hwmon" / f"hwmon{number}"
        for i, (label, (millivolts, milliamperes)) in enumerate(rails.items(), start=1):
            values = {f"in{i}_label": label, f"in{i}_input": millivolts, f"curr{i}_input": milliamperes}
            write(folder, **values, **{f"in{i + 3}_input": 12})  # the voltage over the shunt
        write(folder, name="ina3221", curr4_input=9999, in7_label="sum of shunt voltages", in7_input=99)
    return root


def old_jetson(root: Path, rails: Mapping[str, int], address: str = "6-0040") -> Path:
    """Write a monitor as the older driver shows it: {label: mW}."""
    folder = root / "bus" / "i2c" / "drivers" / "ina3221x" / address / "iio:device0"
    for i, (label, milliwatts) in enumerate(rails.items()):
        write(folder, **{f"rail_name_{i}": label, f"in_power{i}_input": milliwatts})
    return root


def supply(root: Path, name: str, **files: object) -> Path:
    """Write one power supply and return its folder."""
    return write(root / "class" / "power_supply" / name, **files)


def adc_text(rails: Mapping[str, tuple[float, float]] = RAILS, bare: bool = False) -> str:
    """Return what vcgencmd pmic_read_adc prints, as the firmware of 2023 does or without kinds and numbers."""
    lines = [f"{name}_A{'' if bare else f' current({i})'}={a:.8f}A" for i, (name, (a, _)) in enumerate(rails.items())]
    lines += [f"{name}_V{'' if bare else f' volt({i + 8})'}={v:.8f}V" for i, (name, (_, v)) in enumerate(rails.items())]
    lines += ["EXT5V_V=5.1V" if bare else "EXT5V_V volt(24)=5.10000000V"]
    return "\n".join(line.rjust(34) for line in lines) + "\n"


def vcgencmd(folder: Path, text: str, code: int = 0) -> Path:
    """Write a command that prints what adc.txt next to it holds, which is `text` at first."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adc.txt").write_text(text)
    command = folder / "vcgencmd"
    command.write_text(
        f"#!{sys.executable} -S\nimport sys\nassert sys.argv[1:] == ['pmic_read_adc']\n"
        f"sys.stdout.write(open({str(folder / 'adc.txt')!r}).read())\nsys.exit({code})\n"
    )
    command.chmod(0o755)
    return command


def log(path: Path, now: float, watts: float = 5.0, rows: int = 20, period: float = 0.1) -> Path:
    """Write the log of an external meter with constant power, its newest row at `now`."""
    lines = [f"{now - (rows - 1 - i) * period:.3f},{watts}" for i in range(rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["time_s,power_w", *lines]) + "\n")
    return path
