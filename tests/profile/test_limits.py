"""Limits of a smaller device: cores, processor time and memory are held, or refused aloud."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from profile_bundle import write_plan
from profile_run_sample import device_record, measurement

from rmtkd_edge.config.hardware import Budgets, Limits, load_profile, parse_profile
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.profile import limits
from rmtkd_edge.profile.assemble import does_not_fit
from rmtkd_edge.profile.budget import files_within, judge, rows
from rmtkd_edge.profile.plan import copy_runner
from rmtkd_edge.profile.transport_local import run_bundle


def fake_root(tmp_path: Path, outer: str = "max 100000") -> Path:
    """Write a machine whose process is in the cgroup /a/b and may make others next to it."""
    for group in ("", "a", "a/b"):
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.procs").write_text("")
        (folder / "cgroup.controllers").write_text("cpu memory")
    (tmp_path / "sys/fs/cgroup/a/cpu.max").write_text(outer)
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/a/b\n")
    return tmp_path


def with_files(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let new cgroup folders have the files that a kernel would put there."""
    made = Path.mkdir

    def mkdir(self: Path, *args: object, **kwargs: object) -> None:
        made(self, *args, **kwargs)  # type: ignore[arg-type]
        if self.name.startswith("rmtkd-"):
            for name in (*names, "cgroup.procs"):
                (self / name).write_text("")

    monkeypatch.setattr(Path, "mkdir", mkdir)
    monkeypatch.setattr(limits.atexit, "register", lambda *a: None)


def test_processor_time_is_held_by_a_group_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_root(tmp_path)
    with_files(monkeypatch, "cpu.max")
    assert limits.confine({"cpu_quota": 0.5}, str(root)) == {"cpu_quota": 0.5, "cpu_quota_by": "cgroup v2"}
    group = root / f"sys/fs/cgroup/a/rmtkd-{os.getpid()}"
    assert (group / "cpu.max").read_text() == "50000 100000"
    assert (group / "cgroup.procs").read_text() == str(os.getpid())


def test_memory_is_held_by_a_group_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = fake_root(tmp_path)
    with_files(monkeypatch, "memory.max", "memory.swap.max")
    assert limits.fence(256_000_000, str(root)) == "cgroup v2"
    group = root / f"sys/fs/cgroup/a/rmtkd-{os.getpid()}"
    assert (group / "memory.max").read_text() == "256000000"
    assert (group / "memory.swap.max").read_text() == "0"


@pytest.mark.parametrize(("outer", "holds"), [("40000 100000", True), ("60000 100000", False), ("max 100000", False)])
def test_a_group_around_it_may_hold_it_already(tmp_path: Path, outer: str, holds: bool) -> None:
    root = str(fake_root(tmp_path, outer))
    if holds:
        assert "started in (0.4" in limits.confine({"cpu_quota": 0.5}, root)["cpu_quota_by"]
    else:  # the new group has no cpu.max: the controller is not handed down
        with pytest.raises(limits.LimitRefused, match="CPUQuota=50%"):
            limits.confine({"cpu_quota": 0.5}, root)
    assert not list((tmp_path / "sys/fs/cgroup/a").glob("rmtkd-*")), "nothing is left"


def test_more_cores_than_there_are_are_refused() -> None:
    with pytest.raises(limits.LimitRefused, match="4096"):
        limits.confine({"cores": 4096})


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Return a bundle without limits."""
    write_plan(tmp_path / "bundle", files={}, profile="small")
    copy_runner(tmp_path / "bundle")
    return tmp_path / "bundle"


def limited(bundle: Path, **wanted: float) -> Path:
    """Write limits into a bundle's plan."""
    plan = json.loads((bundle / "plan.json").read_text())
    (bundle / "plan.json").write_text(json.dumps({**plan, "limits": wanted}))
    return bundle


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_a_measurement_keeps_to_its_cores_and_its_memory(bundle: Path, tmp_path: Path) -> None:
    document = run_bundle(limited(bundle, cores=1, memory_bytes=2_000_000_000), tmp_path / "out.json")
    assert len(document["env"]["limits"]["cores"]) == 1
    assert document["env"]["cpus"] == 1
    for result in document["results"]:
        held = result["memory"]["limit"]
        assert held["fits"] is True
        assert 1_000_000 < held["needs_bytes"] < held["limit_bytes"]
        assert held["imposed_by"] in ("cgroup v2", "RLIMIT_DATA")


def test_a_model_that_does_not_fit_is_a_finding_and_no_crash(bundle: Path, tmp_path: Path) -> None:
    document = run_bundle(limited(bundle, memory_bytes=4_000_000), tmp_path / "out.json")
    assert document["complete"]
    results = [measurement(r["label"], role=r["role"], memory=r["memory"]) for r in document["results"]]
    record = device_record(*results)
    notes = does_not_fit(record)
    assert len(notes) == len(document["results"])
    assert "MB with Python and onnxruntime, the profile has 4" in notes[0]
    verdicts = judge(record, Budgets())
    assert files_within(verdicts) == []
    assert [row[-1] for row in rows(verdicts)[1:]] == ["missed"]


def test_what_a_process_takes_beyond_the_fence_ends_it() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import limits; by = limits.fence(150_000_000); "
        "print(by, flush=True); x = bytearray(10**9); print('past the fence')"
    )
    folder = str(Path(limits.__file__).parent)
    done = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert done.stdout.strip() in ("RLIMIT_DATA", "cgroup v2"), done.stderr


def test_a_file_that_fails_under_the_fence_is_missed_with_its_reason() -> None:
    held = {"limit_bytes": 100_000_000, "needs_bytes": 90_000_000, "fits": False, "imposed_by": None}
    held["why"] = "held to 100 MB it failed: x"
    verdicts = judge(device_record(measurement("a", memory={"limit": held})), Budgets())
    assert rows(verdicts)[1] == ["a", "limits.memory_mb", "100 MB", "held to 100 MB it failed: x", "missed"]


def test_threads_beyond_the_cores_are_a_fault_of_the_profile() -> None:
    data = {**load_profile("raspberry-pi-4").model_dump(mode="json"), "limits": {"cores": 2}, "threads": 4}
    with pytest.raises(RecipeError, match=r"limits\.cores = 2"):
        parse_profile(data, "a test")


def test_limits_are_named_for_the_plan() -> None:
    assert Limits().imposed() == {}
    assert Limits(memory_mb=256).imposed() == {"memory_bytes": 256_000_000}
