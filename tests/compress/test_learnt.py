"""A teacher that is no better than a model that looks at no input is refused, as it came or as it was trained."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rmtkd_edge.compress import prepared, teacher
from rmtkd_edge.compress.learnt import baseline_value, check_loaded, check_trained
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import NotFiniteError, TrainingError, UserError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.store import save_folder
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.reporter import SilentReporter
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.scoring import score

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


@pytest.mark.parametrize("counts", [(5, 5), (7, 3), (3, 7), (4, 4, 4), (2, 7, 1)])
@pytest.mark.parametrize("answer", [0, 1, None])
def test_no_constant_answer_beats_the_baseline_by_any_metric(counts: tuple[int, ...], answer: int | None) -> None:
    """None: of logits that are no figures."""
    targets = np.repeat(np.arange(len(counts)), counts)
    outputs = np.zeros((len(targets), len(counts)), np.float32)
    if answer is None:
        outputs[:] = np.nan
    else:
        outputs[:, answer] = 3.0
    baseline = TASK.baseline([targets], len(counts))
    for name, value in TASK.metrics([outputs], [targets]).items():
        with pytest.raises(UserError, match="came trained"):
            check_loaded("net", Scores("validation", len(targets), name, {name: value}, None), baseline[name])


def balanced(folder: Path, family: str, texts: Path, images: Path) -> tuple[Path, tuple[str, ...]]:
    """Return data whose labels are equally frequent in every split, and the labels."""
    folder.mkdir()
    for split in ("train", "validation"):
        if family == "encoder":
            header, *rows = (texts / f"{split}.csv").read_text().splitlines()
            sides = [[row for row in rows if row.endswith(label)] for label in ("negative", "positive")]
            kept = [row for pair in zip(*sides, strict=False) for row in pair]
            (folder / f"{split}.csv").write_text("\n".join([header, *kept]) + "\n")
        else:
            found = np.load(images / f"{split}.npz")
            places = [np.flatnonzero(found["labels"] == digit)[:10] for digit in range(10)]
            chosen = np.concatenate(places)
            np.savez(folder / f"{split}.npz", images=found["images"][chosen], labels=found["labels"][chosen])
    return folder, ("negative", "positive") if family == "encoder" else tuple(map(str, range(10)))


@pytest.mark.parametrize("family", ["encoder", "resnet"])
@pytest.mark.parametrize(("bias", "said"), [(1.0, "came trained"), (float("nan"), "are NaN or infinite")])
def test_a_constant_classifier_is_refused_though_the_labels_are_balanced(
    tmp_path: Path, tiny_recipe_dict: Any, tiny_data: Path, tiny_images: Path, family: str, bias: float, said: str
) -> None:
    tables: dict[str, Any] = {
        "model": {"family": "resnet", "source": "scratch", "shape": {"width": 8}},
        "task": {"name": "digits", "kind": "image-classification"},
    }
    tables = json.loads(json.dumps(tiny_recipe_dict)) if family == "encoder" else tables
    data, labels = balanced(tmp_path / "data", family, tiny_data, tiny_images)
    recipe = parse_recipe(tables, "test")
    how = find_task(recipe.task.kind).load(recipe, data).preprocessing
    net, _ = find_family(family).load(recipe, labels, how)
    with torch.no_grad():
        net.classifier.weight.zero_()
        net.classifier.bias.zero_()
        net.classifier.bias[-1] = bias
    save_folder(tmp_path / "net", net)
    tables["model"]["source"] = str(tmp_path / "net")
    with pytest.raises(UserError, match=said) as caught:
        compress(tmp_path / "run", parse_recipe(tables, "test"), data)
    assert math.isnan(bias) or f"{1 / len(labels):.4f}" in caught.value.message
    assert not Run.open(tmp_path / "run").has(layout.TEACHER_RECORD)


@pytest.mark.parametrize("odd", [np.nan, np.inf])
def test_one_row_without_a_figure_is_no_answer(odd: float) -> None:
    outputs = np.eye(2, dtype=np.float32)
    outputs[1, 0] = odd
    with pytest.raises(NotFiniteError, match="on 1 of 2 validation rows"):
        score(TASK, None, "validation", [outputs], [np.arange(2)])


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
    monkeypatch.setattr(prepared.Prepared, "score", lambda *args, **kwargs: found)
    monkeypatch.setattr(teacher, "_train_teacher", raising(Trained))
    monkeypatch.setattr(teacher, "save_model", raising(Kept))
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
