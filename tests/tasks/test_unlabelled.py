"""Rows without labels: which are read, what learns from them, and what refuses them."""

from __future__ import annotations

import copy
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sentences_sample import sentences

from rmtkd_edge.compress.data import make_data
from rmtkd_edge.compress.prepared import prepare
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipes import load_recipe, parse_recipe
from rmtkd_edge.errors import DataError, RecipeError
from rmtkd_edge.methods.plain_kd import PlainKd
from rmtkd_edge.methods.students import OneCycle
from rmtkd_edge.report.collect import collect
from rmtkd_edge.report.paper.entries import _settings
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task

ROWS = 80


@pytest.fixture
def file(tmp_path, tiny_data):
    """A file with a column of texts, of which some are rows of validation, each twice."""
    held_out = (tiny_data / "validation.csv").read_text().splitlines()[1:6]
    texts = [*(text for text, _ in sentences(ROWS, 9)), *(line.rpartition(",")[0] for line in held_out)]
    path = tmp_path / "more.csv"
    path.write_text("\n".join(["text", *texts]))
    return path


def recipe_of(base: dict[str, Any], file: Any, **compress: Any) -> Any:
    settings = copy.deepcopy(base)
    settings["task"] |= {"unlabelled": str(file)}
    settings["compress"] |= compress
    settings["distil"] |= {"alpha": 0.0}
    return parse_recipe(settings, "test")


def _inputs(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return batch["input_ids"], batch["attention_mask"]


def test_students_learn_from_them_and_the_teacher_does_not(tiny_recipe_dict, tiny_data, file):
    recipe = recipe_of(tiny_recipe_dict, file)
    ready = prepare(recipe, tiny_data)
    data, train = ready.data, len(ready.dataset.train)
    assert data.labelled == train and train < data.rows <= train + ROWS
    seen = torch.cat([batch["index"] for batch in data.epoch(32, 0, 0)])
    assert sorted(seen.tolist()) == list(range(data.rows))
    assert all("labels" not in batch for batch in data.epoch(32, 0, 0))
    labelled = list(data.labelled_epoch(32, 0, 0))
    assert all("labels" in batch for batch in labelled) and sum(len(b["index"]) for b in labelled) == train
    added = {tuple(row) for row in ready.dataset.distilled.ids[train:]}
    fitted = {tuple(row[mask.bool()].tolist()) for b in data.warm() for row, mask in zip(*_inputs(b), strict=True)}
    assert added & fitted, "closed forms are fitted on them too"


def test_rows_that_are_held_out_are_not_learnt_from(tiny_recipe_dict, tiny_data, file):
    dataset = prepare(recipe_of(tiny_recipe_dict, file), tiny_data).dataset
    known = {tuple(row) for split in (dataset.validation, dataset.test) if split for row in split.ids}
    added = dataset.distilled.take(np.arange(len(dataset.train), len(dataset.distilled)))
    assert not any(tuple(row) in known for row in added.ids)
    note = next(note for note in dataset.notes if "have no labels" in note)
    assert "rows of validation or test and were left out" in note


def test_a_run_with_them_knows_its_rows_again(tiny_recipe_dict, tiny_data, file, tmp_path):
    recipe = recipe_of(tiny_recipe_dict, file)
    run = Run.create(tmp_path / "run", recipe.to_toml(), recipe.seed)
    result = compress_run(run, recipe, data=tiny_data, reporter=SilentReporter())
    assert result.cycles and any("have no labels" in note for note in result.notes)
    file.write_text(file.read_text() + "\nthe plot was fine")
    with pytest.raises(Exception, match="unlabelled"):
        compress_run(Run.open(run.path), recipe, data=tiny_data, reporter=SilentReporter())
    assert run.has(layout.RESULT)


def test_a_relative_file_is_that_of_the_folder_that_compress_ran_in(
    tiny_recipe_dict, tiny_data, file, tmp_path, monkeypatch
):
    monkeypatch.chdir(file.parent)
    recipe = recipe_of(tiny_recipe_dict, file.name)
    run = Run.create(tmp_path / "run", recipe.to_toml(), recipe.seed)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = layout.read_recipe(run)
    assert again == recipe and again.task.unlabelled == str(file)
    dataset = find_task(again.task.kind).load(again, tiny_data)
    assert dataset.distilled is not None and len(dataset.distilled) > len(dataset.train)


def test_a_report_names_the_file_and_not_its_folder(tiny_recipe_dict, file, tmp_path):
    recipe = recipe_of(tiny_recipe_dict, file)
    run = Run.create(tmp_path / "run", recipe.to_toml(), recipe.seed)
    shown = collect([run])[0].recipe_text
    assert str(file) in run.read_text(layout.RECIPE) and str(file.parent) not in shown
    assert tomllib.loads(shown)["task"]["unlabelled"] == file.name


def test_the_same_file_in_other_folders_makes_no_other_setting(tiny_recipe_dict, tmp_path):
    record = SimpleNamespace(method="rmt-kd", task=SimpleNamespace(train_rows=1))
    found = [
        _settings(recipe_of(tiny_recipe_dict, tmp_path / where), record, [0.5])  # type: ignore[arg-type]
        for where in ("a/more.csv", "b/more.csv", "a/other.csv")
    ]
    assert found[0] == found[1] != found[2]


def test_a_method_that_does_not_say_so_reads_labels(tiny_recipe_dict, file, monkeypatch):
    monkeypatch.setattr(PlainKd, "needs_labels", OneCycle.needs_labels)
    with pytest.raises(RecipeError, match="plain-kd learns from labels"):
        recipe_of(tiny_recipe_dict, file, method="plain-kd")
    monkeypatch.undo()
    assert recipe_of(tiny_recipe_dict, file, method="plain-kd").compress.method == "plain-kd"


def test_no_path_that_a_run_could_not_read_again_is_taken(tiny_recipe_dict, tmp_path, monkeypatch):
    assert recipe_of(tiny_recipe_dict, "~/more.csv").task.unlabelled == str(Path.home() / "more.csv")
    monkeypatch.chdir(tmp_path)
    for name, why in (("", "at least 1 character"), ("x" * 1020, "longer than 1024 characters")):
        with pytest.raises(RecipeError, match=why):
            recipe_of(tiny_recipe_dict, name)


def test_what_needs_labels_is_refused(tiny_recipe_dict, tiny_data, file):
    settings = copy.deepcopy(tiny_recipe_dict)
    settings["task"] |= {"unlabelled": str(file)}
    with pytest.raises(RecipeError, match=r"distil.alpha = 0.5 must be 0"):
        parse_recipe(settings, "test")
    with pytest.raises(RecipeError, match=r"no kind `none`.*compress.method = pkd learns from labels"):
        recipe_of(tiny_recipe_dict, file, method="pkd", sites=["none"])
    with pytest.raises(RecipeError, match="reads no rows without labels"):
        prepare(load_recipe("demo-images", [f'task.unlabelled="{file}"', "distil.alpha=0"]), None)


@pytest.mark.parametrize(
    ("content", "why"),
    [("sentence\nfine\n", "unlabelled has no column `text`"), ("text\n", "the unlabelled split has no rows")],
)
def test_files_that_cannot_be_used_are_refused(tiny_recipe_dict, tiny_data, tmp_path, content, why):
    path = tmp_path / "more.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=why):
        prepare(recipe_of(tiny_recipe_dict, path), tiny_data)
    with pytest.raises(DataError, match="is no file"):
        prepare(recipe_of(tiny_recipe_dict, tmp_path / "none.csv"), tiny_data)


def test_subsets_of_train_alone_are_as_before(tiny_recipe_dict, tiny_data):
    """Without such rows nothing is drawn otherwise."""
    ready = prepare(parse_recipe(tiny_recipe_dict, "test"), tiny_data)
    data = make_data(ready.task, ready.dataset, parse_recipe(tiny_recipe_dict, "test"))
    assert data.rows == data.labelled == len(ready.dataset.train)
    assert all("labels" in batch for batch in data.warm())
