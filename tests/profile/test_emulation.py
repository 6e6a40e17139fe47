"""Emulated processors: only with their own Python, no times, no comparisons, and agreement with the host instead."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from profile_bundle import quiet, write_plan
from profile_run_sample import device_record, exported_run, measurement

from rmtkd_edge.api import profile as api_profile
from rmtkd_edge.cli.tables import comparison_lines, profile_table
from rmtkd_edge.config.hardware import Budgets, HardwareProfile, load_profile
from rmtkd_edge.errors import Finding, ProviderError, UserError
from rmtkd_edge.profile import emulation, plan
from rmtkd_edge.profile.budget import judge
from rmtkd_edge.profile.bundle import write_bundle
from rmtkd_edge.profile.emulation import SETUP, disagreements, refuse_interpreter, refuse_machine
from rmtkd_edge.profile.identity import refuse_device, refuse_other_machine
from rmtkd_edge.profile.measuring import execute, machine
from rmtkd_edge.profile.measuring.verification import same_file
from rmtkd_edge.profile.options import BundleOptions, ProfileOptions
from rmtkd_edge.profile.plan import TOLERANCE_INT8
from rmtkd_edge.profile.stage import profile_run
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter

ARM = os.environ.get("RMTKD_ARM64_PYTHON", "")
needs_arm = pytest.mark.skipif(
    not ARM or shutil.which("qemu-aarch64-static") is None or shutil.which(ARM) is None,
    reason="RMTKD_ARM64_PYTHON names no launcher of tools/arm64_python.py, or qemu-user-static is not installed",
)


@pytest.fixture
def emulated() -> HardwareProfile:
    return load_profile("arm64-emulated")


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the Python of the tests for an emulated one: this machine calls itself something else."""
    monkeypatch.setattr(emulation, "ARCHITECTURE", platform.machine())
    monkeypatch.setattr(emulation, "platform", SimpleNamespace(machine=lambda: "elsewhere"))


def asked(run: Run, profile: HardwareProfile, python: str | None = sys.executable) -> ProfileOptions:
    """Return options of one workload by another Python."""
    return ProfileOptions(run=run.path, on=profile, batch_sizes=(2,), lengths=(8,), python=python)


def test_an_emulated_profile_wants_its_own_python_here(emulated: HardwareProfile) -> None:
    with pytest.raises(UserError, match="needs a Python") as caught:
        refuse_device(emulated, None)
    assert caught.value.hint == SETUP and (Path(__file__).parents[2] / SETUP.split()[1]).is_file()
    with pytest.raises(UserError, match="nothing is emulated"):
        refuse_device(emulated, None, sys.executable)
    with pytest.raises(UserError, match="not on a host"):
        refuse_device(emulated, "pi5", sys.executable)
    with pytest.raises(UserError, match="no such program"):
        refuse_device(emulated, None, "/nowhere/python")


def test_emulation_and_profile_must_agree(emulated: HardwareProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulation, "platform", SimpleNamespace(machine=lambda: "x86_64"))
    local = load_profile("local-cpu")
    refuse_machine(emulated, "aarch64", "python")
    refuse_machine(local, "x86_64", "python")
    for profile, name, says in ((emulated, "riscv64", "needs aarch64"), (local, "aarch64", "emulates")):
        with pytest.raises(UserError, match=says):
            refuse_machine(profile, name, "python")
    env = {"emulated": True, "cpu_flags": None, "machine": "aarch64"}
    with pytest.raises(UserError, match="results is emulated"):
        refuse_other_machine(env, load_profile("raspberry-pi-5"), "results")
    refuse_other_machine(env, emulated, "results")


def test_a_python_that_does_not_run_is_a_provider_error(tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\necho no interpreter >&2; exit 3\n")
    broken.chmod(0o755)
    with pytest.raises(ProviderError, match="no interpreter"):
        refuse_interpreter(load_profile("local-cpu"), None, str(broken))


def test_an_emulated_result_has_outputs_and_no_times(
    tmp_path: Path, emulated: HardwareProfile, elsewhere: None
) -> None:
    run = exported_run(tmp_path / "a")
    record = profile_run(run, asked(run, emulated), SilentReporter())
    found = Run.open(tmp_path / "a").read_json("profile/arm64-emulated.json")
    assert found["comparisons"] == [] and found["hardware"]["emulated"] and len(found["results"]) == 4
    for result in found["results"]:
        assert result["quality"]["verdict"] == "emulated" and result["quality"]["reasons"]
        assert result["env"]["emulated"]
        latency = result["latency"]
        assert latency["p50"] is None and "emulated" in latency["p50_why"] and latency["n"] == 1
        for place, key in (
            (result, "throughput_per_s"),
            (result, "cold_start_ms"),
            (result["memory"], "peak_rss_bytes"),
        ):
            assert place[key] is None
        assert result["energy"]["j_per_inf_gross"] is None and "emulated" in result["energy"]["why"]
        check = result["verification"]
        assert check["same_labels"] == 1.0
        if result["model"]["precision"] == "int8":
            assert check["same_file_max_abs_diff"] == 0.0 and check["same_file_tolerance"] == TOLERANCE_INT8
    table = profile_table(record)
    assert [column.header.plain for column in table.columns][-1] == "same labels"  # type: ignore[union-attr]
    assert comparison_lines(record) == []
    verdict = judge(record, Budgets(latency_ms=5.0))[0]
    assert verdict.value is None and "emulated" in verdict.why


def test_int8_beyond_the_tolerance_is_a_finding_and_stays(
    tmp_path: Path, emulated: HardwareProfile, elsewhere: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = plan.reference_outputs

    def moved(path: Path, inputs: Any, threads: int, label: str) -> Any:
        found = really(path, inputs, threads, label)
        return {name: value + (100 if "int8" in label else 0) for name, value in found.items()}

    monkeypatch.setattr(plan, "reference_outputs", moved)
    run = exported_run(tmp_path / "a")
    with pytest.raises(Finding, match="rmt-kd int8") as caught:
        profile_run(run, asked(run, emulated), SilentReporter())
    assert "original int8" in caught.value.message and "kept" in caught.value.hint
    run = Run.open(tmp_path / "a")
    assert run.stage("profile")["state"] == "done"
    assert any("stated tolerance" in note for note in run.read_json("profile/arm64-emulated.json")["notes"])


def test_the_python_is_handed_down_from_the_api(tmp_path: Path, emulated: HardwareProfile) -> None:
    run = exported_run(tmp_path / "a")
    with pytest.raises(UserError, match="needs a Python"):
        api_profile.profile_run(asked(run, emulated, None))
    with pytest.raises(UserError, match="nothing is emulated"):
        api_profile.profile_run(asked(run, emulated))


def test_there_is_no_bundle_of_an_emulated_device(tmp_path: Path, emulated: HardwareProfile) -> None:
    with pytest.raises(UserError, match="needs no bundle"):
        write_bundle(exported_run(tmp_path / "a"), BundleOptions(run=tmp_path, on=emulated, out=tmp_path / "b"))


def int8_plan(folder: Path, shift: float | None, **changes: Any) -> Path:
    """A plan whose model A passes for int8; its outputs on the host were larger by `shift` (None: not recorded)."""
    path = write_plan(folder, probe_repeats=0, **changes)
    asks = json.loads(path.read_text())
    asks["models"][0]["precision"] = "int8"
    path.write_text(json.dumps(asks))
    with np.load(folder / "reference.npz") as stored:
        reference = dict(stored)
    if shift is not None:
        reference["A/b2s6/logits"] = reference["candidate/b2s6/logits"] + np.float32(shift)
    np.savez(folder / "reference.npz", **reference)
    return path


def test_int8_is_compared_with_the_same_file_where_the_plan_has_it(tmp_path: Path) -> None:
    old = execute.measure(int8_plan(tmp_path / "old", None), tmp_path / "old.json", quiet)["results"][0]["verification"]
    assert old["tolerance"] is None and not any(key.startswith("same_") for key in old)
    path = int8_plan(tmp_path / "new", 0.5, tolerance_int8=0.01, prediction="argmax")
    results = execute.measure(path, tmp_path / "new.json", quiet)["results"]
    new = results[0]["verification"]
    assert new["max_abs_diff"] == 0.0 and new["same_labels"] == 1.0
    assert new["same_file_max_abs_diff"] == pytest.approx(0.5, rel=1e-3) and new["same_file_tolerance"] == 0.01
    record = device_record(measurement("A int8", verification=new), measurement("B fp32"))
    assert [sentence.split(" (")[0] for sentence in disagreements(record)] == ["A int8"]
    assert (
        results[1]["verification"]["same_labels"] == 1.0 and "same_file_max_abs_diff" not in results[1]["verification"]
    )


def test_probes_start_what_the_launcher_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "launcher"
    launcher.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/called"\nexec "{sys.executable}" "$@"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("RMTKD_PYTHON", str(launcher))
    assert execute.fresh(["--probe", "import"])["peak_rss_bytes"] != 0
    assert "--probe import" in (tmp_path / "called").read_text()


def test_flags_of_the_host_are_never_those_of_an_emulated_arm(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {"x86": "model name : An x86\nflags : avx avx2\n", "arm": "CPU architecture: 8\nFeatures : fp asimd\n"}
    asks, session = {"provider": "p", "threads": 1, "spinning": False}, SimpleNamespace(get_providers=lambda: ["p"])
    monkeypatch.setattr(machine.platform, "machine", lambda: "aarch64")
    for name, flags in (("x86", None), ("arm", ["asimd"])):
        monkeypatch.setattr(machine, "read_text", lambda path, n=name: texts[n] if path == "/proc/cpuinfo" else None)
        env = machine.environment(asks, session)
        assert env["cpu_flags"] == flags and env["cpu_model"] is None and not env["emulated"]


@needs_arm
@pytest.mark.slow
def test_a_run_agrees_under_real_emulation(tmp_path: Path, emulated: HardwareProfile) -> None:
    if platform.machine() == "aarch64":
        pytest.skip("this machine is an Arm itself")
    run = exported_run(tmp_path / "a")
    for result in profile_run(run, asked(run, emulated, ARM), SilentReporter()).results:
        assert result.env["machine"] == "aarch64" and "asimd" in result.env["cpu_flags"]
        assert result.verdict == "emulated" and result.verification.max_rel_diff < 1e-4
    with pytest.raises(UserError, match="emulates"):
        profile_run(run, asked(run, load_profile("local-cpu"), ARM), SilentReporter())


@pytest.mark.parametrize(("prediction", "same"), [("none", None), ("argmax", 0.5), ("sign", 0.5)])
def test_labels_are_compared_as_the_task_predicts(prediction: str, same: float | None) -> None:
    there = {"logits": np.zeros((2, 3), np.float32)}
    here = {"logits": np.zeros((2, 3), np.float32)}
    here["logits"][1, -1] = 1.0
    assert same_file({"label": "a", "precision": "int8"}, here, there, 1e-3, prediction)["same_labels"] == same
