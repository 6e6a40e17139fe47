"""Data and teacher of an image recipe."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rmtkd_edge.compress.data import Data, Facts, Inputs
from rmtkd_edge.compress.parallel import mixed_seed
from rmtkd_edge.families.resnet.sources import sources as resnet
from rmtkd_edge.families.resnet.module import ConvNet
from rmtkd_edge.families.store import load_folder
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks import image_classification as image
from rmtkd_edge.tasks.text_classification import calibration_indices

EVALUATION_BATCH = 128
TRIAL_IMAGES = 512  # fitted on where closed forms are only compared
PREPROCESSOR = "compress/preprocessor_config.json"


def image_inputs(recipe: Recipe, data: Path | None) -> Inputs:
    """Return the decoded data of a recipe and how its net is built; raise DataError or UserError."""
    task = image.load_image_task(recipe.task, data, recipe.seed)
    mean, std = normalisation(recipe, task)
    return Inputs(
        image_data(task, recipe, mean, std),
        Facts(len(task.train), len(task.validation), tuple(task.labels), task.notes),
        lambda: _build(recipe, task, mean, std),
        lambda run: _keep(run, image.preprocessor_config(mean, std, task.image_size)),
    )


def normalisation(recipe: Recipe, task: image.ImageTask) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation: the recipe's, those that the source was trained with, else the data's own."""
    if recipe.task.mean is not None and recipe.task.std is not None:
        return tuple(recipe.task.mean), tuple(recipe.task.std)
    if recipe.model.source.startswith(resnet.TORCHVISION):
        return resnet.IMAGENET_MEAN, resnet.IMAGENET_STD
    if resnet.is_our_folder(recipe.model.source):
        spec = load_folder(Path(recipe.model.source)).spec
        return tuple(spec.mean), tuple(spec.std)
    return task.mean, task.std


def image_data(task: image.ImageTask, recipe: Recipe, mean: tuple[float, ...], std: tuple[float, ...]) -> Data:
    """Return the batches of a task: calibration images are drawn once, under the recipe's seed, and not augmented."""
    seed, rows, augment = recipe.seed, task.train, recipe.task.augment
    analysis = calibration_indices(rows, recipe.analyse.calibration, recipe.analyse.minimum_rows, seed)
    rng = np.random.default_rng([seed, 1])
    order, fitted = rng.permutation(analysis), recipe.compress.warm_start_images
    warm, trial = np.sort(order[:fitted]), np.sort(order[: min(fitted, TRIAL_IMAGES)])
    effect = np.sort(rng.permutation(analysis)[: recipe.analyse.weighting_rows])
    size, big = recipe.distil.batch_size, recipe.train.batch_size

    def fixed(split: image.ImageSplit) -> Callable[[], Any]:
        return lambda: image.batches(split, EVALUATION_BATCH, mean, std, None)

    def epoch(batch_size: int, salt: int) -> Any:
        return image.batches(rows, batch_size, mean, std, salt, augment)

    return Data(
        train_epoch=lambda number, salt: epoch(size, mixed_seed(salt, number)),
        train_rows=len(rows),
        steps_per_epoch=image.steps(rows, size),
        teacher_epoch=lambda number: epoch(big, mixed_seed(seed, number)),
        teacher_steps_per_epoch=image.steps(rows, big),
        calibration=fixed(rows.take(analysis)), effect=fixed(rows.take(effect)), warm=fixed(rows.take(warm)),
        trial=fixed(rows.take(trial)),
        validation=fixed(task.validation), augmented=augment != "none",
    )  # fmt: skip


def _build(recipe: Recipe, task: image.ImageTask, mean: Any, std: Any) -> tuple[ConvNet, bool]:
    net, ready = resnet.build(recipe.model.source, task.labels, recipe.seed, recipe.model.resnet, task.image_size)
    net.spec = replace(net.spec, mean=mean, std=std)
    return net, ready


def _keep(run: Run, config: dict[str, Any]) -> None:
    if not run.has(PREPROCESSOR):
        run.write_json(PREPROCESSOR, config)
