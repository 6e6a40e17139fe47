"""From an exported run to profile/<name>.json: workloads, inputs, bundle, transport, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from profile_bundle import tiny_encoder, write_plan
from profile_run_sample import SPEC, exported_run

from rmtkd_edge.api import profile as api_profile
from rmtkd_edge.api.profile import profile
from rmtkd_edge.config.hardware import HardwareProfile, list_profiles, load_profile
from rmtkd_edge.errors import Finding, ProviderError, RmtkdError, RunDirError, UserError
from rmtkd_edge.profile import workload
from rmtkd_edge.profile.assemble import score_of
from rmtkd_edge.profile.identity import RUNTIMES, refuse_device, refuse_other_device
from rmtkd_edge.profile.models import find_models
from rmtkd_edge.profile.options import ProfileOptions
from rmtkd_edge.profile.plan import build_bundle, copy_runner, prepare
from rmtkd_edge.profile.stage import profile_run
from rmtkd_edge.profile.transport_local import run_bundle
from rmtkd_edge.profile.workload import Workload, choose_effort, choose_workloads
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.base import to_json
from rmtkd_edge.run.reporter import SilentReporter


@pytest.fixture
def one_thread() -> HardwareProfile:
    return load_profile("local-cpu").model_copy(update={"threads": 1})


class Watch:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()
        self.texts: list[str] = []

    def event(self, kind: str, **facts: Any) -> None:
        self.kinds.add(kind)
        self.texts.append(facts.get("text", ""))


def asked(run: Run, **changes: Any) -> ProfileOptions:
    """Return options of a short measurement of a run."""
    return ProfileOptions(**{"run": run.path, "lengths": (8,), "min_runs": 1, "min_duration_s": 0.0, **changes})


def test_profile_of_a_run_from_end_to_end(tmp_path: Path, one_thread: HardwareProfile) -> None:
    run, watch = exported_run(tmp_path / "a", external=True), Watch()
    options = asked(run, on=one_thread, quick=True, batch_sizes=(1, 4), min_runs=5, seed=1)
    out = profile_run(run, options, watch)
    stored = Run.open(tmp_path / "a").read_json("profile/local-cpu.json")
    assert stored == json.loads(json.dumps(to_json(out)))
    assert stored["schema"] == "rmtkd-edge/profile@2"
    labels = ["rmt-kd fp32", "rmt-kd int8", "original fp32", "original int8"]
    assert [r["label"] for r in stored["results"]] == labels * 2
    for result in stored["results"]:
        latency = result["latency"]
        assert len(latency["values"]) == latency["n"] == sum(latency["round_sizes"]) >= 5
        assert result["scenario"] == ("single_stream" if result["workload"]["batch"] == 1 else "offline")
        assert result["throughput_per_s"] == pytest.approx(result["workload"]["batch"] / latency["p50"] * 1e3)
        assert result["score"]["value"] == 0.8 and result["score"]["provenance"].endswith("on the test split")
        assert result["energy"]["j_per_inf_gross"] is None or result["energy"]["kind"] != "unavailable"
    pairs = {(c["candidate"], c["baseline"]) for c in stored["comparisons"]}
    assert ("rmt-kd int8", "original fp32") in pairs
    assert ("rmt-kd int8", "rmt-kd fp32") in pairs
    assert len(stored["comparisons"]) == 2 * (4 + 2)
    assert all(c["ci95"][0] <= c["ratio"] <= c["ci95"][1] for c in stored["comparisons"])
    assert watch.kinds == {"runner"} and any("round 1 of 5" in text for text in watch.texts)
    assert "measured" in watch.texts[-1] and stored["inputs"].startswith("synthetic: input_ids")
    assert not list((tmp_path / "a" / "profile").glob("*.partial"))
    assert run.stage("profile")["state"] == "done"


def test_the_plan_compares_padded_rows_and_names_the_oldest_onnxruntime(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "a")
    profile = load_profile("local-cpu")
    plan = json.loads(build_bundle(tmp_path, prepare(find_models(run), profile, asked(run), 0)).read_text())
    assert plan["checks"] == ["padded"] and {model["onnxruntime"] for model in plan["models"]} == {"1.18"}
    with np.load(tmp_path / "inputs.npz") as inputs, np.load(tmp_path / "reference.npz") as reference:
        assert 0 < inputs["padded/attention_mask"].mean() < 1 and inputs["b1s8/attention_mask"].all()
        assert {"rmt-kd/padded/logits", "original int8/padded/logits"} <= set(reference.files)


def test_the_stage_never_imports_torch() -> None:
    code = "import sys, rmtkd_edge.api.profile, rmtkd_edge.profile.bundle; sys.exit('torch' in sys.modules)"
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
            profile_run(Run.create(tmp_path / "a", "", 0), ProfileOptions(run=tmp_path, on=profile), SilentReporter())
    elif not profile.instruction_sets or set(profile.instruction_sets) <= set(
        load_profile("local-cpu").instruction_sets
    ):
        refuse_other_device(profile)
    else:
        with pytest.raises(UserError, match="needs"):
            refuse_other_device(profile)


def test_refused_and_absent_files_are_noted(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "a", refused="slower than fp32: 3 ms against 2 ms")
    found = find_models(run)
    models, notes = found.models, found.notes
    assert [m.label for m in models] == ["rmt-kd fp32", "original fp32", "original int8"]
    assert any("3 ms against 2 ms" in note for note in notes)
    (tmp_path / "a" / "baseline" / "rmtkd.json").unlink()
    found = find_models(run)
    models, notes = found.models, found.notes
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
    with pytest.raises(RunDirError, match=r"baseline/onnx/model\.onnx was altered"):
        profile_run(run, asked(run, on=one_thread), SilentReporter())


def test_explicit_meter_that_is_absent_is_a_provider_error(tmp_path: Path, one_thread: HardwareProfile) -> None:
    run = exported_run(tmp_path / "a")
    with pytest.raises(ProviderError, match="modelled cannot be read"):
        profile_run(run, asked(run, on=one_thread, meter="modelled"), SilentReporter())


def test_lengths_are_cut_to_the_model_with_a_note_but_never_those_asked_for(tmp_path: Path) -> None:
    spec, profile = find_models(exported_run(tmp_path / "a")).spec, load_profile("raspberry-pi-5")
    workloads, notes = choose_workloads(spec, profile, ProfileOptions(run=tmp_path))
    assert {workload.seq for workload in workloads} == {16}
    assert [workload.batch for workload in workloads] == list(profile.workloads.batches)
    assert "128" in notes[0]
    assert choose_workloads(spec, profile, ProfileOptions(run=tmp_path, batch_sizes=(3,)))[0] == (Workload(3, 16),)
    with pytest.raises(UserError, match="16 positions"):
        choose_workloads(spec, profile, ProfileOptions(run=tmp_path, lengths=(17,)))
    exact = ProfileOptions(run=tmp_path, batch_sizes=(3,), lengths=(16,))
    assert choose_workloads(spec, profile, exact) == ((Workload(3, 16),), ())


def test_a_model_without_sequences_has_no_lengths(tmp_path: Path) -> None:
    spec, profile = SimpleNamespace(max_length=None), load_profile("local-cpu")
    workloads, notes = choose_workloads(spec, profile, ProfileOptions(run=tmp_path, batch_sizes=(2,)))  # type: ignore[arg-type]
    assert workloads == (Workload(2, None),) and workloads[0].key == "b2" and notes == ()
    with pytest.raises(UserError, match="no sequences"):
        choose_workloads(spec, profile, ProfileOptions(run=tmp_path, lengths=(8,)))  # type: ignore[arg-type]


def test_a_config_of_no_known_model_is_named(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "a")
    for odd in ({}, {"rmtkd": {"spec": {"family": "perceptron"}}}, {"rmtkd": {"spec": {**SPEC, "layers": 3}}}):
        run.write_json("export/config.json", odd)
        with pytest.raises(RunDirError, match=r"config\.json describes no model"):
            find_models(run)


def test_an_exported_folder_is_measured_without_a_run(tmp_path: Path, one_thread: HardwareProfile) -> None:
    run = exported_run(tmp_path / "a")
    (tmp_path / "a/run.json").unlink()
    options: dict[str, Any] = {"on": one_thread, "batch_sizes": (1,), "lengths": (8,), "quick": True}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workload, "QUICK", workload.Effort(1, 0.0, 1, 0, 0.0, 0))
        both, alone = (profile(folder, **options) for folder in (tmp_path / "a", tmp_path / "a/export"))
    assert [r.label for r in both.records[0].results] == [
        "rmt-kd fp32",
        "rmt-kd int8",
        "original fp32",
        "original int8",
    ]
    assert [r.label for r in alone.records[0].results] == ["rmt-kd fp32", "rmt-kd int8"]
    assert "rmt-kd int8" in alone._repr_html_() and alone.missed is None
    assert not (run.path / "profile").exists()
    with pytest.raises(RunDirError, match="no exported model"):
        profile(tmp_path, **options)


def test_a_score_is_that_of_the_test_split_and_says_why_there_is_none(tmp_path: Path) -> None:
    model = find_models(exported_run(tmp_path / "a")).models[0]
    for scores, expected in (({}, (0.8, "test")), ({"test": None}, (0.7, "validation"))):
        facts = replace(model.facts, variants={"fp32": replace(model.facts.variants["fp32"], **scores)})
        found = score_of(replace(model, facts=facts))
        assert found.value == expected[0] and found.provenance.endswith(f"on the {expected[1]} split")
    unscored = replace(model.facts.variants["fp32"], validation=None, test=None)
    found = score_of(replace(model, facts=replace(model.facts, variants={"fp32": unscored})))
    assert found.value is None and found.why and found.metric == "accuracy"


def test_devices_that_cannot_be_measured_are_refused_before_any_is(tmp_path: Path) -> None:
    run = exported_run(tmp_path / "a")
    for changes, says in (
        ({"on": ("local-cpu", "local-cpu")}, "every device once"),
        ({"on": ()}, "at least one"),
        ({"on": ("raspberry-pi-4", "raspberry-pi-5"), "host": "pi"}, "is one device"),
        ({"on": "raspberry-pi-5"}, "how to reach"),
    ):
        with pytest.raises(UserError, match=says):
            api_profile.profile_run(asked(run, **changes))
    run.mark("export", "running")
    with pytest.raises(RunDirError, match="has not finished"):
        api_profile.profile_run(asked(run))


def test_effort_is_never_nonsense(tmp_path: Path) -> None:
    def effort(**changes: Any) -> workload.Effort:
        return choose_effort(ProfileOptions(run=tmp_path, **changes))

    assert effort(quick=True).min_runs == 50
    assert effort(quick=True).min_duration_s == 10.0
    assert effort().min_duration_s >= 60
    assert effort(min_runs=3, min_duration_s=0.0).rounds == 3
    for odd in ({"min_runs": 0}, *({"min_duration_s": s} for s in (-1.0, float("nan"), float("inf")))):
        with pytest.raises(UserError):
            effort(**odd)


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
    assert "continues" in caught.value.hint
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


def test_the_runner_travels_with_all_that_it_imports(tmp_path: Path) -> None:
    copy_runner(tmp_path)
    names = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.py")}
    assert {"runner.py", "meters/base.py", "meters/rapl.py"} <= names
