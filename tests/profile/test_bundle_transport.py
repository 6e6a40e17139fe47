"""Bundles: they measure themselves anywhere, and only what they measured, unaltered, comes back."""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from profile_run_sample import exported_run

from rmtkd_edge.cli.app import main
from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.profile.bundle import collect, write_bundle
from rmtkd_edge.profile.measuring.store import digest_of
from rmtkd_edge.profile.options import BundleOptions
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.profile import ProfileRecord


def few(run: Run, board: HardwareProfile, out: Path, **changes: Any) -> BundleOptions:
    """Return options of a bundle that measures a moment."""
    short: dict[str, Any] = {"batch_sizes": (1,), "lengths": (8,), "min_runs": 3, "min_duration_s": 0.0, "quick": True}
    return BundleOptions(run=run.path, on=board, out=out, **short, **changes)


@pytest.fixture
def board() -> HardwareProfile:
    """Another device by its profile, with this machine's processor."""
    sets = detect_machine().instruction_sets[:1]
    return load_profile("raspberry-pi-5").model_copy(update={"threads": 1, "instruction_sets": sets})


@pytest.fixture
def measured(tmp_path: Path, board: HardwareProfile) -> tuple[Run, Path]:
    """A run and the results of its bundle, unpacked from the archive elsewhere and measured there."""
    run = exported_run(tmp_path / "a", external=True)
    found = write_bundle(run, few(run, board, tmp_path / "bundle"))
    with tarfile.open(found.archive) as tar:
        assert all(m.name.split("/")[0] == "bundle" and m.uid == 0 and m.mtime == 0 for m in tar)
        tar.extractall(tmp_path / "device", filter="data")
    script = str(tmp_path / "device/bundle/runner.py")
    done = subprocess.run(
        [sys.executable, "-E", "-s", script], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    return run, tmp_path / "device/bundle/results.json"


def test_there_and_back(measured: tuple[Run, Path]) -> None:
    run, file = measured
    out = collect(run, file)
    assert out.profile == "raspberry-pi-5" and len(out.results) == 4 and out.comparisons
    assert Run.open(run.path).read_record(ProfileRecord, "profile/raspberry-pi-5.json") == out
    with pytest.raises(RunDirError, match="already"):
        collect(run, file)
    assert collect(run, file, force=True).results


def rewritten(file: Path, change: Any, seal: bool = True) -> Path:
    document = json.loads(file.read_text())
    change(document)
    if seal:
        document["digest"] = digest_of(document)
    file.write_text(json.dumps(document))
    return file


@pytest.mark.parametrize(
    ("change", "seal", "says"),
    [
        (lambda d: d["results"][0]["latency"].update(p50=0.001), False, "altered"),
        (lambda d: d["results"].pop(), True, "other results"),
        (lambda d: d["results"][0]["model"].update(sha256="0" * 64), True, "other results"),
        (lambda d: d["results"][0].pop("model"), True, "lacks"),
        (lambda d: d.update(plan_sha256="0" * 64), True, "another plan"),
        (lambda d: d.update(profile="jetson-orin-nano"), True, "made none"),
        (lambda d: d.update(profile="../../etc/passwd"), True, "made none"),
        (lambda d: d.update(complete=False, error={"message": "no provider"}), True, "no provider"),
        (lambda d: d.update(schema="x"), True, "schema x, rmtkd-edge/results@2 is read"),
        (lambda d: d["env"].update(cpu_flags=["mmx"], machine="i386"), True, "i386"),
    ],
)
def test_what_was_tampered_with_is_refused_by_name(measured, change, seal: bool, says: str) -> None:
    run, file = measured
    with pytest.raises(UserError, match=says) as caught:
        collect(run, rewritten(file, change, seal))
    assert str(file) in caught.value.message
    assert not run.has("profile/raspberry-pi-5.json")


def test_half_a_file_is_refused_and_so_is_a_run_that_was_exported_again(measured) -> None:
    run, file = measured
    half = file.with_name("half.json")
    half.write_text(file.read_text()[:-100])
    for odd, says in ((half, "not valid JSON"), (file.with_name("none.json"), "cannot be read")):
        with pytest.raises(UserError, match=says):
            collect(run, odd)
    described = run.read_json("export/rmtkd.json")
    run.path_of("export/onnx/model_quantized.onnx").unlink()
    described["variants"]["int8"]["refused"] = "slower"
    run.write_json("export/rmtkd.json", described)
    with pytest.raises(UserError, match="exported again"):
        collect(run, file)


def test_an_altered_bundle_does_not_measure(tmp_path: Path, board: HardwareProfile) -> None:
    run = exported_run(tmp_path / "a")
    write_bundle(run, few(run, board, tmp_path / "b"))
    for name in ("inputs.npz", "models/rmt-kd-fp32/model.onnx"):
        path = tmp_path / "b" / name
        kept = path.read_bytes()
        path.write_bytes(kept + b"x")
        done = subprocess.run(
            [sys.executable, str(tmp_path / "b/runner.py")], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2 and name in done.stderr
        path.write_bytes(kept)


def test_a_bundle_owns_its_files_and_replaces_only_bundles(tmp_path: Path, board: HardwareProfile) -> None:
    run = exported_run(tmp_path / "a")
    write_bundle(run, few(run, board, tmp_path / "b"))
    inside = tmp_path / "b/models/rmt-kd-fp32/model.onnx"
    assert inside.stat().st_ino != run.path_of("export/onnx/model.onnx").stat().st_ino
    with pytest.raises(RunDirError, match="there already"):
        write_bundle(run, few(run, board, tmp_path / "b"))
    write_bundle(run, few(run, board, tmp_path / "b", force=True))
    (tmp_path / "mine").mkdir()
    with pytest.raises(RunDirError, match="no bundle"):
        write_bundle(run, few(run, board, tmp_path / "mine", force=True))
    assert (tmp_path / "mine").is_dir() and not list(tmp_path.glob(".*"))


def test_the_commands(tmp_path: Path, capsys) -> None:
    run = exported_run(tmp_path / "a")
    with pytest.raises(SystemExit) as code:
        main(["bundle", str(run.path), "--on", "generic-x86-avx2"])
    assert code.value.code == 2 and "--threads" in capsys.readouterr().err
    with pytest.raises(SystemExit) as code:
        main(["bundle", str(run.path), "--on", "raspberry-pi-5", "--quick", "--seq-len", "8", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code.value.code == 0 and found["folder"] == f"{run.path}-raspberry-pi-5" and found["size_bytes"] > 0
    plan = json.loads((Path(found["folder"]) / "plan.json").read_text())
    assert plan["threads"] == 4 and [workload["seq"] for workload in plan["workloads"]] == [8, 8]
    with pytest.raises(SystemExit) as code:
        main(["collect", str(run.path), str(tmp_path / "none.json")])
    assert code.value.code == 2 and "cannot be read" in capsys.readouterr().err
