"""The stand-alone runner: refuses what it should, measures in turn, goes on after a kill, never invents a figure."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profile_bundle import quiet, tiny_encoder, write_plan

from rmtkd_edge.profile.measuring import basics, energy, execute, machine, probes, quality, sessions, store
from rmtkd_edge.profile.measuring.plan import load_plan
from rmtkd_edge.profile.measuring.results import PERCENTILES, latency
from rmtkd_edge.profile.plan import copy_runner

PROBES = [
    {"peak_rss_bytes": 500, "rss_bytes": 400, "rss_after_load_bytes": 300, "cold_start_ms": 9.0, "session_ms": 1.0}
]
COUNTERS = {
    "faults": 0,
    "ticks_total": 0,
    "ticks_busy": 0,
    "ticks_steal": 0,
    "quota": 0,
    "throttle": 0,
    "waited_ns": 0,
    "capped": False,
}


@pytest.fixture
def no_probes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execute, "fresh", lambda argv: PROBES[0])


def block(ns: list[int], cpu: float = 1.0, joules: Any = None, **grown: Any) -> dict[str, Any]:
    """One block whose process got `cpu` seconds a second, and whose counters grew by `grown`."""
    after = {**COUNTERS, **grown}
    wall = sum(ns)
    return {"ns": ns, "cpu_ns": int(wall * cpu), "wall_ns": wall, "joules": joules or {}, "machine": [COUNTERS, after]}


def run_script(folder: Path, plan: Path, results: Path) -> subprocess.CompletedProcess[str]:
    copy_runner(folder)
    command = [sys.executable, str(folder / "runner.py"), str(plan), str(results), "--json"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def test_end_to_end_in_a_process_of_its_own(tmp_path: Path) -> None:
    results = tmp_path / "results.json"
    done = run_script(tmp_path / "bundle", write_plan(tmp_path / "bundle"), results)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["event"] == "done"
    document = json.loads(results.read_text())
    assert document["complete"]
    assert [r["label"] for r in document["results"]] == ["A", "B"]
    for result in document["results"]:
        latency = result["latency"]
        assert latency["n"] == 12 == sum(len(r) for r in latency["rounds_ns"])
        assert latency["p50"] > 0
        assert latency["p90"] is None
        assert "100 samples" in latency["p90_why"]
        assert result["throughput_per_s"] == pytest.approx(2 / latency["p50"] * 1e3)
        assert result["cold_start_ms"] > result["cold_start"]["session_ms"] > 0
        assert result["memory"]["peak_rss_bytes"] is not None or result["memory"]["why"]
        assert result["model"]["disk_bytes"] == (tmp_path / "bundle" / result["model"]["file"]).stat().st_size
        assert result["energy"]["j_per_inf_gross"] is None
        assert result["energy"]["why"]
        assert result["energy"]["kind"] == "unavailable"
        assert result["verification"]["max_rel_diff"] <= 1e-4
        assert result["quality"]["verdict"] in ("clean", "contended", "throttled", "swapped", "hot", "few")
        assert result["env"]["threads"] == 1
        assert result["env"]["providers_actual"][0] == "CPUExecutionProvider"


def test_runs_without_any_meter_file(tmp_path: Path, no_probes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "HOME", tmp_path / "alone")
    document = execute.measure(write_plan(tmp_path / "b", meters=["rapl", "nvml"]), tmp_path / "r.json", quiet)
    assert document["meter"]["kind"] == "unavailable"
    assert all("no meters/" in r["energy"]["why"] for r in document["results"])


def test_wrong_hash_is_refused_by_file_name(tmp_path: Path) -> None:
    plan = write_plan(tmp_path / "b")
    tiny_encoder(tmp_path / "b" / "B.onnx", 32, seed=9)
    with pytest.raises(basics.RunnerError, match=r"B\.onnx has sha256") as caught:
        execute.measure(plan, tmp_path / "r.json", quiet)
    assert caught.value.kind == "hash"
    (tmp_path / "b" / "B.onnx").unlink()
    with pytest.raises(basics.RunnerError, match=r"B\.onnx is missing"):
        load_plan(plan)


@pytest.mark.parametrize("change", [{"schema": "x"}, {"workloads": None}, {"threads": 0}, {"models": []}])
def test_plans_that_make_no_sense_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write_plan(tmp_path / "b")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(basics.RunnerError) as caught:
        load_plan(path)
    assert caught.value.kind == "plan"


def test_a_provider_that_is_not_there_or_falls_back_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = {"provider": "NoSuchExecutionProvider", "threads": 1, "spinning": False}
    tiny_encoder(tmp_path / "a.onnx", 4)
    with pytest.raises(basics.RunnerError, match="is not in this onnxruntime"):
        sessions.open_session(plan, tmp_path / "a.onnx")
    fallen = SimpleNamespace(get_providers=lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(sessions.onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(sessions.onnxruntime, "InferenceSession", lambda *args, **kwargs: fallen)
    with pytest.raises(basics.RunnerError, match="CUDAExecutionProvider was asked for, CPUExecutionProvider") as caught:
        sessions.open_session({**plan, "provider": "CUDAExecutionProvider"}, tmp_path / "a.onnx")
    assert caught.value.kind == "provider"


def test_threads_and_spinning_are_set(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "a.onnx", 4)
    for threads, spinning in ((1, True), (2, False)):
        plan = {"provider": "CPUExecutionProvider", "threads": threads, "spinning": spinning}
        options = sessions.open_session(plan, tmp_path / "a.onnx").get_session_options()
        assert options.intra_op_num_threads == threads
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == str(int(spinning))


def test_outputs_beyond_tolerance_are_refused_but_int8_only_reports(tmp_path: Path, no_probes: None) -> None:
    path = write_plan(tmp_path / "b")
    with np.load(tmp_path / "b" / "reference.npz") as stored:
        moved = {k: stored[k] * np.float32(1.01) for k in stored.files}
    np.savez(tmp_path / "b" / "reference.npz", **moved)
    with pytest.raises(basics.RunnerError, match="A: outputs differ"):
        execute.measure(path, tmp_path / "r.json", quiet)
    plan = json.loads(path.read_text())
    for model in plan["models"]:
        model["precision"] = "int8"
    path.write_text(json.dumps(plan))
    for result in execute.measure(path, tmp_path / "r8.json", quiet)["results"]:
        assert result["verification"]["tolerance"] is None
        assert result["verification"]["max_rel_diff"] == pytest.approx(0.01, rel=0.05)


def test_outputs_are_compared_on_padded_rows_too(tmp_path: Path, no_probes: None) -> None:
    path = write_plan(tmp_path / "b", checks=["padded"])
    for file, key in (("inputs.npz", "b2s6/"), ("reference.npz", "/b2s6/")):
        with np.load(tmp_path / "b" / file) as stored:
            arrays = dict(stored)
        arrays |= {name.replace("b2s6", "padded"): value.copy() for name, value in arrays.items() if key in name}
        np.savez(tmp_path / "b" / file, **arrays)
    assert execute.measure(path, tmp_path / "r.json", quiet)["complete"]
    arrays["candidate/padded/logits"][-1] += 1
    np.savez(tmp_path / "b" / "reference.npz", **arrays)
    with pytest.raises(basics.RunnerError, match="A: outputs differ"):
        execute.measure(path, tmp_path / "other.json", quiet)


@pytest.mark.parametrize(("version", "old"), [("1.9.1", True), ("1.18.0", False), ("onnxruntime-node 1.17.3", True)])
def test_an_onnxruntime_that_is_too_old_for_a_model_is_refused(
    tmp_path: Path, no_probes: None, monkeypatch: pytest.MonkeyPatch, version: str, old: bool
) -> None:
    path = write_plan(tmp_path / "b")
    plan = json.loads(path.read_text())
    plan["models"][1]["onnxruntime"] = "1.18"
    path.write_text(json.dumps(plan))
    monkeypatch.setattr(execute.Engine, "version", version)
    if old:
        with pytest.raises(basics.RunnerError, match=r"B needs onnxruntime 1\.18 or later, this is .*" + version):
            execute.measure(path, tmp_path / "r.json", quiet)
    else:
        assert execute.measure(path, tmp_path / "r.json", quiet)["complete"]


def test_order_rotates_and_every_round_is_kept(
    tmp_path: Path, no_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    real = execute.run_block

    def spy(session: Any, *args: Any) -> Any:
        order.append(id(session))
        return real(session, *args)

    monkeypatch.setattr(execute, "run_block", spy)
    execute.measure(write_plan(tmp_path / "b", rounds=4), tmp_path / "r.json", quiet, Lasting())
    a, b = order[0], order[1]
    assert order == [a, b, b, a, a, b, b, a]


def test_fast_models_take_several_turns_in_a_round_and_only_whole_rounds_are_kept(
    tmp_path: Path, no_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[int] = []
    real = execute.run_block

    def dying(session: Any, *args: Any) -> Any:
        order.append(id(session))
        if len(order) == 2 * execute.MOST_TURNS + 5:
            raise KeyboardInterrupt
        return real(session, *args)

    monkeypatch.setattr(execute, "run_block", dying)
    plan, results = write_plan(tmp_path / "b", rounds=3, min_runs=3, min_duration_s=0.9), tmp_path / "r.json"
    with pytest.raises(KeyboardInterrupt):
        execute.measure(plan, results, quiet, Lasting())
    a, b = order[0], order[1]
    assert order[:8] == [a, b, b, a, a, b, b, a]
    kept = [cell["blocks"] for cell in json.loads(results.read_text())["cells"].values()]
    assert [len(blocks) for blocks in kept] == [execute.MOST_TURNS] * 2
    monkeypatch.setattr(execute, "run_block", real)
    for result, blocks in zip(execute.measure(plan, results, quiet)["results"], kept, strict=True):
        rounds = result["latency"]["rounds_ns"]
        assert len(rounds) == 3 and rounds[0] == [ns for block in blocks for ns in block["ns"]]
        assert result["latency"]["duration_s"] >= 0.9


class Lasting(execute.Engine):
    """Its sessions stay open."""

    reopens = False


class Counting(execute.Engine):
    """Notes in which order sessions are reopened; opening takes `opening_s` more."""

    def __init__(self, opening_s: float = 0.0) -> None:
        self.opening_s, self.orders = opening_s, []

    def open(self, plan: Any, folder: Path) -> Any:
        time.sleep(self.opening_s)
        return super().open(plan, folder)

    def reopen(self, plan: Any, folder: Path, sessions: list, order: Any) -> None:
        kept = [weakref.ref(session) for session in sessions]
        self.orders.append(tuple(order))
        super().reopen(plan, folder, sessions, order)
        assert all(ref() is None for ref in kept), "an old session outlives its round"


def test_sessions_are_opened_anew_before_every_round_in_changing_order(tmp_path: Path, no_probes: None) -> None:
    engine = Counting()
    plan = write_plan(tmp_path / "b", rounds=8, min_runs=8, min_duration_s=3.2)
    document = execute.measure(plan, tmp_path / "r.json", quiet, engine)
    assert len(engine.orders) == 7 and len(set(engine.orders)) == 2
    assert {result["latency"]["openings"] for result in document["results"]} == {8}
    assert document["notes"] == []


@pytest.mark.parametrize("engine", [Lasting(), Counting(opening_s=1.0)], ids=["never", "too slow"])
def test_sessions_stay_open_where_opening_takes_longer_than_measuring(
    engine: Any, tmp_path: Path, no_probes: None
) -> None:
    document = execute.measure(write_plan(tmp_path / "b", rounds=4), tmp_path / "r.json", quiet, engine)
    assert {result["latency"]["openings"] for result in document["results"]} == {1}
    assert document["notes"] == [execute.OPENED_ONCE]


def test_minimum_runs_and_minimum_duration_both_hold(tmp_path: Path, no_probes: None) -> None:
    plan = write_plan(tmp_path / "b", min_runs=7, min_duration_s=0.3, rounds=3)
    for result in execute.measure(plan, tmp_path / "r.json", quiet)["results"]:
        assert result["latency"]["n"] >= 7
        assert result["latency"]["duration_s"] >= 0.3


def test_a_killed_runner_goes_on_where_it_stopped(
    tmp_path: Path, no_probes: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, results = write_plan(tmp_path / "b"), tmp_path / "r.json"
    real, calls = execute.run_block, []

    def dying(*args: Any) -> Any:
        calls.append(1)
        if len(calls) == 8:  # in the fourth round, after the second model of three whole ones
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(execute, "run_block", dying)
    with pytest.raises(KeyboardInterrupt):
        execute.measure(plan, results, quiet)
    left = json.loads(results.read_text())
    assert not left["complete"]
    kept = {key: cell["blocks"] for key, cell in left["cells"].items()}
    assert [len(blocks) for blocks in kept.values()] == [3, 3]

    monkeypatch.setattr(execute, "run_block", lambda *args: calls.append(2) or real(*args))
    document = execute.measure(plan, results, quiet)
    assert calls.count(2) == 6  # three more rounds of two models
    for result, blocks in zip(document["results"], kept.values(), strict=True):
        assert result["latency"]["rounds_ns"][:3] == [b["ns"] for b in blocks]


def test_other_settings_start_anew_and_foreign_files_are_left_alone(tmp_path: Path, no_probes: None) -> None:
    results = tmp_path / "r.json"
    execute.measure(write_plan(tmp_path / "b"), results, quiet)
    again = store.Store(results, load_plan(tmp_path / "b" / "plan.json"))
    assert not again.resumed  # what is complete is measured anew, not returned as if it were new
    foreign = tmp_path / "notes.json"
    foreign.write_text('{"mine": 1}')
    with pytest.raises(basics.RunnerError, match="holds no results"):
        execute.measure(tmp_path / "b" / "plan.json", foreign, quiet)
    assert foreign.read_text() == '{"mine": 1}'


def test_explicit_meter_that_is_absent_is_an_error_with_two_ways_out(tmp_path: Path) -> None:
    plan = {"meters": ["modelled"], "provider": "CPUExecutionProvider", "meter_required": True}
    with pytest.raises(basics.RunnerError, match=r"Either .*; or ") as caught:
        energy.open_meter(plan)
    assert caught.value.kind == "meter"
    _, facts = energy.open_meter({**plan, "meters": ["modelled", "unavailable"], "meter_required": False})
    assert facts["name"] == "unavailable"
    assert facts["skipped"][0].startswith("modelled: ")


@settings(deadline=None)
@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=1200))
def test_percentiles_are_null_without_samples_enough(values: list[int]) -> None:
    found = latency([block(values)], 0)
    for name, (percent, needs) in PERCENTILES.items():
        if len(values) >= needs:
            assert found[name] == pytest.approx(np.percentile(values, percent) / 1e6)
        else:
            assert found[name] is None
            assert str(needs) in found[name + "_why"]
    assert min(values) / 1e6 <= found["p50"] <= max(values) / 1e6


FACTS = {
    "name": "rapl:package-0",
    "kind": "measured-counter",
    "scope": "package",
    "period_s": 0.001,
    "needs_window": True,
    "idle_watts": None,
    "gross_why": "",
    "skipped": [],
}


def metered(seconds: float, joules: float | None, count: int = 10) -> list[dict[str, Any]]:
    """Blocks of one inference a second."""
    share = None if joules is None else joules / count
    ns = [int(1e9)] * int(seconds / count)
    return [block(ns, joules={"rapl:package-0": [share, "" if joules is not None else "gone"]}) for _ in range(count)]


def test_energy_gross_and_net_from_the_same_window() -> None:
    found = energy.energy(metered(20, 100.0), FACTS, [2.0, 3.0], 5.0)
    assert found["j_per_inf_gross"] == pytest.approx(5.0)
    assert found["idle_w"] == pytest.approx(2.5)
    assert found["j_per_inf_net"] == pytest.approx(2.5)
    assert found["kind"] == "measured-counter"


@pytest.mark.parametrize(
    ("blocks", "facts", "word"),
    [
        (metered(5, 100.0, 5), FACTS, "withheld"),
        (metered(20, 100.0), {**FACTS, "period_s": 0.1}, "withheld"),
        (metered(20, 0.0), FACTS, "did not move"),
        (metered(20, None), FACTS, "gone"),
        (metered(20, 1.0), {**FACTS, "name": "nvml:0"}, "meter changed"),
    ],
)
def test_energy_is_withheld_rather_than_guessed(blocks: list[Any], facts: dict[str, Any], word: str) -> None:
    found = energy.energy(blocks, facts, [1.0], 10.0)
    assert found["j_per_inf_gross"] is None
    assert found["j_per_inf_net"] is None
    assert found["kind"] == "unavailable"
    assert word in found["why"]


def test_net_energy_is_never_negative() -> None:
    found = energy.energy(metered(20, 100.0), FACTS, [50.0], 5.0)
    assert found["j_per_inf_gross"] == pytest.approx(5.0)
    assert found["j_per_inf_net"] is None
    assert found["j_per_inf_net_why"]


def test_modelled_energy_needs_no_window_and_says_that_it_is_modelled(tmp_path: Path, no_probes: None) -> None:
    options = {"active_watts_per_core": 4.0, "idle_watts": 1.0, "source": "a test"}
    plan = write_plan(tmp_path / "b", meters=["modelled"], meter_options=options, min_runs=400)
    for result in execute.measure(plan, tmp_path / "r.json", quiet)["results"]:
        energy = result["energy"]
        assert energy["kind"] == "modelled"
        assert energy["j_per_inf_gross"] > energy["j_per_inf_net"] > 0
        assert energy["j_per_inf_net"] == pytest.approx(4.0 * result["cpu_s_per_inf"], rel=0.5)


PLAN = {"provider": "CPUExecutionProvider", "threads": 1}
SECOND = [2 * 10**7] * 50


@pytest.mark.parametrize(
    ("made", "plan", "verdict"),
    [
        (block(SECOND, ticks_total=200, ticks_busy=100), PLAN, "clean"),
        (block(SECOND, cpu=0.5, ticks_total=200, ticks_busy=50), PLAN, "contended"),
        (block(SECOND, ticks_total=200, ticks_busy=100, ticks_steal=20), PLAN, "contended"),
        (block(SECOND, ticks_total=200, ticks_busy=200), {**PLAN, "threads": 2}, "contended"),
        (block(SECOND, ticks_total=200, ticks_busy=100, quota=3), PLAN, "contended"),
        (block(SECOND, ticks_total=200, ticks_busy=100, throttle=1), PLAN, "throttled"),
        (block(SECOND, ticks_total=200, ticks_busy=100, capped=True), PLAN, "throttled"),
        (block(SECOND, cpu=0.1), {**PLAN, "provider": "CUDAExecutionProvider"}, "clean"),
        (block(SECOND, faults=2), PLAN, "swapped"),
        (block(SECOND, swap_bytes=4096), PLAN, "swapped"),
        (block(SECOND, below_trip_c=3.0), PLAN, "hot"),
        (block(SECOND, below_trip_c=30.0), PLAN, "clean"),
        (block([10**9]), PLAN, "few"),
        (block([10**9], faults=2, throttle=1), PLAN, "throttled"),
        (block(SECOND, cpu=0.5, quota=3), {**PLAN, "limits": {"cpu_quota": 0.5}}, "clean"),
    ],
)
def test_verdict_follows_what_the_machine_did(made: dict[str, Any], plan: dict[str, Any], verdict: str) -> None:
    found = quality.quality([made], plan, 2)
    assert found["verdict"] == verdict
    assert bool(found["reasons"]) == (verdict != "clean")


def test_counters_of_a_machine_without_proc_are_none_not_zero(tmp_path: Path) -> None:
    assert set(machine.counters(str(tmp_path)).values()) == {None}
    nothing = dict.fromkeys(COUNTERS)
    found = quality.quality([{**block(SECOND), "machine": [nothing, nothing]}], PLAN, 2)
    assert found["steal_pct"] is None
    assert found["throttled"] is None
    assert "throttled" in found["unread"]


def test_counters_are_read_from_proc_and_sys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "proc/stat": "cpu  30 3 15 300 6 3 3 21 0 0\ncpu0 10 1 5 100 2 1 1 7 0 0\ncpu9 20 2 10 200 4 2 2 14 0 0\n",
        "proc/self/task/1/schedstat": "900 40 3\n",
        "proc/self/task/2/schedstat": "100 2 1\n",
        "proc/self/stat": "7 (a (b) c) S 1 2 3 4 5 6 7 8 12 0 1 1\n",
        "proc/self/status": "VmRSS:\t 10 kB\nVmSwap:\t 8 kB\n",
        "sys/class/thermal/thermal_zone0/temp": "60500\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_type": "passive\n",
        "sys/class/thermal/thermal_zone0/trip_point_0_temp": "85000\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_type": "critical\n",
        "sys/class/thermal/thermal_zone0/trip_point_1_temp": "61000\n",
        "sys/class/thermal/thermal_zone1/temp": "90000\n",
        "sys/fs/cgroup/cpu.stat": "usage_usec 5\nnr_throttled 4\n",
        "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count": "3\n",
        "sys/class/thermal/cooling_device0/type": "Processor\n",
        "sys/class/thermal/cooling_device0/cur_state": "0\n",
        "sys/devices/platform/soc/soc:firmware/get_throttled": "50004\n",
    }
    for rel, text in texts.items():
        path = tmp_path / rel
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(
        machine, "usable_cpus", lambda: {0}
    )  # what others do on processors that are not ours is no matter
    found = machine.counters(str(tmp_path))
    grown = {"ticks_total": 127, "ticks_busy": 18, "ticks_steal": 7, "quota": 4, "throttle": 3, "waited_ns": 42}
    assert found == {**grown, "capped": True, "faults": 12, "swap_bytes": 8192, "below_trip_c": 24.5}


def test_memory_is_a_difference_of_fresh_processes_or_null() -> None:
    bare = [{"peak_rss_bytes": 100, "rss_bytes": 90}] * 3
    found = probes.memory(bare, PROBES * 3)
    assert (found["peak_rss_bytes"], found["rss_after_load_bytes"]) == (400, 210)
    absent = probes.memory([{"peak_rss_bytes": None, "rss_bytes": None}], PROBES)
    assert absent["peak_rss_bytes"] is None
    assert absent["why"]


def test_external_weights_count_as_disk(tmp_path: Path, no_probes: None) -> None:
    path = write_plan(tmp_path / "b")
    plan = json.loads(path.read_text())
    from profile_bundle import sha256

    digest = tiny_encoder(tmp_path / "b" / "A.onnx", 8, external=True)
    data = tmp_path / "b" / "A.onnx.data"
    plan["models"][0].update(sha256=digest, external=[{"file": "A.onnx.data", "sha256": sha256(data)}])
    path.write_text(json.dumps(plan))
    first = execute.measure(path, tmp_path / "r.json", quiet)["results"][0]
    assert first["model"]["disk_bytes"] == data.stat().st_size + (tmp_path / "b" / "A.onnx").stat().st_size
    data.write_bytes(b"x")
    with pytest.raises(basics.RunnerError, match=r"A\.onnx\.data"):
        load_plan(path)


def test_a_cross_check_that_failed_once_is_null_and_never_0() -> None:
    blocks = metered(30.0, 60.0)
    for b in blocks:
        b["joules"] = {"main": [60.0, ""], "second": [None, "gone"]}
    facts = {"name": "main", "kind": "measured-counter", "scope": "board", "needs_window": False, "period_s": 0.1}
    found = energy.energy(blocks, {**facts, "idle_watts": 0.5, "gross_why": "", "skipped": []}, [], 10.0)
    assert found["j_per_inf_gross"] is not None and found["other_meters"] == {"second": None}


def test_energy_is_per_row_of_a_batch() -> None:
    blocks = metered(30.0, 60.0)
    for b in blocks:
        b["joules"] = {"main": [60.0, ""]}
    facts = {"name": "main", "kind": "measured-counter", "scope": "board", "needs_window": False, "period_s": 0.1}
    facts |= {"idle_watts": 0.5, "gross_why": "", "skipped": []}
    one, eight = (energy.energy(blocks, facts, [], 10.0, batch) for batch in (1, 8))
    assert one["j_per_inf_gross"] == pytest.approx(8 * eight["j_per_inf_gross"])
    assert one["j_per_inf_net"] == pytest.approx(8 * eight["j_per_inf_net"])


def test_a_slow_meter_gets_longer_blocks() -> None:
    plan = {"rounds": 20, "min_duration_s": 60.0}
    slow = energy.suited_to(plan, {"needs_window": True, "period_s": 0.1})
    assert slow["rounds"] == 6 and slow["min_duration_s"] == 60.0
    quick = energy.suited_to({"rounds": 10, "min_duration_s": 10.0}, {"needs_window": True, "period_s": 0.1})
    assert quick["rounds"] == energy.FEWEST_ROUNDS and quick["min_duration_s"] == pytest.approx(50.0)
    assert energy.suited_to(plan, {"needs_window": False, "period_s": 0.1}) is plan
    for asked, watched in ((2.0, 20.0), (30.0, 30.0), (0.0, 0.0)):  # a net figure wants an idle window of that length
        assert energy.suited_to({**plan, "idle_s": asked}, {"needs_window": True, "period_s": 0.2})["idle_s"] == watched


def test_waiting_for_a_processor_is_contention() -> None:
    blocks = [block(SECOND, waited_ns=5 * 10**8)]
    found = quality.quality(blocks, {"provider": "CPUExecutionProvider", "threads": 1}, 2)
    assert found["verdict"] == "contended" and any("waited" in reason for reason in found["reasons"])


def test_a_bound_session_computes_and_is_timed_as_any_other(tmp_path: Path) -> None:
    # what an accelerator does with its own memory, done with the processor's
    plan = json.loads(write_plan(tmp_path).read_text())
    session = sessions.open_session(plan, tmp_path / "A.onnx")
    feeds = {name: np.ones((2, 6), np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")}
    feeds = sessions.feeds_of(session, feeds, "A.onnx")
    bound = sessions.Bound(session, "cpu")
    assert [node.name for node in bound.get_outputs()] == ["logits"]
    np.testing.assert_array_equal(bound.run(None, feeds)[0], session.run(None, feeds)[0])
    block = execute.run_block(bound, feeds, 7, 0.0, None)
    assert len(block["ns"]) == 7 and min(block["ns"]) > 0 and block["cpu_ns"] > 0


def test_without_nvidia_smi_there_are_no_gpu_facts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert machine.gpu_facts() is None


def test_gpu_facts_are_what_nvidia_smi_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA X, 570.1, 300 MHz, 1980 MHz, 2619 MHz, 700.00 W, 31, Enabled'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = machine.gpu_facts()
    assert found is not None and found["name"] == "NVIDIA X" and found["clocks.max.sm"] == "1980 MHz"
