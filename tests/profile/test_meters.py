"""Every meter: found by its name, honest about what it is, never falling, never silently absent."""

from __future__ import annotations

import ast
import importlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

import fake_machines as fake
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.profile import meters, plan
from rmtkd_edge.profile.meters import modelled, nvml, rapl
from rmtkd_edge.profile.meters.base import Meter, MeterAbsent
from rmtkd_edge.run.records.profile import Provenance

FOLDER = Path(meters.__file__).parent
NAMES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem not in ("__init__", "base"))
CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


class FakeNvml:
    """libnvidia-ml with one GPU: `energy_mj` values in turn (None: not supported), constant power."""

    def __init__(self, energy_mj: list[int | None], power_mw: int | None = 50_000) -> None:
        self.energy, self.power, self.closed = energy_mj, power_mw, 0

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlShutdown(self) -> int:
        self.closed += 1
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: Any, handle: Any) -> int:
        return 0 if index.value == 0 else 6

    def nvmlDeviceGetName(self, handle: Any, text: Any, size: Any) -> int:
        text.value = b"Fake GPU"
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, value: Any) -> int:
        now = self.energy.pop(0) if len(self.energy) > 1 else self.energy[0]
        if now is None:
            return 3
        value._obj.value = now
        return 0

    def nvmlDeviceGetPowerUsage(self, handle: Any, value: Any) -> int:
        if self.power is None:
            return 3
        value._obj.value = self.power
        return 0


def powercap(root: Path, domains: dict[str, tuple[str, int]], most: int = 1000) -> Path:
    """Write a fake sysfs: {folder: (name, microjoules)}."""
    for folder, (name, value) in domains.items():
        path = root / "class" / "powercap" / folder
        path.mkdir(parents=True)
        (path / "name").write_text(name + "\n")
        (path / "max_energy_range_uj").write_text(f"{most}\n")
        (path / "energy_uj").write_text(f"{value}\n")
    return root


def put(root: Path, folder: str, value: int) -> None:
    (root / "class" / "powercap" / folder / "energy_uj").write_text(f"{value}\n")


def openings(tmp_path: Path) -> list[dict[str, Any]]:
    """Options of machines with and without everything."""
    full = powercap(tmp_path / "sys", {"intel-rapl:0": ("package-0", 5)})
    watts = {"active_watts_per_core": 2.0, "idle_watts": 1.0, "source": "a test"}
    return [
        {"sysfs": tmp_path / "none", "provider": CPU},
        {"sysfs": full, "provider": CPU, **watts},
        {"sysfs": full, "provider": CUDA, "library": FakeNvml([100, 200, 250, 250]), **watts},
        {"sysfs": tmp_path / "none", "provider": CUDA},
        {"sysfs": fake.jetson(tmp_path / "jetson", {"1-0040": {"VDD_IN": (5000, 900), "VDD_SOC": (5000, 300)}})},
        {"sysfs": tmp_path / "none", "vcgencmd": fake.vcgencmd(tmp_path / "pi", fake.adc_text())},
        {"sysfs": laptop(tmp_path / "laptop")},
        {"sysfs": tmp_path / "none", "csv": str(fake.log(tmp_path / "meter.csv", time.time()))},
    ]


def laptop(root: Path) -> Path:
    fake.supply(root, "BAT0", type="Battery", status="Discharging", power_now=9_000_000)
    return root


@pytest.mark.parametrize("name", NAMES)
def test_every_meter_keeps_the_interface(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"rmtkd_edge.profile.meters.{name}")
    opened = 0
    for options in openings(tmp_path):
        try:
            meter = module.open_meter(options)
        except MeterAbsent as err:
            assert err.why
            assert len(err.ways_out) == 2
            assert all(err.ways_out)
            continue
        opened += 1
        assert isinstance(meter, Meter)
        readings = [meter.read() for _ in range(4)]
        for reading in [*readings, *meter.also()]:
            assert reading.provenance in get_args(Provenance)
            assert reading.meter
            assert reading.scope
            assert (reading.joules is None) == bool(reading.why)
            assert (reading.joules is None) == (reading.provenance == "unavailable")
        joules = [r.joules for r in readings if r.joules is not None]
        assert joules == sorted(joules)
        assert all(j >= 0 for j in joules)
        meter.close()
    assert opened, "the meter opens on none of the machines"


TRAVELS = [path for pattern in plan.TRAVELS for path in sorted(FOLDER.parent.glob(pattern))]
MEASURING = FOLDER.parent / "measuring"


@pytest.mark.parametrize("path", TRAVELS, ids=lambda p: f"{p.parent.name}/{p.name}")
def test_files_that_travel_need_python_3_9_and_nothing_of_the_package(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
    third = {"numpy", "onnxruntime"} if path.parent == MEASURING else set()
    third |= {"measuring"} if path.name == "runner.py" else set()
    for node in ast.walk(tree):
        roots = []
        if isinstance(node, ast.Import):
            roots = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level in (0, 1)
            roots = [(node.module or "").split(".")[0]] if node.level == 0 else []
        assert set(roots) <= third | set(sys.stdlib_module_names)


def test_annotations_are_never_evaluated_where_python_3_9_could_not() -> None:
    for path in TRAVELS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        unions = [n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, ast.BitOr)]
        if unions:
            assert any(isinstance(n, ast.ImportFrom) and n.module == "__future__" for n in tree.body)
        strict = [k for n in ast.walk(tree) if isinstance(n, ast.Call) for k in n.keywords if k.arg == "strict"]
        assert not strict, "zip(strict=) is Python 3.10"


def test_rapl_wraps_and_counts_packages_once(tmp_path: Path) -> None:
    domains = {
        "intel-rapl:0": ("package-0", 900),
        "intel-rapl:0:0": ("core", 400),
        "intel-rapl:1": ("psys", 100),
        "intel-rapl:2": ("package-1", 10),
    }
    root = powercap(tmp_path, domains)
    meter = rapl.open_meter({"sysfs": root, "provider": CPU})
    assert meter.name == "rapl:package-0+package-1"
    for folder, value in (("intel-rapl:0", 50), ("intel-rapl:0:0", 999), ("intel-rapl:1", 400), ("intel-rapl:2", 30)):
        put(root, folder, value)
    assert meter.read().joules == pytest.approx((150 + 20) / 1e6)  # 900 -> 1000 = 0 -> 50, and 10 -> 30
    assert [(r.meter, r.joules) for r in meter.also()] == [("rapl:psys", pytest.approx(300 / 1e6))]


@settings(deadline=None, max_examples=40)
@given(st.integers(100, 10**6), st.lists(st.floats(0, 0.99), max_size=30), st.integers(0, 99))
def test_rapl_total_is_the_sum_of_all_steps(most: int, steps: list[float], first: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = powercap(Path(folder), {"intel-rapl:0": ("package-0", first)}, most)
        meter = rapl.open_meter({"sysfs": root, "provider": CPU})
        true = 0
        for share in steps:
            true += int(share * most)
            put(root, "intel-rapl:0", (first + true) % most)
            reading = meter.read()
            assert reading.joules == pytest.approx(true / 1e6)


def test_rapl_takes_psys_alone_only_where_there_is_no_package(tmp_path: Path) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("psys", 1), "intel-rapl-mmio:0": ("package-0", 1)})
    meter = rapl.open_meter({"sysfs": root, "provider": CPU})
    assert meter.name == "rapl:psys"
    assert "platform" in meter.scope


def test_rapl_for_root_only_says_so_and_names_two_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("package-0", 1)})
    read = Path.read_text

    def refuse(self: Path, *args: Any, **kwargs: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied")
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(MeterAbsent, match="root only") as caught:
        rapl.open_meter({"sysfs": root, "provider": CPU})
    assert "chmod" in caught.value.ways_out[0]
    assert "--meter" in caught.value.ways_out[1]


@pytest.mark.parametrize("file", ["name", "max_energy_range_uj", "energy_uj"])
@pytest.mark.parametrize("fault", ["for root", "absent", "empty"])
def test_rapl_that_can_be_read_in_part_is_absent_and_names_the_file(
    file: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("package-0", 1)})
    path = root / "class" / "powercap" / "intel-rapl:0" / file
    if fault == "absent":
        path.unlink()
    elif fault == "for root":
        read = Path.read_text

        def refuse(self: Path, *args: Any, **kwargs: Any) -> str:
            if self == path:
                raise PermissionError(13, "Permission denied", str(self))
            return read(self, *args, **kwargs)

        monkeypatch.setattr(Path, "read_text", refuse)
    else:
        path.write_text("")
    with pytest.raises(MeterAbsent) as caught:
        rapl.open_meter({"sysfs": root, "provider": CPU})
    assert file in str(caught.value) or fault == "empty"
    assert "/*_uj" in caught.value.ways_out[0] and "--meter" in caught.value.ways_out[1]


def test_rapl_without_a_range_is_absent_since_nobody_could_tell_a_wrap(tmp_path: Path) -> None:
    root = powercap(tmp_path, {"intel-rapl:0": ("package-0", 1)}, most=0)
    with pytest.raises(MeterAbsent, match="max_energy_range_uj is 0"):
        rapl.open_meter({"sysfs": root, "provider": CPU})


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 50), st.one_of(st.none(), st.floats(0.1, 50)), st.floats(0, 1e4), st.floats(0, 1e4))
def test_modelled_is_watts_times_seconds(active: float, idle: float | None, cpu: float, wall: float) -> None:
    clocks = {"cpu": 3.0, "wall": 7.0}
    meter = modelled.Modelled(active, idle, "a test", lambda: clocks["cpu"], lambda: clocks["wall"])
    clocks.update(cpu=3.0 + cpu, wall=7.0 + wall)
    assert meter.read().joules == pytest.approx(active * cpu + (idle or 0) * wall, rel=1e-9, abs=1e-9)
    assert meter.read().provenance == "modelled"
    assert bool(meter.gross_why) == (idle is None)


def test_modelled_wants_watts_with_a_source() -> None:
    for options in (
        {},
        {"active_watts_per_core": 2.0},
        {"active_watts_per_core": 2.0, "source": "x", "provider": CUDA},
    ):
        with pytest.raises(MeterAbsent):
            modelled.open_meter(options)


def test_nvml_records_counter_and_sampled_power() -> None:
    library = FakeNvml([1000, 3500])
    meter = nvml.open_meter({"provider": CUDA, "library": library})
    assert meter.read().joules == 2.5
    assert meter.read().provenance == "measured-counter"
    (check,) = meter.also()
    assert check.provenance == "measured-sampled"
    assert check.meter == "nvml:power-0"
    assert check.joules is not None
    library.power = None
    (broken,) = meter.also()
    assert broken.joules is None
    assert "power" in broken.why
    assert meter.read().joules == 2.5  # the counter goes on without it
    assert "Fake GPU" in meter.scope
    meter.close()
    assert library.closed == 1


def test_nvml_before_volta_samples_and_without_either_is_absent() -> None:
    meter = nvml.open_meter({"provider": CUDA, "library": FakeNvml([None])})
    assert meter.read().provenance == "measured-sampled"
    assert meter.also() == []
    meter.close()
    library = FakeNvml([None], power_mw=None)
    with pytest.raises(MeterAbsent, match="neither"):
        nvml.open_meter({"provider": CUDA, "library": library})
    assert library.closed == 1


def test_nvml_that_stops_answering_is_no_zero() -> None:
    meter = nvml.open_meter({"provider": CUDA, "library": FakeNvml([1000, 2000, None])})
    assert meter.read().joules == 1.0
    broken = meter.read()
    assert broken.joules is None
    assert broken.why
    meter.close()
