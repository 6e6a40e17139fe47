"""Data and teacher of a text recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rmtkd_edge.compress.data import Data, Facts, Inputs
from rmtkd_edge.compress.parallel import mixed_seed
from rmtkd_edge.errors import DataError, RunDirError
from rmtkd_edge.families.encoder.module import sources as bert
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks import text_classification as text

EVALUATION_BATCH = 64
TRIAL_TOKENS = 8192  # fitted on where closed forms are only compared


def text_inputs(recipe: Recipe, data: Path | None) -> Inputs:
    """Return the tokenised data of a recipe and how its encoder is built; raise DataError or UserError."""
    tokenizer = text.load_tokenizer(recipe.model.tokenizer or recipe.model.source)
    task = text.load_text_task(recipe.task, tokenizer, data, recipe.seed)
    return Inputs(
        text_data(task, recipe, tokenizer),
        Facts(len(task.train), len(task.validation), tuple(task.labels)),
        lambda: _build(recipe, task, tokenizer),
        lambda run: _keep(run, tokenizer),
    )


def text_data(task: text.TextTask, recipe: Recipe, tokenizer: Any) -> Data:
    """Return the batches of a task: calibration rows are drawn once, under the recipe's seed."""
    pad, seed, rows = tokenizer.pad_token_id, recipe.seed, task.train
    subset = text.calibration_indices(rows, recipe.analyse.calibration, recipe.analyse.minimum_rows, seed)
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(subset)
    tokens = np.cumsum([len(rows.ids[i]) for i in order])
    fitted = recipe.compress.fitted_tokens
    warm, trial = (np.sort(order[: 1 + int(np.searchsorted(tokens, n))]) for n in (fitted, min(fitted, TRIAL_TOKENS)))
    order = rng.permutation(subset)
    most = max(recipe.analyse.maximum_rows, recipe.analyse.minimum_rows)
    effect, analysis = (np.sort(order[:n]) for n in (recipe.analyse.weighting_rows, most))
    size, big = recipe.distil.batch_size, recipe.train.batch_size

    def fixed(indices: np.ndarray) -> Callable[[], Any]:
        part = rows.take(indices)
        return lambda: text.batches(part, EVALUATION_BATCH, pad, None)

    return Data(
        train_epoch=lambda epoch, salt: text.batches(rows, size, pad, mixed_seed(salt, epoch)),
        train_rows=len(rows),
        steps_per_epoch=text.steps(rows, size),
        teacher_epoch=lambda epoch: text.batches(rows, big, pad, mixed_seed(seed, epoch)),
        teacher_steps_per_epoch=text.steps(rows, big),
        calibration=fixed(analysis), effect=fixed(effect), warm=fixed(warm),
        trial=fixed(trial),
        validation=lambda: text.batches(task.validation, EVALUATION_BATCH, pad, None),
        special_ids=tuple(tokenizer.all_special_ids),
    )  # fmt: skip


def _build(recipe: Recipe, task: text.TextTask, tokenizer: Any) -> tuple[Encoder, bool]:
    source = text.resolve_source(recipe.model.source) if recipe.model.source != "scratch" else "scratch"
    encoder, ready = bert.build(source, task.labels, recipe.seed, recipe.model.config, tokenizer)
    text.check_length(recipe.task.max_length, encoder.spec.max_length)
    if len(tokenizer) > encoder.spec.vocab:
        raise DataError(
            f"the tokenizer has {len(tokenizer)} tokens, the model only {encoder.spec.vocab} embeddings",
            "set model.tokenizer to the one that belongs to model.source",
        )
    return encoder, ready


def _keep(run: Run, tokenizer: Any) -> None:
    if run.has("compress/tokenizer/tokenizer_config.json") or run.read_only:
        return
    try:
        tokenizer.save_pretrained(run.path_of("compress/tokenizer"))
    except Exception as err:  # the Rust tokenizers raise plain exceptions, a full disk among them
        raise RunDirError(f"cannot write the tokenizer into {run.path}: {err}", "free space, or another --out") from err
    run.record("compress/tokenizer")
