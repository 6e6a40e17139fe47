"""A teacher that is no better than a model that looks at no input is refused, as it came or as it was trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmtkd_edge.compress import stage
from rmtkd_edge.compress.learnt import baseline_value, check_loaded, check_trained
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import TrainingError, UserError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.store import save_folder
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task

TASK, TASK_OF_IMAGES = find_task("text-classification"), find_task("image-classification")
ROWS = [{"labels": torch.tensor([0] * 7)}, {"labels": torch.tensor([1] * 3)}]


def scores(accuracy: float) -> Scores:
    return Scores("validation", 10, "accuracy", {"accuracy": accuracy}, None)


def compress(path: Path, recipe: Recipe, data: Path) -> Run:
    run = Run.create(path, recipe.to_toml(), recipe.seed)
    compress_run(run, recipe, data=data, reporter=SilentReporter())
    return run


@pytest.mark.parametrize("accuracy", [0.3, 0.7])
def test_a_teacher_must_beat_the_most_frequent_label(accuracy: float) -> None:
    baseline = baseline_value(TASK, ROWS, 2, "accuracy")
    assert baseline == 0.7
    with pytest.raises(UserError, match=r"`net` came trained, .* 10 validation rows .* 0\.7000 of always predicting"):
        check_loaded("net", scores(accuracy), baseline)
    with pytest.raises(TrainingError, match="the teacher was trained"):
        check_trained(scores(accuracy), baseline)


def test_a_better_teacher_and_rows_of_one_label_pass() -> None:
    check_loaded("net", scores(0.8), baseline_value(TASK, ROWS, 2, "accuracy"))
    check_trained(scores(1.0), baseline_value(TASK, ROWS[:1], 2, "accuracy"))
    assert baseline_value(TASK, ROWS, 2, "matthews_corrcoef") == 0.0


def test_a_checkpoint_that_knows_nothing_of_the_data_is_refused(tmp_path: Path, tiny_images: Path) -> None:
    def recipe(source: str) -> Recipe:
        tables: dict[str, Any] = {
            "model": {"family": "resnet", "source": source, "shape": {"width": 8}},
            "task": {"name": "digits", "kind": "image-classification"},
            "train": {"threshold": 0.5},
        }
        return parse_recipe(tables, "test")

    family, labels = find_family("resnet"), tuple(map(str, range(10)))
    how = TASK_OF_IMAGES.load(recipe("scratch"), tiny_images).preprocessing
    net, _ = family.load(recipe("scratch"), labels, how)
    with torch.no_grad():
        net.classifier.weight.zero_()
    save_folder(tmp_path / "net", net)
    with pytest.raises(UserError, match="came trained") as caught:
        compress(tmp_path / "run", recipe(str(tmp_path / "net")), tiny_images)
    assert all(key in caught.value.hint for key in ("task.labels", "task.mean", "model.tokenizer", "model.shape.stem"))
    assert not Run.open(tmp_path / "run").has(layout.TEACHER_RECORD)


class Trained(Exception):
    """The teacher is trained."""


class Kept(Exception):
    """The teacher is kept as it came."""


@pytest.mark.parametrize(("value", "outcome"), [(0.16, Trained), (0.9, Kept)])
def test_a_classifier_that_is_right_by_chance_is_trained_whatever_the_threshold(
    tmp_path: Path, tiny_images: Path, monkeypatch: pytest.MonkeyPatch, value: float, outcome: type[Exception]
) -> None:
    def raising(error: type[Exception]) -> Any:
        def stop(*args: Any, **kwargs: Any) -> None:
            raise error

        return stop

    found = Scores("validation", 150, "accuracy", {"accuracy": value}, (value - 0.06, value + 0.06))
    monkeypatch.setattr(stage.Prepared, "score", lambda *args, **kwargs: found)
    monkeypatch.setattr(stage, "_train_teacher", raising(Trained))
    monkeypatch.setattr(stage, "save_model", raising(Kept))
    tables: dict[str, Any] = {
        "model": {"family": "resnet", "source": "scratch", "shape": {"width": 8}},
        "task": {"name": "digits", "kind": "image-classification"},
        "train": {"threshold": 0.0},
    }
    recipe, labels = parse_recipe(tables, "test"), tuple(map(str, range(10)))
    net, _ = find_family("resnet").load(recipe, labels, TASK_OF_IMAGES.load(recipe, tiny_images).preprocessing)
    save_folder(tmp_path / "net", net)
    tables["model"]["source"] = str(tmp_path / "net")
    with pytest.raises(outcome):
        compress(tmp_path / "run", parse_recipe(tables, "test"), tiny_images)
    assert ("may be chance" in (tmp_path / "run" / layout.LOG).read_text()) == (outcome is Trained)


def test_a_teacher_that_did_not_learn_is_refused(tmp_path: Path, tiny_recipe_dict: Any, tiny_data: Path) -> None:
    data = json.loads(json.dumps(tiny_recipe_dict))
    data["train"] |= {"epochs": 1, "learning_rate": 1e-12}
    with pytest.raises(TrainingError, match="is no better than") as caught:
        compress(tmp_path / "run", parse_recipe(data, "test"), tiny_data)
    assert "train.learning_rate" in caught.value.hint


def test_targets_that_a_split_lacks_count_as_never_right() -> None:
    assert TASK.baseline([np.array([0, 0, 2])], 3)["accuracy"] == pytest.approx(2 / 3)
