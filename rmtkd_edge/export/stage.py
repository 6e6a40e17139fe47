"""`rmtkd-edge export`: from the checkpoints of a run to two folders, the compressed model and its baseline."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from rmtkd_edge.errors import DataError, RunDirError
from rmtkd_edge.export.audit import Audit, audit_emitted, audit_optimised
from rmtkd_edge.export.bundle import VARIANTS, standardise, write_bundle, write_facts
from rmtkd_edge.export.facts import ROLES, export_both, model_id, refusal, variant_facts, verification_facts
from rmtkd_edge.export.fold_proof import Batch, fold_with_proof, prove_same
from rmtkd_edge.families.encoder.graph import GraphOptions
from rmtkd_edge.export.half import half_variant
from rmtkd_edge.families.encoder.quantise import QuantiseOptions, quantise_onnx
from rmtkd_edge.sessions import open_session
from rmtkd_edge.families.encoder.to_onnx import export_onnx
from rmtkd_edge.export.verify import (
    Score,
    compare_onnx,
    evaluate_onnx,
    variations,
    verify_onnx,
)
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import count_parameters, ranks_of
from rmtkd_edge.families.store import load_model
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.config.recipe import Recipe, parse_recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks import text_classification as text

BATCH = 32

Report = Callable[..., None]


@dataclass(frozen=True)
class Job:
    """What both folders are made with; `shapes` holds the held-out rows in several batch sizes and lengths."""

    recipe: Recipe
    held_out: Sequence[Batch]
    calibration: Sequence[Batch]
    shapes: Sequence[Batch]
    validation: Sequence[Batch]
    graph: GraphOptions
    int8: bool
    threads: int
    teacher_parameters: int


def export_run(
    run: Run,
    *,
    int8: bool | None = None,
    fp16: bool | None = None,
    opset: int | None = None,
    data: Path | None = None,
    task: text.TextTask | None = None,
    threads: int | None = None,
    force: bool = False,
    reporter: Any = None,
) -> dict[str, Any]:
    """Export compress/best into export/ and the teacher into baseline/ and return export/rmtkd.json.

    `int8`, `fp16` and `opset` override the recipe, `data` the data that compress used, `task` saves reading it again,
    `threads` (all cores of this process when None) serve verification. Raises RunDirError where compress has not
    finished or an export exists and not `force`; Finding where a proof or an audit fails: that folder is removed then.
    """
    _ready(run, force)
    recipe = parse_recipe(tomllib.loads(run.read_text("recipe.toml")), str(run.path / "recipe.toml"))
    if fp16 is not None:
        recipe = recipe.model_copy(update={"export": recipe.export.model_copy(update={"fp16": fp16})})
    report: Report = reporter.event if reporter is not None else _silent
    if recipe.task.kind == "image":
        from rmtkd_edge.export.image_stage import export_images

        graph = GraphOptions(opset=recipe.export.opset if opset is None else opset)
        wanted = recipe.export.int8 if int8 is None else int8
        return export_images(run, recipe, graph=graph, int8=wanted, data=data, threads=threads, report=report)
    tokenizer = text.load_tokenizer(str(run.path_of("compress/tokenizer")))
    if task is None:
        known = run.stage("compress").get("data")
        task = text.load_text_task(recipe.task, tokenizer, data or (Path(known) if known else None), recipe.seed)
    teacher = load_model(run, ROLES["baseline"])
    job = make_job(recipe, task, teacher, int8, opset, threads)
    return export_both(
        run, job.threads, lambda folder, checkpoint: export_model(run, folder, load_model(run, checkpoint), job, report)
    )


def make_job(
    recipe: Recipe, task: text.TextTask, teacher: Encoder, int8: bool | None, opset: int | None, threads: int | None
) -> Job:
    """Return what both folders are made with; raise DataError where the labels of data and model differ."""
    spec = teacher.spec
    if list(task.labels) != list(spec.labels):
        raise DataError(
            f"the data have the labels {task.labels}, the model {list(spec.labels)}",
            "give the data that compress used: --data",
        )
    held_out = _sample(task.validation, recipe, spec.pad_id, 5)
    return Job(
        recipe,
        held_out,
        _sample(
            task.train, recipe, spec.pad_id, 6
        ),  # validation rows must not choose the scales that they are to judge
        variations(held_out, spec.pad_id, min(recipe.task.max_length, spec.max_length)),
        list(text.batches(task.validation, BATCH, spec.pad_id, None)),
        GraphOptions(
            opset=recipe.export.opset if opset is None else opset,
            attention=recipe.export.attention,
            norm=recipe.export.norm,
        ),
        recipe.export.int8 if int8 is None else int8,
        threads or detect_machine().usable_cores,
        count_parameters(spec),
    )


def _sample(split: text.Split, recipe: Recipe, pad_id: int, salt: int) -> list[dict[str, Tensor]]:
    count = min(recipe.export.verify_rows, len(split))
    rows = np.random.default_rng([recipe.seed, salt]).permutation(len(split))[:count]
    return list(text.batches(split.take(np.sort(rows)), BATCH, pad_id, None))


def export_model(run: Run, folder: str, encoder: Encoder, job: Job, report: Report) -> dict[str, Any]:
    """Export one checkpoint into a folder of the run and return its rmtkd.json."""
    report("stage", name=folder)
    folded, fold_proof = fold_with_proof(encoder, job.held_out)
    assert isinstance(folded, Encoder)
    report("verified", folder=folder, what="fold", relative=fold_proof.float32)
    shipped, name = standardise(folded), model_id(job.recipe, folder)
    prove_same(folded, shipped, job.held_out)
    write_bundle(run, folder, shipped, job.recipe.task.name)
    path = run.path_of(f"{folder}/{VARIANTS['fp32']}")
    files = export_onnx(shipped, path, job.graph, _metadata(job, shipped, name))
    emitted = audit_emitted(path, shipped.spec, job.graph)
    optimised = {"fp32": audit_optimised(path, shipped.spec, job.graph, "fp32")}
    onnx_proof = verify_onnx(path, shipped, job.shapes, threads=job.threads)
    report("verified", folder=folder, what="onnx", relative=onnx_proof.relative)
    score = evaluate_onnx(open_session(path, threads=job.threads), job.validation)
    variants = {"fp32": variant_facts(path, files, score, onnx_proof)}
    report(
        "variant", folder=folder, precision="fp32", accuracy=score.accuracy, size_bytes=variants["fp32"]["size_bytes"]
    )
    if job.recipe.export.fp16:
        variants["fp16"] = half_variant(
            path, run.path_of(f"{folder}/{VARIANTS['fp16']}"), shipped, score, batches=job.shapes,
            validation=job.validation, threads=job.threads, allowed=job.recipe.export.max_accuracy_drop,
        )  # fmt: skip
        told = {k: variants["fp16"][k] for k in ("accuracy", "size_bytes", "refused")}
        report("variant", folder=folder, precision="fp16", **told)
    if job.int8:
        variants["int8"], optimised["int8"] = _int8(run, folder, path, shipped, score, job)
        report(
            "variant",
            folder=folder,
            precision="int8",
            **{k: variants["int8"][k] for k in ("accuracy", "size_bytes", "refused")},
        )
    parameters = count_parameters(folded.spec)
    return write_facts(
        run,
        folder,
        {
            "model_id": name,
            "task": job.recipe.task.name,
            "metric": "accuracy",
            "max_length": job.recipe.task.max_length,
            "ranks": ranks_of(folded.spec),
            "parameters": parameters,
            "teacher_parameters": job.teacher_parameters,
            "reduction": 1 - parameters / job.teacher_parameters,
            "verification": verification_facts(fold_proof, onnx_proof),
            "variants": variants,
            "fusion": _fusion(emitted, optimised),
            "graph": asdict(job.graph),
            "threads": job.threads,
        },
    )


def _int8(run: Run, folder: str, path: Path, shipped: Encoder, fp32: Score, job: Job) -> tuple[dict[str, Any], Audit]:
    """Write the int8 file, keep it where it loses no more accuracy than the recipe allows, and return its facts."""
    target, options = run.path_of(f"{folder}/{VARIANTS['int8']}"), QuantiseOptions()
    quantise_onnx(path, target, options, calibration=job.calibration, threads=job.threads)
    session = open_session(target, threads=job.threads)
    score, proof = evaluate_onnx(session, job.validation), compare_onnx(session, shipped, job.shapes)
    audit = audit_optimised(target, shipped.spec, job.graph, "int8")
    facts = variant_facts(target, [target], score, proof) | {
        "quantisation": asdict(options)
        | {"calibration_rows": sum(len(batch["input_ids"]) for batch in job.calibration)},
        "refused": None,
    }
    facts["refused"] = refusal(fp32, score, job.recipe.export.max_accuracy_drop)
    if facts["refused"]:
        target.unlink()
    return facts, audit


def _fusion(emitted: Audit, optimised: dict[str, Audit]) -> dict[str, Any]:
    return {**asdict(emitted), "optimised": {precision: asdict(audit) for precision, audit in optimised.items()}}


def _metadata(job: Job, shipped: Encoder, name: str) -> dict[str, str]:
    from rmtkd_edge.run.directory import package_version

    return {
        "rmtkd_version": package_version(),
        "rmtkd_model_id": name,
        "rmtkd_task": job.recipe.task.name,
        "rmtkd_ranks": json.dumps(ranks_of(shipped.spec)),
        "rmtkd_labels": json.dumps(list(shipped.spec.labels)),
    }


def _ready(run: Run, force: bool) -> None:
    if run.stage("compress").get("state") != "done":
        raise RunDirError(
            f"compress has not finished in {run.path}", f"rmtkd-edge compress {run.path}/recipe.toml --out {run.path}"
        )
    if run.stage("export").get("state") == "done" and not force:  # one that was stopped goes on without
        raise RunDirError(f"{run.path}/export exists already", f"rmtkd-edge export {run.path} --force replaces it")


def _silent(kind: str, **facts: Any) -> None:
    return None
