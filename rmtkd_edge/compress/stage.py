"""`rmtkd-edge compress`: from a recipe to a compressed checkpoint in a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmtkd_edge.compress import trainer
from rmtkd_edge.compress.cycle import State
from rmtkd_edge.compress.data import Data
from rmtkd_edge.compress.loop import Context, run_loop
from rmtkd_edge.compress.parallel import make_accelerator, mixed_seed
from rmtkd_edge.compress.ranks import check_rank_names
from rmtkd_edge.compress.store import RunCheckpoints, RunStore
from rmtkd_edge.errors import DataError, RecipeError, RunDirError
from rmtkd_edge.families import bert
from rmtkd_edge.families.encoder import Encoder
from rmtkd_edge.families.spec import count_parameters, ranks_of
from rmtkd_edge.families.store import load_model, save_model
from rmtkd_edge.hardware import load_profile
from rmtkd_edge.recipe import Recipe
from rmtkd_edge.run import Run
from rmtkd_edge.tasks import text

SCHEMA = "rmtkd-edge/compress@1"
EVALUATION_BATCH = 64
DEFAULT_ALIGNMENT = 8  # vector width, in float32, of the least of the x86 servers and laptops that this runs on


@dataclass(frozen=True)
class Prepared:
    """What can be read, and refused, before a run directory is made or replaced."""

    accelerator: Any
    multiple: int
    tokenizer: Any
    task: text.TextTask


def prepare(recipe: Recipe, data: Path | None) -> Prepared:
    """Return device, alignment, tokenizer and data of a recipe; raise RecipeError, DataError or UserError."""
    multiple = alignment_multiple(recipe)
    accelerator = make_accelerator(recipe.train.precision)
    tokenizer = text.load_tokenizer(recipe.model.tokenizer or recipe.model.source)
    return Prepared(accelerator, multiple, tokenizer, text.load_text_task(recipe.task, tokenizer, data, recipe.seed))


def compress_run(
    run: Run,
    recipe: Recipe,
    *,
    data: Path | None,
    reporter: Any,
    measure_latency_ms: Callable[[Any], float] | None = None,
    prepared: Prepared | None = None,
) -> dict[str, Any]:
    """Run (or continue) the RMT-KD loop of a recipe in a run directory and return its result (compress/result.json).

    `data` overrides the hub; `measure_latency_ms` serves the latency budget; `prepared` saves reading the data again.
    Raises DataError, UserError or TrainingError.
    """
    start = time.monotonic()
    ready = prepared or prepare(recipe, data)
    accelerator, tokenizer, task = ready.accelerator, ready.tokenizer, ready.task
    run.read_only = not accelerator.is_main_process
    report = _logger(run, reporter)
    run.mark("compress", "running", data=str(data.resolve()) if data else None)
    if not run.has("compress/tokenizer/tokenizer_config.json") and not run.read_only:
        _keep_tokenizer(run, tokenizer)
    loaders = make_data(task, recipe, tokenizer)
    teacher, facts = _teacher(run, recipe, task, tokenizer, loaders, accelerator, report)
    check_rank_names(teacher.spec, recipe.compress.ranks)
    context = Context(
        recipe, loaders, accelerator, RunStore(run), report, ready.multiple, count_parameters(teacher.spec),
        facts["accuracy"], measure_latency_ms,
    )  # fmt: skip
    state, records, stop = run_loop(context, State(teacher.to(accelerator.device), {}, facts["accuracy"]))
    report("stop", rule=stop)
    # where an earlier process did a part of it, its finished steps count too
    spent = max(time.monotonic() - start, facts["seconds"] + sum(sum(r["seconds"].values()) for r in records))
    result = _result(recipe, task, facts, context, state, records, stop, round(spent, 1))
    RunStore(run).put_best("compress/best", state.folded, state.projections, accuracy=state.accuracy)
    run.write_json("compress/result.json", result)
    run.mark("compress", "done", stop=stop, accuracy=state.accuracy, parameters=result["student"]["parameters"])
    return result


def _keep_tokenizer(run: Run, tokenizer: Any) -> None:
    try:
        tokenizer.save_pretrained(run.path_of("compress/tokenizer"))
    except Exception as err:  # the Rust tokenizers raise plain exceptions, a full disk among them
        raise RunDirError(f"cannot write the tokenizer into {run.path}: {err}", "free space, or another --out") from err
    run.record("compress/tokenizer")


def make_data(task: Any, recipe: Recipe, tokenizer: Any) -> Data:
    """Return the batches of a task: calibration rows are drawn once, under the recipe's seed."""
    pad, seed, rows = tokenizer.pad_token_id, recipe.seed, task.train
    analysis = text.calibration_indices(rows, recipe.analyse.calibration, recipe.analyse.minimum_rows, seed)
    rng = np.random.default_rng([seed, 1])
    order = rng.permutation(analysis)
    tokens = np.cumsum([len(rows.ids[i]) for i in order])
    warm = np.sort(order[: 1 + int(np.searchsorted(tokens, recipe.compress.warm_start_tokens))])
    effect = np.sort(rng.permutation(analysis)[: recipe.analyse.weighting_rows])
    size = recipe.distil.batch_size

    def fixed(indices: np.ndarray) -> Callable[[], Any]:
        part = rows.take(indices)
        return lambda: text.batches(part, EVALUATION_BATCH, pad, None)

    return Data(
        train_epoch=lambda epoch, salt: text.batches(rows, size, pad, mixed_seed(salt, epoch)),
        train_rows=len(rows),
        steps_per_epoch=text.steps(rows, size),
        calibration=fixed(analysis), effect=fixed(effect), warm=fixed(warm),
        validation=lambda: text.batches(task.validation, EVALUATION_BATCH, pad, None),
        special_ids=tuple(tokenizer.all_special_ids),
    )  # fmt: skip


def _teacher(run, recipe, task, tokenizer, loaders, accelerator, report) -> tuple[Encoder, dict[str, Any]]:
    """Return the teacher and its facts; it is trained where it has random weights or is under the threshold."""
    if run.has("compress/teacher/teacher.json"):
        return load_model(run, "compress/teacher"), run.read_json("compress/teacher/teacher.json")
    report("stage", name="teacher")
    start = time.monotonic()
    source = text.resolve_source(recipe.model.source) if recipe.model.source != "scratch" else "scratch"
    encoder, ready = bert.build(source, task.labels, recipe.seed, recipe.model.config, tokenizer)
    text.check_length(recipe.task.max_length, encoder.spec.max_length)
    if len(tokenizer) > encoder.spec.vocab:
        raise DataError(
            f"the tokenizer has {len(tokenizer)} tokens, the model only {encoder.spec.vocab} embeddings",
            "set model.tokenizer to the one that belongs to model.source",
        )
    encoder = encoder.to(accelerator.device)
    validate = lambda model: trainer.accuracy(model, loaders.validation(), accelerator)  # noqa: E731
    score = validate(encoder)
    trained = not ready or score < recipe.train.threshold
    if trained:
        score = _train_teacher(run, recipe, task, tokenizer, encoder, validate, accelerator, report)
        if score < recipe.train.threshold:
            report("note", text=f"the teacher reaches {score:.4f}, under the threshold {recipe.train.threshold:.4f}")
    facts = {
        "parameters": count_parameters(encoder.spec), "accuracy": score, "trained": trained,
        "seconds": round(time.monotonic() - start, 1), "source": recipe.model.source,
    }  # fmt: skip
    save_model(run, "compress/teacher", encoder, accuracy=score)
    run.write_json("compress/teacher/teacher.json", facts)
    run.remove("compress/teacher-training")
    return encoder.eval(), facts


def _train_teacher(run, recipe, task, tokenizer, encoder, validate, accelerator, report) -> float:
    options, size = recipe.train, recipe.train.batch_size
    per_epoch = text.steps(task.train, size)
    plan = trainer.Schedule(
        steps=options.epochs * per_epoch, learning_rate=options.learning_rate, weight_decay=options.weight_decay,
        warmup=options.warmup, max_grad_norm=options.max_grad_norm, evaluate_every=per_epoch,
        dropout=encoder.spec.dropout, rate_key="train.learning_rate",
    )  # fmt: skip
    pad = tokenizer.pad_token_id
    epoch = lambda number: text.batches(task.train, size, pad, mixed_seed(recipe.seed, number))  # noqa: E731
    old = trainer.OldLogits(None, 0, 0)
    checkpoints = RunCheckpoints(run, "compress/teacher-training")
    return trainer.train(encoder, old, epoch, validate, plan, accelerator, checkpoints, recipe.seed, report).accuracy


def alignment_multiple(recipe: Recipe) -> int:
    """Return the multiple that widths are rounded up to: the profile's, where the recipe names one."""
    if recipe.stop.latency_ms is not None and recipe.stop.profile is None:
        raise RecipeError(
            "stop.latency_ms needs stop.profile, the device that it holds on", "--set stop.profile=local-cpu"
        )
    return load_profile(recipe.stop.profile).alignment.gemm if recipe.stop.profile else DEFAULT_ALIGNMENT


def _result(recipe, task, teacher, context, state, records, stop, seconds) -> dict[str, Any]:
    parameters = count_parameters(state.folded.spec)
    return {
        "schema": SCHEMA, "stop": stop, "title": recipe.title,
        "task": {
            "name": recipe.task.name, "metric": "accuracy", "train_rows": len(task.train),
            "validation_rows": len(task.validation), "labels": list(task.labels),
        },
        "teacher": teacher, "student": {"parameters": parameters, "accuracy": state.accuracy},
        "reduction": 1 - parameters / teacher["parameters"], "accuracy_drop": teacher["accuracy"] - state.accuracy,
        "floor": context.floor, "cycles": records, "ranks": ranks_of(state.folded.spec), "seed": recipe.seed,
        "one_shot": recipe.compress.one_shot, "processes": context.accelerator.num_processes,
        "device": str(context.accelerator.device), "seconds": seconds,
    }  # fmt: skip


def _logger(run: Run, reporter: Any) -> Callable[..., None]:
    """Return a function that hands events to the reporter and appends the lasting ones to compress/log.jsonl."""
    path = run.path_of("compress/log.jsonl")

    def report(event: str, /, **facts: Any) -> None:
        if run.read_only:
            return
        reporter.event(event, **facts)
        if event != "step" or facts["step"] % 50 == 0:
            line = json.dumps({"event": event, "time": round(time.time(), 1), **facts}, default=str)
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                with open(path, "a", encoding="utf-8") as handle:
                    handle.write(line + "\n")
            except OSError as err:
                raise RunDirError(f"cannot write {path}: {err.strerror or err}", "free space; the run resumes") from err

    return report
