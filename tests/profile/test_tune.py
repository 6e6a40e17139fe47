"""Session settings: a planted best is found, where nothing differs the profile's stay, and what is found is used."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from profile_bundle import quiet, tiny_encoder, write_plan
from profile_run_sample import exported_run

from rmtkd_edge.cli.app import main
from rmtkd_edge.config.hardware import HardwareProfile, load_profile
from rmtkd_edge.errors import RecipeError, UserError
from rmtkd_edge.profile import reach, workload
from rmtkd_edge.profile.measuring import basics, execute, sessions, store
from rmtkd_edge.profile.measuring.plan import load_plan
from rmtkd_edge.profile.measuring.plan_schema import SESSION_DEFAULTS
from rmtkd_edge.profile.options import ProfileOptions
from rmtkd_edge.profile.profile_copy import write_copy
from rmtkd_edge.profile.transport_local import run_bundle
from rmtkd_edge.profile.tune import stage
from rmtkd_edge.profile.tune.search import OWN, Measured, changes_of, search
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import ROLES, tuning_record
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.records.tuning import SessionRecord, TuningRecord
from rmtkd_edge.run.reporter import SilentReporter

DEFAULT = SessionRecord(threads=1, spinning=False, **SESSION_DEFAULTS)


class Planted:
    """A device on which every change has a factor; `together` is what two of them take, where they interact."""

    def __init__(self, factors: Mapping[str, float], seed: int, together: float | None = None) -> None:
        self.factors, self.together, self.measured = factors, together, list[set[str]]()
        self.rng = np.random.default_rng(seed)

    def __call__(self, trials: Mapping[str, SessionRecord]) -> dict[str, Measured]:
        self.measured.append(set(trials))
        drift = np.exp(0.2 * self.rng.standard_normal(25))  # of the machine, from round to round
        return {name: Measured(self.rounds(session, drift), "clean") for name, session in trials.items()}

    def rounds(self, session: SessionRecord, drift: np.ndarray) -> list[list[float]]:
        changed = [name for name, (key, value) in CHANGES.items() if getattr(session, key) == value]
        factor = float(np.prod([self.factors.get(name, 1.0) for name in changed]))
        if self.together is not None and len(changed) > 1:
            factor = self.together
        return [[5.0 * d * factor * np.exp(0.02 * self.rng.standard_normal()) for _ in range(8)] for d in drift]


CHANGES = changes_of(DEFAULT, cores=4, bound=False)


@pytest.mark.parametrize("seed", range(5))
def test_the_planted_best_of_every_setting_is_found_and_measured_again(seed: int) -> None:
    factors = {"threads 2": 0.8, "threads 4": 0.6, "spinning": 0.9, "graph basic": 1.3, "IO binding": 1.05}
    device = Planted(factors, seed)
    trials, kept = search(DEFAULT, CHANGES, device, seed)
    assert kept is not None and kept.session == replace(DEFAULT, threads=4, spinning=True)
    assert kept.confirms and kept.ratio == pytest.approx(0.54, rel=0.05) and kept.ci95[0] < kept.ratio < kept.ci95[1]
    assert device.measured[0] == {OWN, *CHANGES} and device.measured[1] == {OWN, "threads 4", kept.name}
    assert len(trials) == sum(map(len, device.measured)) and all(len(trial.rounds_ms) == 25 for trial in trials)


def test_where_nothing_differs_the_profile_stays() -> None:
    found = [search(DEFAULT, CHANGES, Planted({}, seed), seed)[1] for seed in range(40)]
    assert sum(kept is not None for kept in found) <= 1
    slower = {name: 1.1 for name in CHANGES}
    assert search(DEFAULT, CHANGES, Planted(slower, 0), 0)[1] is None


def test_settings_that_do_not_go_together_are_not_combined() -> None:
    device = Planted({"threads 2": 0.8, "spinning": 0.9}, 0, together=1.2)
    kept = search(DEFAULT, CHANGES, device, 0)[1]
    assert kept is not None and kept.session == replace(DEFAULT, threads=2)


def test_every_change_is_of_one_setting_and_within_the_device() -> None:
    for cores, threads in ((1, set()), (2, {2}), (6, {2, 4, 6}), (None, set())):
        changes = changes_of(DEFAULT, cores, bound=False)
        assert {value for key, value in changes.values() if key == "threads"} == threads
        for key, value in changes.values():
            different = asdict(replace(DEFAULT, **{key: value})).items() - asdict(DEFAULT).items()
            assert different == {(key, value)}
    assert "io_binding" not in {key for key, _ in changes_of(DEFAULT, 2, bound=True).values()}


def test_the_settings_reach_the_session_and_a_wrong_one_is_refused(tmp_path: Path) -> None:
    tiny_encoder(tmp_path / "a.onnx", 4)
    plan = {"provider": "CPUExecutionProvider", "threads": 1, "spinning": False, "graph_level": "extended"}
    model = {"session": {"arena": False, "memory_pattern": False, "threads": 2, "graph_level": "basic"}}
    options = sessions.open_session(sessions.settings_of(plan, model), tmp_path / "a.onnx").get_session_options()
    assert (options.enable_cpu_mem_arena, options.enable_mem_pattern, options.intra_op_num_threads) == (False, False, 2)
    assert options.graph_optimization_level == onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    usual = sessions.open_session({**plan, "graph_level": "all"}, tmp_path / "a.onnx").get_session_options()
    assert usual.enable_cpu_mem_arena and usual.enable_mem_pattern  # as onnxruntime's own
    path = write_plan(tmp_path / "b")
    described = json.loads(path.read_text())
    for change in ({"graph_level": "most"}, {"arena": 1}):
        described["models"][0]["session"] = change
        path.write_text(json.dumps(described))
        with pytest.raises(basics.RunnerError, match=next(iter(change))):
            load_plan(path)


def test_a_bound_session_computes_what_an_unbound_one_does(tmp_path: Path, monkeypatch) -> None:
    plan = load_plan(write_plan(tmp_path / "b", io_binding=True))
    session = execute.Engine().session(plan, tmp_path / "b", plan["models"][0])
    assert isinstance(session, sessions.BoundHere)
    feeds = {n.name: np.ones((2, 6), np.int64) for n in session.get_inputs()}
    seen: list[Any] = []
    monkeypatch.setattr(sessions, "timed_here", lambda call, runs, seconds: seen.append((call(), call)))
    session.timed(feeds, 1, 0.0)
    (bound,), call = seen[0]
    np.testing.assert_array_equal(bound, session.run(None, feeds)[0])
    feeds["input_ids"] = feeds["input_ids"] * 7  # the next call reads what is there then
    np.testing.assert_array_equal(call()[0], session.run(None, feeds)[0])
    assert np.abs(call()[0] - bound).max() > 0


def test_results_with_other_settings_are_not_continued(tmp_path: Path) -> None:
    def mark(**changes: Any) -> str:
        return store.Store(tmp_path / "r.json", load_plan(write_plan(tmp_path / "b", **changes))).doc["settings"]

    assert mark() == mark(**SESSION_DEFAULTS) and len({mark(), mark(arena=False), mark(memory_pattern=False)}) == 3


def called(capsys, *argv: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as code:
        main([str(part) for part in argv])
    return (code.value.code, *capsys.readouterr())


SHORT = ("--iterations", "5", "--duration", "0", "--seq-len", "8", "--batch-size", "1")


@pytest.fixture
def basic_wins(monkeypatch) -> None:
    """The search, but that it keeps the basic graph level and no arena, whatever was measured."""

    def found(own: SessionRecord, *rest: Any):
        trials, _ = search(own, *rest)
        basic = next(trial for trial in trials if trial.name == "graph basic")
        session = replace(basic.session, arena=False)
        return trials, replace(basic, session=session, ratio=0.9, ci95=(0.8, 0.95))

    monkeypatch.setattr(stage, "search", found)


def test_what_was_found_is_written_and_used(basic_wins, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(workload, "FULL", replace(workload.FULL, probe_repeats=0))  # no processes for memory
    run, target = exported_run(tmp_path / "run"), tmp_path / "mine.toml"
    argv = ("profile", run.path, "--tune", *SHORT, "--out", target)
    code, out, _ = called(capsys, *argv, "--json")
    shown = json.loads(out)
    record = Run.open(run.path).read_record(TuningRecord, tuning_record("local-cpu"))
    assert code == 0 and shown["path"] == str(target) and len(shown["trials"]) == len(record.trials)
    assert record.chosen.model == "rmt-kd int8" and {len(trial.rounds_ms) for trial in record.trials} == {5}
    profile = load_profile(target)
    assert (profile.session.graph_level, profile.session.arena, profile.session.memory_pattern) == (
        "basic",
        False,
        True,
    )
    assert profile.tuning is not None and (profile.tuning.profile, profile.tuning.ratio) == ("local-cpu", 0.9)
    exported = Run.open(run.path).read_record(ExportRecord, ROLES["candidate"].record)
    assert exported.sessions == {"local-cpu": record.chosen} and not Run.open(run.path).damaged()
    said = "graph level basic, no memory arena"
    assert said in Run.open(run.path).read_text(ROLES["candidate"].card)
    code, _, err = called(capsys, *argv)
    assert code == 2 and "--force" in err
    assert called(capsys, "profile", run.path, "--on", target, *SHORT)[0] == 0
    measured = Run.open(run.path).read_record(ProfileRecord, "profile/mine.json")
    assert {(r.env["graph_level"], r.env["arena"]) for r in measured.results} == {("basic", False)}
    assert called(capsys, "report", run.path)[0] == 0
    assert said in (run.path / "report" / "report.md").read_text("utf-8")


def test_over_ssh_the_same_plan_is_carried_out(basic_wins, tmp_path: Path, monkeypatch) -> None:
    """The transport is replaced by one that runs the bundle here; what it carries is all that a device gets."""
    hosts: list[str] = []

    def here(bundle: Path, results: Path, target: Any, *rest: Any) -> dict[str, Any]:
        hosts.append(target.host)
        return run_bundle(bundle, results)

    monkeypatch.setattr(reach, "run_over_ssh", here)
    run, board = exported_run(tmp_path / "run"), tmp_path / "board.toml"
    text = 'name = "board"\ntitle = "A board"\ntransport = "ssh"\nhost = "board"\ncomparable = false\nthreads = 1\n'
    board.write_text(f"{text}[processor]\ncores = 2\n[alignment]\ngemm = 1\nconv = 1\n")
    options = ProfileOptions(run=run.path, on=board, min_runs=5, min_duration_s=0.0, lengths=(8,))
    found = stage.tune_run(run, options, SilentReporter())
    assert set(hosts) == {"board"} and {trial.session.threads for trial in found.trials} == {1, 2}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--on", "node"), "another (transport node)"),
        (("--on", "web-wasm"), "another (transport browser)"),
        (("--on", "arm64-emulated"), "its times mean nothing"),
        (("--on", "raspberry-pi-5"), "another device"),
        (("--on", "local-cpu,local-1-core-512mb"), "2 devices"),
        (("--batch-size", "1,8"), "one workload"),
        (("--iterations", "3"), "an interval needs 5"),
        (("--out", "mine.json"), "no .toml file"),
    ],
)
def test_what_cannot_be_tuned_is_refused(more: tuple[str, ...], said: str, tmp_path: Path, capsys) -> None:
    run = exported_run(tmp_path / "run")
    code, _, err = called(capsys, "profile", run.path, "--tune", *more)
    assert code == 2 and said in err and "try:" in err
    assert not Run.open(run.path).has(tuning_record("local-cpu"))


def test_out_is_of_the_tuned_copy_alone_and_other_runtimes_have_no_session(tmp_path: Path, capsys) -> None:
    code, _, err = called(capsys, "profile", tmp_path, "--out", "a.toml")
    assert code == 2 and "--tune" in err
    with pytest.raises(RecipeError, match="session"):
        write_copy("node", tmp_path / "n.toml", {"session": {"arena": False}}, {})
    with pytest.raises(UserError):
        stage.refuse_untunable(load_profile("node"), ProfileOptions(run=tmp_path))
    assert HardwareProfile.model_fields["session"].default.model_dump() == SESSION_DEFAULTS


def test_a_setting_that_changes_outputs_is_refused(tmp_path: Path) -> None:
    path = write_plan(tmp_path / "b", probe_repeats=0)
    described = json.loads(path.read_text())
    described["models"] = [{**described["models"][0], "label": f"A, {n}", "session": {"threads": n}} for n in (1, 2)]
    path.write_text(json.dumps(described))
    execute.measure(path, tmp_path / "r.json", quiet)
    with np.load(tmp_path / "b" / "reference.npz") as stored:
        moved = {name: array * np.float32(1.01) for name, array in stored.items()}
    np.savez(tmp_path / "b" / "reference.npz", **moved)
    with pytest.raises(basics.RunnerError, match="A, 1: outputs differ"):
        execute.measure(path, tmp_path / "s.json", quiet)
