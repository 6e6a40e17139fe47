"""`rmtkd-edge compress`: from a recipe to a compressed checkpoint in a run directory."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmtkd_edge.families.resnet.sources import modes
from rmtkd_edge.compress.training import trainer
from rmtkd_edge.compress.cycle import State
from rmtkd_edge.compress.data import Facts, Inputs
from rmtkd_edge.compress.image_inputs import image_inputs
from rmtkd_edge.families.encoder.cost import predictor
from rmtkd_edge.compress.loop import Context, run_loop
from rmtkd_edge.compress.parallel import make_accelerator
from rmtkd_edge.compress.ranks.edge import check_site_names
from rmtkd_edge.compress.store import RunCheckpoints, RunStore
from rmtkd_edge.compress.text_inputs import text_inputs
from rmtkd_edge.errors import RecipeError, RunDirError
from rmtkd_edge.families.encoder.spec import count_parameters, list_sites, ranks_of
from rmtkd_edge.families.store import load_model, save_model
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.directory import Run

SCHEMA = "rmtkd-edge/compress@1"
DEFAULT_ALIGNMENT = 8  # vector width, in float32, of the least of the x86 servers and laptops that this runs on


@dataclass(frozen=True)
class Prepared:
    """What can be read, and refused, before a run directory is made or replaced."""

    accelerator: Any
    multiple: int
    inputs: Inputs


def prepare(recipe: Recipe, data: Path | None) -> Prepared:
    """Return device, alignment and data of a recipe; raise RecipeError, DataError or UserError."""
    multiple = alignment_multiple(recipe)
    accelerator = make_accelerator(recipe.train.precision)
    inputs = image_inputs(recipe, data) if recipe.task.kind == "image" else text_inputs(recipe, data)
    return Prepared(accelerator, multiple, inputs)


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
    accelerator, inputs = ready.accelerator, ready.inputs
    run.read_only = not accelerator.is_main_process
    report = _logger(run, reporter)
    run.mark("compress", "running", data=str(data.resolve()) if data else None)
    for note in inputs.facts.notes:
        report("note", text=note)
    inputs.keep(run)
    teacher, facts = _teacher(run, recipe, inputs, accelerator, report)
    check_site_names(teacher.spec, "compress.ranks", recipe.compress.ranks)
    modes.check(teacher.spec, recipe.compress)
    if not list_sites(teacher.spec, list(recipe.compress.sites)):
        kinds = ", ".join(dict.fromkeys(site.kind for site in list_sites(teacher.spec)))
        raise RecipeError(f"this model has no sites of {', '.join(recipe.compress.sites)}", f"its kinds: {kinds}")
    context = Context(
        recipe, inputs.data, accelerator, RunStore(run), report, ready.multiple, count_parameters(teacher.spec),
        facts["accuracy"], measure_latency_ms, predictor(recipe),
    )  # fmt: skip
    if recipe.stop.latency_ms is not None and measure_latency_ms is None and context.predict_latency_ms is not None:
        report("note", text="the latency budget is kept by the curves of its device; `profile` there measures it")
    state, records, stop = run_loop(context, State(teacher.to(accelerator.device), {}, facts["accuracy"]))
    report("stop", rule=stop)
    # where an earlier process did a part of it, its finished steps count too
    spent = max(time.monotonic() - start, facts["seconds"] + sum(sum(r["seconds"].values()) for r in records))
    result = _result(recipe, inputs.facts, facts, context, state, records, stop, round(spent, 1))
    RunStore(run).put_best("compress/best", state.folded, state.projections, accuracy=state.accuracy)
    run.write_json("compress/result.json", result)
    run.mark("compress", "done", stop=stop, accuracy=state.accuracy, parameters=result["student"]["parameters"])
    return result


def _teacher(run, recipe, inputs: Inputs, accelerator, report) -> tuple[Any, dict[str, Any]]:
    """Return the teacher and its facts; it is trained where it has random weights or is under the threshold."""
    if run.has("compress/teacher/teacher.json"):
        return load_model(run, "compress/teacher"), run.read_json("compress/teacher/teacher.json")
    report("stage", name="teacher")
    start = time.monotonic()
    model, ready = inputs.build()
    model = model.to(accelerator.device)
    validate = lambda found: trainer.accuracy(found, inputs.data.validation(), accelerator)  # noqa: E731
    score = validate(model)
    trained = not ready or score < recipe.train.threshold
    if trained:
        score = _train_teacher(run, recipe, inputs, model, validate, accelerator, report)
        if score < recipe.train.threshold:
            report("note", text=f"the teacher reaches {score:.4f}, under the threshold {recipe.train.threshold:.4f}")
    facts = {
        "parameters": count_parameters(model.spec), "accuracy": score, "trained": trained,
        "seconds": round(time.monotonic() - start, 1), "source": recipe.model.source,
    }  # fmt: skip
    save_model(run, "compress/teacher", model, accuracy=score)
    run.write_json("compress/teacher/teacher.json", facts)
    run.remove("compress/teacher-training")
    return model.eval(), facts


def _train_teacher(run, recipe, inputs: Inputs, model, validate, accelerator, report) -> float:
    options, per_epoch = recipe.train, inputs.data.teacher_steps_per_epoch
    plan = trainer.Schedule(
        steps=options.epochs * per_epoch, learning_rate=options.learning_rate, weight_decay=options.weight_decay,
        warmup=options.warmup, max_grad_norm=options.max_grad_norm, evaluate_every=per_epoch,
        dropout=getattr(model.spec, "dropout", 0.0), rate_key="train.learning_rate",
    )  # fmt: skip
    old = trainer.OldLogits(None, 0, 0)
    checkpoints = RunCheckpoints(run, "compress/teacher-training")
    epoch = inputs.data.teacher_epoch
    return trainer.train(model, old, epoch, validate, plan, accelerator, checkpoints, recipe.seed, report).accuracy


def alignment_multiple(recipe: Recipe) -> int:
    """Return the multiple that widths are rounded up to: the profile's, where the recipe names one."""
    if recipe.stop.latency_ms is not None and recipe.stop.profile is None:
        raise RecipeError(
            "stop.latency_ms needs stop.profile, the device that it holds on", "--set stop.profile=local-cpu"
        )
    if not recipe.stop.profile:
        return DEFAULT_ALIGNMENT
    alignment = load_profile(recipe.stop.profile).alignment
    return alignment.conv if recipe.task.kind == "image" else alignment.gemm


def _result(recipe, task: Facts, teacher, context, state, records, stop, seconds) -> dict[str, Any]:
    parameters = count_parameters(state.folded.spec)
    return {
        "schema": SCHEMA, "stop": stop, "title": recipe.title,
        "task": {
            "name": recipe.task.name, "metric": "accuracy", "train_rows": task.train_rows,
            "validation_rows": task.validation_rows, "labels": list(task.labels),
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
