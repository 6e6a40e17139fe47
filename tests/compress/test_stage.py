"""The whole stage on small data: resume after SIGKILL, several processes, rollback, one shot, bad input."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch

from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import DataError, RunDirError, UserError
from rmtkd_edge.families.base import family_of, ranks_of
from rmtkd_edge.families.store import load_model
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.data import DataSummary, describe
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.text_classification import TextClassification

PROGRAM = """
import sys
from pathlib import Path
from rmtkd_edge.api.compress import CompressOptions, compress_run
from rmtkd_edge.run.reporter import SilentReporter

recipe, data, out = sys.argv[1:]
compress_run(CompressOptions(recipe, Path(out), data=Path(data)), SilentReporter())
"""


def recipe_of(base, **changes):
    data = json.loads(json.dumps(base))
    for key, value in changes.items():
        table, name = key.split("__")
        data[table][name] = value
    return parse_recipe(data, "test")


def run(path, recipe, data):
    return compress_run(Run.create(path, recipe.to_toml(), recipe.seed), recipe, data=data, reporter=SilentReporter())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_recipe_dict, tiny_data):
    path = tmp_path_factory.mktemp("run") / "a"
    return path, run(path, recipe_of(tiny_recipe_dict), tiny_data)


def comparable(result: CompressRecord) -> CompressRecord:
    """The result without its clock times."""
    cycles = tuple(replace(cycle, seconds={}) for cycle in result.cycles)
    return replace(result, seconds=0.0, teacher=replace(result.teacher, seconds=0.0), cycles=cycles)


def test_the_loop_reaches_its_target_and_keeps_projection_layers(finished):
    path, result = finished
    assert result.stop == "target_reduction" and result.reduction >= 0.75
    assert result.drop <= 0.1 and result.method == "rmt-kd"
    opened = Run.open(path)
    assert opened.read_record(CompressRecord, layout.RESULT) == result
    best = load_model(opened, layout.BEST)
    projections = family_of(best).projections(best)
    assert projections and ranks_of(best.spec) == result.ranks
    assert best.spec.count_parameters() == result.student.parameters
    for p in projections.values():
        assert (p @ p.T - torch.eye(len(p))).abs().max() < 1e-5


def test_cycles_keep_the_spectra_that_their_ranks_come_from(finished):
    path, result = finished
    opened = Run.open(path)
    for cycle in result.cycles:
        assert cycle.parameters_after < cycle.parameters_before and cycle.after.rows == result.task.validation_rows
        spectra = opened.read_tensors(layout.cycle_spectra(cycle.index))
        for site in cycle.sites:
            values = spectra[f"{site.name}.eigenvalues"]
            assert (values[:-1] >= values[1:]).all() and (values >= 0).all() and site.n > 0
            assert site.weighting == ("none" if site.kind == "ffn" else "effect")


def test_a_run_keeps_what_was_read_and_logs_it(finished, tiny_data):
    path, result = finished
    summary = Run.open(path).read_record(DataSummary, layout.DATA)
    assert [(s.name, s.role, s.rows) for s in summary.sources] == [
        ("train.csv", "train", 600),
        ("validation.csv", "validation", 150),
    ]
    assert {role: split.rows for role, split in summary.splits.items()} == {
        "train": result.task.train_rows,
        "validation": result.task.validation_rows,
        "test": result.task.test_rows,
    }
    assert all(sum(split.labels.values()) == split.rows for split in summary.splits.values())
    assert summary.splits["train"].cut == 0 and summary.max_length == 24
    with (tiny_data / "train.csv").open(encoding="utf-8") as lines:
        texts = {line.rpartition(",")[0] for line in lines}
    for row in summary.first_rows:
        seen = row.seen.partition(" (")[0]
        assert seen.startswith("[CLS] ") and seen[6:-6] in texts and row.label in ("negative", "positive")
    logged = [json.loads(line) for line in (path / layout.LOG).read_text(encoding="utf-8").splitlines()]
    said = [event["text"] for event in logged if event["event"] == "data"]
    assert said == describe(summary) and any("train.csv: 600 rows" in line for line in said)


def test_the_test_split_is_read_once_at_the_end(tiny_recipe_dict, tiny_data, tmp_path, monkeypatch):
    recipe, lengths = recipe_of(tiny_recipe_dict, task__test_fraction=0.25, distil__steps=2), []
    batches = TextClassification.batches

    def watched(self, dataset, split, batch_size, seed):
        lengths.append((len(split), split is dataset.test))
        return batches(self, dataset, split, batch_size, seed)

    monkeypatch.setattr(TextClassification, "batches", watched)
    result = run(tmp_path / "r", recipe, tiny_data)
    assert [read for _, read in lengths] == [False] * (len(lengths) - 2) + [True] * 2
    assert result.task.test_rows == result.teacher.test.rows == result.student.test.rows == 150
    assert result.student.test.interval is not None and result.student.validation.interval is None


def test_without_a_test_split_validation_is_reported_with_its_interval(tiny_recipe_dict, tiny_data, tmp_path):
    recipe = recipe_of(tiny_recipe_dict, task__test_fraction=0.0, compress__one_shot=True)
    result = run(tmp_path / "r", recipe, tiny_data)
    assert result.task.test_rows is result.student.test is result.teacher.test is None
    assert result.student.validation.interval is not None and result.teacher.validation.interval is not None


def test_another_metric_decides_where_the_recipe_names_it(tiny_recipe_dict, tiny_data, tmp_path):
    recipe = recipe_of(tiny_recipe_dict, task__metric="matthews_corrcoef", distil__steps=2)
    result = run(tmp_path / "r", recipe, tiny_data)
    assert result.task.metric == result.student.validation.primary == "matthews_corrcoef"
    assert result.floor == result.teacher.validation.values["matthews_corrcoef"] - recipe.stop.max_drop
    refused = [cycle for cycle in result.cycles if not cycle.accepted]
    assert all("matthews_corrcoef" in cycle.reason for cycle in refused)


class Killed(SilentReporter):
    """Ends the process's work where the teacher would begin."""

    def event(self, event, /, **facts):
        if event == "stage":
            raise KeyboardInterrupt


def test_a_run_is_not_continued_on_other_rows(tiny_recipe_dict, tiny_data, tmp_path):
    data, recipe = shutil.copytree(tiny_data, tmp_path / "data"), recipe_of(tiny_recipe_dict)
    begun = Run.create(tmp_path / "r", recipe.to_toml(), recipe.seed)
    for _ in range(2):  # the same rows are no other rows
        with pytest.raises(KeyboardInterrupt):
            compress_run(begun, recipe, data=data, reporter=Killed())
    lines = (data / "validation.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (data / "validation.csv").write_text("".join(lines[:-1]), encoding="utf-8")
    with pytest.raises(RunDirError, match=r"validation changed .*validation\.csv") as caught:
        compress_run(Run.open(begun.path), recipe, data=data, reporter=Killed())
    assert "--force" in caught.value.hint


def environment():
    return {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}


def test_killed_anywhere_it_ends_as_if_it_had_not_been(tiny_recipe_file, tiny_data, tmp_path, finished):
    """SIGKILL at several moments, the same command again each time: same ranks, same metrics, same cycles."""
    out = tmp_path / "killed"
    command = [sys.executable, "-c", PROGRAM, str(tiny_recipe_file), str(tiny_data), str(out)]
    marks = [
        layout.TEACHER_RECORD,
        layout.cycle_plan(1),
        layout.cycle_training(2, 0),
        layout.cycle_record(2),
    ]
    for mark in marks:
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        end = time.monotonic() + 240
        while process.poll() is None and time.monotonic() < end and not (out / mark).exists():
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "finished run" in done.stderr, done.stderr
    killed = Run.open(out).read_record(CompressRecord, layout.RESULT)
    assert comparable(killed) == comparable(finished[1])


def test_two_processes_find_the_ranks_of_one(tiny_recipe_file, tiny_data, tmp_path, finished):
    """From the same teacher: what trains after the first cycle adds up in another order, so that one is compared."""
    out, program = tmp_path / "two", tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    shutil.copytree(finished[0], out)
    start = Run.open(out)
    for name in (layout.CYCLES, layout.BEST, layout.RESULT):
        start.remove(name)
    start.mark("compress", "running")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(program)]
    done = subprocess.run(
        [*launch, str(tiny_recipe_file), str(tiny_data), str(out)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    both = Run.open(out).read_record(CompressRecord, layout.RESULT)
    assert both.processes == 2
    for mine, alone in zip(both.cycles[0].sites, finished[1].cycles[0].sites, strict=True):
        assert mine.width_after == alone.width_after and mine.n == alone.n
        assert mine.lambda_plus == pytest.approx(alone.lambda_plus, rel=1e-6)


def test_a_floor_that_cannot_be_kept_rolls_back_retries_and_leaves_alone(tiny_recipe_dict, tiny_data, tmp_path):
    changes = {"stop__max_drop": 0.0, "distil__steps": 1, "distil__learning_rate": 1e-9}
    changes |= {"analyse__quantile": 0.97, "compress__warm_start": "fold", "compress__sites": ["stream"]}
    result = run(tmp_path / "r", recipe_of(tiny_recipe_dict, **changes), tiny_data)
    assert [c.accepted for c in result.cycles] == [False, False]
    assert [c.retry for c in result.cycles] == [False, True]
    assert result.cycles[1].sites[0].quantile < result.cycles[0].sites[0].quantile
    assert result.stop == "metric_floor" and result.reduction == 0.0
    assert "accuracy" in result.cycles[0].reason and "under the floor" in result.cycles[0].reason


@pytest.mark.parametrize("rule", ["window", "paper", "bema", "parallel", "explained-variance"])
def test_one_shot_under_every_edge_rule(rule, tiny_recipe_dict, tiny_data, tmp_path):
    changes = {
        "compress__one_shot": True,
        "analyse__rule": rule,
        "analyse__weighting": "none",
        "stop__target_reduction": 0.6,
    }
    result = run(tmp_path / "r", recipe_of(tiny_recipe_dict, **changes), tiny_data)
    (cycle,) = result.cycles
    assert cycle.steps == 0 and cycle.chosen == "closed_form"
    if rule in ("window", "explained-variance"):  # the rules with a knob land on the target
        assert 0.6 <= result.reduction < 0.85


CHOICES = [
    {"compress__channels": "project"},
    {"compress__warm_start": "fold"},
    {"distil__through_projection": True},
    {"distil__match": 1.0, "distil__alpha": 0.0},
    {"distil__match": 1.0, "distil__through_projection": True, "distil__alpha": 1.0},
    {"analyse__effective_samples": True},
    {"analyse__center": True},
    {"analyse__scale_columns": True, "analyse__margin": 0.95},
    {"analyse__sample": "sequence"},
]


@pytest.mark.parametrize("change", CHOICES)
def test_every_choice_runs(change, tiny_recipe_dict, tiny_data, tmp_path):
    changes = {"compress__sites_per_cycle": 20, "distil__steps": 4, "stop__max_drop": 1.0}
    result = run(tmp_path / "r", recipe_of(tiny_recipe_dict, **changes, **change), tiny_data)
    assert result.reduction > 0.3


def test_an_embedding_of_its_own_width_keeps_its_projection(tiny_recipe_dict, tiny_data, tmp_path):
    changes = {"compress__sites": ["stream", "embedding", "ffn"], "compress__ranks": {"embedding": 6, "stream": 16}}
    recipe = recipe_of(tiny_recipe_dict, distil__through_projection=True, distil__steps=4, **changes)
    result = run(tmp_path / "w", recipe, tiny_data)
    best = load_model(Run.open(tmp_path / "w"), layout.BEST)
    assert result.ranks["embedding"] == 6
    assert family_of(best).projections(best)["embedding"].shape[0] == 6


def test_explicit_ranks_are_kept(tiny_recipe_dict, tiny_data, tmp_path):
    ranks = {"stream": 10, "ffn": 12, "layer.1.ffn": 7}
    recipe = recipe_of(tiny_recipe_dict, compress__one_shot=True, compress__ranks=ranks)
    kept = {"stream": 10, "layer.0.ffn": 12, "layer.1.ffn": 7}
    assert kept.items() <= run(tmp_path / "r", recipe, tiny_data).ranks.items()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("text,label\n", "no rows"),
        ("text,label\n" + "a film,1\n" * 20, "fewer than two classes"),
        ("txt,label\na film,1\nthe plot,0\n", "did you mean `txt`"),
        ("text,label\n" + ",1\nthe plot,0\na film,1\n" * 20, "no text"),
    ],
)
def test_bad_data_is_refused_before_work_starts(text, message, tiny_recipe_dict, tmp_path):
    (tmp_path / "train.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run(tmp_path / "r", recipe_of(tiny_recipe_dict), tmp_path)


def test_sequences_longer_than_positions_are_refused(tiny_recipe_dict, tiny_data, tmp_path):
    with pytest.raises(DataError, match="32 positions"):
        run(tmp_path / "r", recipe_of(tiny_recipe_dict, task__max_length=40), tiny_data)


def test_an_unknown_model_is_refused(tiny_recipe_dict, tiny_data, tmp_path):
    with pytest.raises(UserError, match="cannot load"):
        run(tmp_path / "r", recipe_of(tiny_recipe_dict, model__source=str(tmp_path / "nothing")), tiny_data)
