"""From an exported run to profile/<name>.json: workloads, inputs, bundle, transport, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_bundle import VOCABULARY, sha256, tiny_encoder, write_plan

from rmtkd_edge.errors import Finding, ProviderError, RmtkdError, RunDirError, UserError
from rmtkd_edge.config.hardware import HardwareProfile, list_profiles, load_profile
from rmtkd_edge.profile.identity import RUNTIMES, refuse_device, refuse_other_device
from rmtkd_edge.profile.plan import Workload, build_inputs, choose_workloads, copy_runner, find_models
from rmtkd_edge.profile.stage import choose_effort, profile_run
from rmtkd_edge.profile.transport_local import run_bundle
from rmtkd_edge.run.directory import Run


def exported_run(path: Path, refused: str | None = None, external: bool = False) -> Run:
    """A run with an exported candidate and its baseline; int8 files are other tiny fp32 graphs, which will do here."""
    run = Run.create(path, "seed = 0\n", 0)
    for folder, width in (("export", 8), ("baseline", 64)):
        variants: dict[str, Any] = {}
        for precision, rel in (("fp32", "onnx/model.onnx"), ("int8", "onnx/model_quantized.onnx")):
            if precision == "int8" and folder == "export" and refused:
                variants[precision] = {"file": rel, "refused": refused}
                continue
            file = run.path_of(f"{folder}/{rel}")
            tiny_encoder(file, width, external=external and precision == "fp32")
            run.record(f"{folder}/{rel}")
            if external and precision == "fp32":
                run.record(f"{folder}/{rel}.data")
            variants[precision] = {"file": rel, "sha256": sha256(file), "accuracy": 0.8, "n": 100, "refused": None}
        described = {"schema": "rmtkd-edge/export@1", "model_id": folder, "parameters": width, "variants": variants}
        run.write_json(f"{folder}/rmtkd.json", described)
    run.write_json("export/config.json", {"vocab_size": VOCABULARY, "max_position_embeddings": 16})
    return run


@pytest.fixture
def one_thread() -> HardwareProfile:
    return load_profile("local-cpu").model_copy(update={"threads": 1})


def test_profile_of_a_run_from_end_to_end(tmp_path: Path, one_thread: HardwareProfile) -> None:
    run, events = exported_run(tmp_path / "a", external=True), []
    asked = [Workload(1, 8), Workload(4, 8)]
    out = profile_run(
        run, one_thread, quick=True, workloads=asked, min_runs=5, min_duration_s=0.0, seed=1, progress=events.append
    )
    stored = Run.open(tmp_path / "a").read_json("profile/local-cpu.json")
    assert stored == json.loads(json.dumps(out))
    assert stored["schema"] == "rmtkd-edge/profile@2"
    labels = ["rmt-kd fp32", "rmt-kd int8", "original fp32", "original int8"]
    assert [r["label"] for r in stored["results"]] == labels * 2
    for result in stored["results"]:
        latency = result["latency"]
        assert len(latency["values"]) == latency["n"] == sum(latency["round_sizes"]) >= 5
        assert result["scenario"] == ("single_stream" if result["workload"]["batch"] == 1 else "offline")
        assert result["throughput_per_s"] == pytest.approx(result["workload"]["batch"] / latency["p50"] * 1e3)
        assert result["accuracy"]["value"] == 0.8
        assert result["energy"]["j_per_inf_gross"] is None or result["energy"]["kind"] != "unavailable"
    pairs = {(c["candidate"], c["baseline"]) for c in stored["comparisons"]}
    assert ("rmt-kd int8", "original fp32") in pairs
    assert ("rmt-kd int8", "rmt-kd fp32") in pairs
    assert len(stored["comparisons"]) == 2 * (4 + 2)
    assert all(c["ci95"][0] <= c["ratio"] <= c["ci95"][1] for c in stored["comparisons"])
    assert {e["event"] for e in events} >= {"start", "round", "probe", "done"}
    assert not list((tmp_path / "a" / "profile").glob("*.partial"))
    assert run.stage("profile")["state"] == "done"


def test_the_stage_never_imports_torch() -> None:
    code = "import sys, rmtkd_edge.profile.stage as s; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", list_profiles())
def test_another_device_is_never_measured_here(name: str, tmp_path: Path) -> None:
    profile = load_profile(name)
    if profile.transport in RUNTIMES:  # this machine, though not in Python
        refuse_device(profile, None)
        with pytest.raises(UserError, match="another runtime"):
            refuse_other_device(profile)
    elif profile.transport != "local":
        with pytest.raises(UserError, match="another device"):
            refuse_other_device(profile)
        with pytest.raises(UserError, match="another device"):
            profile_run(Run.create(tmp_path / "a", "", 0), profile)
    elif not profile.instruction_sets or set(profile.instruction_sets) <= set(
        load_profile("local-cpu").instruction_sets
    ):
        refuse_other_device(profile)
    else:
        with pytest.raises(UserError, match="wants"):
            refuse_other_device(profile)


def test_refused_and_absent_files_are_noted(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "a", refused="slower than fp32: 3 ms against 2 ms")
    models, notes = find_models(run)
    assert [m.label for m in models] == ["rmt-kd fp32", "original fp32", "original int8"]
    assert any("3 ms against 2 ms" in note for note in notes)
    (tmp_path / "a" / "baseline" / "rmtkd.json").unlink()
    models, notes = find_models(run)
    assert [m.role for m in models] == ["candidate"]
    assert any("nothing to compare" in note for note in notes)


def test_runs_that_were_not_exported_or_lost_a_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="no exported model"):
        find_models(Run.create(tmp_path / "empty", "", 0))
    run = exported_run(tmp_path / "a")
    (tmp_path / "a" / "export" / "onnx" / "model.onnx").unlink()
    with pytest.raises(RunDirError, match=r"model\.onnx is missing") as caught:
        find_models(run)
    assert "rmtkd-edge export" in caught.value.hint


def test_a_model_that_was_changed_after_export_is_refused(tmp_path: Path, one_thread: HardwareProfile) -> None:
    run = exported_run(tmp_path / "a")
    tiny_encoder(tmp_path / "a" / "baseline" / "onnx" / "model.onnx", 64, seed=5)
    with pytest.raises(RunDirError, match=r"original-fp32/model\.onnx has sha256"):
        profile_run(run, one_thread, workloads=[Workload(1, 4)], min_runs=1, min_duration_s=0.0)


def test_explicit_meter_that_is_absent_is_a_provider_error(tmp_path: Path, one_thread: HardwareProfile) -> None:
    run = exported_run(tmp_path / "a")
    with pytest.raises(ProviderError, match="modelled cannot be read"):
        profile_run(run, one_thread, workloads=[Workload(1, 4)], min_runs=1, min_duration_s=0.0, meter="modelled")


def test_lengths_are_cut_to_the_model_with_a_note_but_never_those_asked_for(tmp_path: Path) -> None:
    run, profile = exported_run(tmp_path / "a"), load_profile("raspberry-pi-5")
    workloads, notes = choose_workloads(run, profile, None)
    assert {workload.seq for workload in workloads} == {16}
    assert [workload.batch for workload in workloads] == list(profile.workloads.batches)
    assert "128" in notes[0]
    with pytest.raises(UserError, match="16 positions"):
        choose_workloads(run, profile, [Workload(1, 17)])
    assert choose_workloads(run, profile, [Workload(3, 16)]) == ([Workload(3, 16)], [])


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(0, 2**31))
def test_synthetic_inputs_are_valid_and_seeded(batch: int, seq: int, seed: int) -> None:
    made = build_inputs(Workload(batch, seq), VOCABULARY, seed)
    assert all(v.shape == (batch, seq) and v.dtype == np.int64 for v in made.values())
    assert made["input_ids"].min() >= 0
    assert made["input_ids"].max() < VOCABULARY
    assert (made["attention_mask"] == 1).all()
    assert (build_inputs(Workload(batch, seq), VOCABULARY, seed)["input_ids"] == made["input_ids"]).all()


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 12), st.integers(1, 4), st.integers(1, 12))
def test_real_inputs_are_cut_padded_and_repeated(batch: int, seq: int, rows: int, width: int) -> None:
    ids = np.arange(rows * width).reshape(rows, width) % (VOCABULARY - 1) + 1
    made = build_inputs(Workload(batch, seq), VOCABULARY, 0, {"input_ids": ids})
    kept = min(seq, width)
    for i in range(batch):
        assert (made["input_ids"][i, :kept] == ids[i % rows, :kept]).all()
        assert made["attention_mask"][i].sum() == kept
        assert (made["input_ids"][i, kept:] == 0).all()


@pytest.mark.parametrize("ids", [np.zeros((0, 3)), np.zeros(3), np.full((1, 3), VOCABULARY), np.full((1, 3), -1)])
def test_real_inputs_that_cannot_be_are_refused(ids: Any) -> None:
    with pytest.raises(UserError):
        build_inputs(Workload(1, 3), VOCABULARY, 0, {"input_ids": ids})


def test_effort_is_never_nonsense() -> None:
    assert choose_effort(True, None, None).min_runs == 50
    assert choose_effort(True, None, None).min_duration_s == 10.0
    assert choose_effort(False, None, None).min_duration_s >= 60
    assert choose_effort(False, 3, 0.0).rounds == 3
    for runs, seconds in ((0, None), (None, -1.0), (None, float("nan")), (None, float("inf"))):
        with pytest.raises(UserError):
            choose_effort(False, runs, seconds)


def fake_bundle(folder: Path, script: str) -> Path:
    """A bundle whose runner is `script`."""
    write_plan(folder)
    (folder / "runner.py").write_text("import sys, time, json\nout = sys.argv[2]\n" + script)
    return folder


def test_a_runner_that_hangs_is_stopped_and_what_it_wrote_stays(tmp_path: Path) -> None:
    script = "open(out, 'w').write('{\"complete\": false}')\nprint('hello', flush=True)\ntime.sleep(60)\n"
    bundle, results, heard = fake_bundle(tmp_path / "b", script), tmp_path / "kept" / "r.json", []
    with pytest.raises(UserError, match="said nothing for") as caught:
        run_bundle(bundle, results, stall_s=2.0, progress=heard.append)
    assert "goes on" in caught.value.hint
    assert results.read_text() == '{"complete": false}'
    assert heard == [{"event": "output", "text": "hello"}]
    with pytest.raises(UserError, match="took longer than"):
        run_bundle(bundle, results, timeout_s=0.5)


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("provider", ProviderError),
        ("meter", ProviderError),
        ("hash", RunDirError),
        ("output", Finding),
        ("x", RmtkdError),
    ],
)
def test_refusals_of_the_runner_become_errors_of_the_package(tmp_path: Path, kind: str, error: type[Exception]) -> None:
    document = {"complete": False, "error": {"kind": kind, "message": "no"}}
    script = f"json.dump({document!r}, open(out, 'w'))\nsys.exit(2)\n"
    with pytest.raises(error, match="no"):
        run_bundle(fake_bundle(tmp_path / "b", script), tmp_path / "r.json")


def test_a_runner_that_crashes_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(RmtkdError, match="out of luck"):
        run_bundle(fake_bundle(tmp_path / "b", "raise MemoryError('out of luck')\n"), tmp_path / "r.json")


def test_the_bundle_needs_nothing_of_the_package(tmp_path: Path) -> None:
    copy_runner(tmp_path)
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.py")}
    assert {"runner.py", "meters/base.py", "meters/rapl.py"} <= names
    assert not any("rmtkd_edge." in p.read_text() for p in tmp_path.rglob("*.py"))
