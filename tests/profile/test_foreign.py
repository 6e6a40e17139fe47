"""results.json from elsewhere, its digest remade by whoever changed it: refused by name, or good for a report."""

from __future__ import annotations

import copy
import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from profile_run_sample import exported_run

from rmtkd_edge.api.report import report
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.errors import UserError
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.profile.across_sessions import compare_files
from rmtkd_edge.profile.bundle import collect, write_bundle
from rmtkd_edge.profile.measuring.store import digest_of
from rmtkd_edge.profile.options import BundleOptions
from rmtkd_edge.run.directory import Run

Json = dict[str, Any]
INFINITE = "1e999"  # as it stands in the file


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Json]:
    """A run and the document that its bundle left on another device."""
    folder = tmp_path_factory.mktemp("measured")
    run = exported_run(folder / "a")
    sets = detect_machine().instruction_sets[:1]
    board = load_profile("raspberry-pi-5").model_copy(update={"threads": 1, "instruction_sets": sets})
    short: Json = {"batch_sizes": (1,), "lengths": (8,), "min_runs": 6, "min_duration_s": 0.0, "quick": True}
    found = write_bundle(run, BundleOptions(run=run.path, on=board, out=folder / "b", **short))
    subprocess.run([sys.executable, str(found.folder / "runner.py")], check=True, capture_output=True)
    return run, json.loads((found.folder / "results.json").read_text())


def sealed(path: Path, document: Json) -> Path:
    document["digest"] = digest_of(document)
    path.write_text(json.dumps(document).replace('"1e999"', INFINITE))
    return path


def test_what_was_measured_is_accepted(measured: tuple[Run, Json], tmp_path: Path) -> None:
    run, document = measured
    file = sealed(tmp_path / "results.json", copy.deepcopy(document))
    assert collect(run, file, force=True).results and compare_files(file, file)


def latency(document: Json) -> Json:
    return document["results"][0]["latency"]


CHANGES: list[Callable[[Json], Any]] = [
    lambda d: latency(d).update(rounds_ns=[[-n for n in r] for r in latency(d)["rounds_ns"]]),
    lambda d: latency(d).update(rounds_ns=[[0 for _ in r] for r in latency(d)["rounds_ns"]]),
    lambda d: latency(d).update(rounds_ns=latency(d)["rounds_ns"][:-1]),
    lambda d: latency(d)["rounds_ns"].append([]),
    lambda d: latency(d).update(rounds_ns=[]),
    lambda d: latency(d).update(rounds_ns="fast"),
    lambda d: latency(d).update(p50=latency(d)["p50"] / 10),
    lambda d: latency(d).update(p50=-1.0),
    lambda d: latency(d).update(p90=float("nan")),
    lambda d: latency(d).update(mean=INFINITE),
    lambda d: latency(d).update(n=5),
    lambda d: latency(d).update(warmup=10**30),
    lambda d: d["results"][0]["memory"].update(peak_rss_bytes=-1),
    lambda d: d["results"][0]["memory"].update(peak_rss_bytes=2**60),
    lambda d: d["results"][0]["energy"].update(j_per_inf_gross=-1.0),
    lambda d: d["results"][0]["energy"].update(kind="guessed"),
    lambda d: d["results"][0].update(throughput_per_s=-1.0),
    lambda d: d["results"][0].update(env=[]),
    lambda d: d["results"][0].update(quality=None),
    lambda d: d["results"][0]["quality"].update(reasons="none"),
    lambda d: d["results"][0]["quality"].update(steal_pct=-5),
    lambda d: d["results"][0].update(workload={"batch": [1]}),
    lambda d: d["results"][0].update(label=["a"]),
    lambda d: d.update(env=None),
    lambda d: d["env"].update(cpu_flags=5),
    lambda d: d["env"].update(emulated="no"),
    lambda d: d.update(meter=[]),
    lambda d: d.update(notes={"a": 1}),
    lambda d: d.update(results={}),
    lambda d: d.update(results=None),
    lambda d: d.pop("meter"),
    lambda d: d.update(profile=["raspberry-pi-5"]),
    lambda d: d.update(extra=deep(900)),
    lambda d: d.update(extra=deep(100)),
]


def deep(levels: int) -> Any:
    found: Any = 0
    for _ in range(levels):
        found = [found]
    return found


@pytest.mark.parametrize("change", CHANGES)
def test_figures_that_no_measurement_has_are_refused(
    measured: tuple[Run, Json], tmp_path: Path, change: Callable[[Json], Any]
) -> None:
    run, document = measured
    changed = copy.deepcopy(document)
    change(changed)
    file = sealed(tmp_path / "results.json", changed)
    with pytest.raises(UserError, match=r"results\.json") as caught:
        collect(run, file, force=True)
    assert caught.value.hint and len(caught.value.message) < 1000


ODD: list[Any] = [None, -1, 0, -0.5, 10**400, INFINITE, float("nan"), "", "<script>", [], [[]], {}, True, deep(70)]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def test_any_other_change_is_refused_or_good_for_a_report(measured: tuple[Run, Json], tmp_path: Path) -> None:
    run, document = measured
    rng, accepted = random.Random(17), 0
    everywhere = list(places(document))
    for _ in range(80):
        changed = copy.deepcopy(document)
        *parents, last = rng.choice(everywhere)
        part: Any = changed
        for key in parents:
            part = part[key]
        part[last] = rng.choice(ODD)
        try:
            collect(run, sealed(tmp_path / "results.json", changed), force=True)
        except UserError:
            continue
        accepted += 1
        page = report(run.path, out=tmp_path / "page").html.read_text(encoding="utf-8")
        assert "<script>" not in page
    assert accepted < 40
