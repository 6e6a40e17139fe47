"""A teacher of an earlier run next to the rows that this run validates on."""

from __future__ import annotations

import json
import shutil

import pytest

from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.teacher import TeacherRecord
from rmtkd_edge.run.reporter import SilentReporter


def run(folder, recipe, data, seed=0, source=None, **task):
    """Return a one-shot run and what it noted of its teacher."""
    changed = json.loads(json.dumps(recipe))
    changed["seed"], changed["compress"]["one_shot"] = seed, True
    changed["task"] |= task
    if source is not None:
        changed["model"] = {"source": str(source), "tokenizer": changed["model"]["tokenizer"]}
    found = parse_recipe(changed, "test")
    made = Run.create(folder, found.to_toml(), seed)
    compress_run(made, found, data=data, reporter=SilentReporter())
    events = [json.loads(line) for line in (folder / layout.LOG).read_text().splitlines()]
    notes = [event["text"] for event in events if event["event"] == "note" and "held other rows" in event["text"]]
    return made.read_record(TeacherRecord, layout.TEACHER_RECORD), notes


@pytest.fixture(scope="module")
def one_file(tmp_path_factory, tiny_data):
    """A folder with train.csv alone."""
    folder = tmp_path_factory.mktemp("train-alone")
    shutil.copy(tiny_data / "train.csv", folder)
    return folder


@pytest.fixture(scope="module")
def first(tmp_path_factory, tiny_recipe_dict, one_file):
    """The folder of a teacher that was trained under seed 3."""
    folder = tmp_path_factory.mktemp("run") / "a"
    record, notes = run(folder, tiny_recipe_dict, one_file, seed=3)
    assert record.trained and record.held_out.seed == 3 and not notes
    return folder / layout.TEACHER


def test_another_seed_validates_on_rows_that_the_teacher_was_trained_on(tmp_path, tiny_recipe_dict, one_file, first):
    record, notes = run(tmp_path / "b", tiny_recipe_dict, one_file, seed=1, source=first)
    assert len(notes) == 1 and "--set task.split_seed=3" in notes[0]
    assert not record.trained and record.held_out.seed == 3  # of the run that trained it


@pytest.mark.parametrize(("seed", "task"), [(3, {}), (1, {"split_seed": 3})])
def test_the_same_rows_are_held_out_by_the_same_seed(tmp_path, tiny_recipe_dict, one_file, first, seed, task):
    record, notes = run(tmp_path / "b", tiny_recipe_dict, one_file, seed=seed, source=first, **task)
    assert record.held_out.seed == 3 and not notes


def test_the_same_seed_may_hold_out_more_rows(tmp_path, tiny_recipe_dict, one_file, first):
    _, notes = run(tmp_path / "b", tiny_recipe_dict, one_file, seed=3, source=first, validation_fraction=0.3)
    assert len(notes) == 1 and "validation_fraction" in notes[0] and "split_seed" not in notes[0]


def test_a_validation_split_of_its_own_is_not_held_out(tmp_path, tiny_recipe_dict, tiny_data, first):
    record, notes = run(tmp_path / "b", tiny_recipe_dict, tiny_data, seed=1, source=first)
    assert not notes and record.held_out.seed == 3
