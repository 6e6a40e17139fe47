"""Meters of third parties: found by an entry point, copied into bundles, read there."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from profile_bundle import quiet, write_plan

from rmtkd_edge.errors import ProviderError
from rmtkd_edge.profile import meter_files
from rmtkd_edge.profile.measuring import execute
from rmtkd_edge.profile.meter_files import load_meter, meter_names
from rmtkd_edge.profile.meters.base import Meter
from rmtkd_edge.profile.plan import copy_runner

SUNDIAL = """
try:
    from .base import Meter, MeterAbsent, Reading
except ImportError:
    from rmtkd_edge.profile.meters.base import Meter, MeterAbsent, Reading


class Sundial(Meter):
    name = "sundial"
    provenance = "measured-counter"
    scope = "the sun"
    needs_window = False
    joules = 0.0

    def read(self):
        self.joules += 1.0
        return Reading(self.joules, self.provenance, self.name, self.scope)


def open_meter(options):
    if options.get("provider") == "night":
        raise MeterAbsent("it is dark", ("wait", "take a lamp"))
    return Sundial()
"""


@pytest.fixture
def sundial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Install a package with a meter, and with one of a name that ships and one that no profile can write."""
    (tmp_path / "site/watch_maker").mkdir(parents=True)
    (tmp_path / "site/watch_maker/__init__.py").write_text("")
    (tmp_path / "site/watch_maker/sun.py").write_text(SUNDIAL)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    points = [
        EntryPoint(name, "watch_maker.sun", meter_files.GROUP) for name in ("sundial", "rapl", "../evil", "moondial")
    ]
    points[-1] = EntryPoint("moondial", "watch_maker.moon", meter_files.GROUP)
    monkeypatch.setattr(meter_files, "entry_points", lambda group: points[:3] if group == meter_files.GROUP else [])
    return "sundial"


def test_it_is_found_by_name_and_what_ships_comes_first(sundial: str) -> None:
    assert sundial in meter_names() and "../evil" not in meter_names() and "base" not in meter_names()
    assert isinstance(load_meter(sundial).open_meter({}), Meter)
    assert load_meter("rapl").__name__ == "rmtkd_edge.profile.meters.rapl"
    with pytest.raises(ProviderError, match="no energy meter `moondial`"):
        load_meter("moondial")


def test_it_measures_in_a_bundle_without_the_package(sundial: str, tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "b", meters=[sundial], meter_required=True, files={}, profile="a")
    copy_runner(plan.parent)
    assert not (plan.parent / "meters/../evil.py").exists()
    done = subprocess.run([sys.executable, "-E", "-s", str(plan.parent / "runner.py")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for result in json.loads((plan.parent / "results.json").read_text())["results"]:
        assert result["energy"]["meter"] == "sundial" and result["energy"]["j_per_inf_gross"] > 0


def test_it_measures_from_within_the_package_too(sundial: str, tmp_path: Path) -> None:
    """The JavaScript transports run the measuring code in this process, with the bundle next to it."""
    plan = write_plan(tmp_path / "b", meters=[sundial], meter_required=True)
    copy_runner(plan.parent)
    document = execute.measure(plan, tmp_path / "r.json", quiet)
    assert document["meter"]["name"] == "sundial" and not document["meter"]["skipped"]
    dark = write_plan(tmp_path / "c", meters=["nothing"], meter_required=True)
    with pytest.raises(execute.RunnerError, match="no meters/nothing"):
        execute.measure(dark, tmp_path / "c.json", quiet)
