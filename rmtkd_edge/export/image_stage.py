"""The export stage for images: two folders of a ResNet, the compressed one and its baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from torch import Tensor

from rmtkd_edge.errors import DataError, Finding
from rmtkd_edge.export.bundle import CONFIG, VARIANTS, WEIGHTS, write_facts
from rmtkd_edge.families.resnet.quantise import quantise_convnet
from rmtkd_edge.families.resnet.graph import export_convnet
from rmtkd_edge.export.facts import ROLES, export_both, model_id, refusal, variant_facts, verification_facts
from rmtkd_edge.export.fold_proof import fold_with_proof
from rmtkd_edge.families.encoder.graph import GraphOptions
from rmtkd_edge.export.half import half_variant
from rmtkd_edge.sessions import open_session
from rmtkd_edge.export.verify import FLOAT32_TOLERANCE, Score, compare_onnx, evaluate_onnx
from rmtkd_edge.families.resnet.module import ConvNet, ProjectedConv
from rmtkd_edge.families.encoder.spec import count_parameters, ranks_of
from rmtkd_edge.families.store import SCHEMA, load_model
from rmtkd_edge.config.hardware import load_profile
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.directory import Run, package_version
from rmtkd_edge.tasks import image_classification as image

PREPROCESSOR = "preprocessor_config.json"
BATCH = 64
SUMS_IN_32_BITS = {"avx512-vnni", "avx-vnni", "neon"}  # x86 without VNNI adds pairs of products in 16 bits
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Job:
    """What both folders are made with."""

    recipe: Recipe
    held_out: Sequence[Batch]
    calibration: Sequence[Batch]
    validation: Sequence[Batch]
    graph: GraphOptions
    int8: bool
    reduce_range: bool
    threads: int
    teacher_parameters: int


def export_images(
    run: Run, recipe: Recipe, *, graph: GraphOptions, int8: bool, data: Path | None, threads: int | None,
    report: Callable[..., None],
) -> dict[str, Any]:  # fmt: skip
    """Export both folders of an image run and return export/rmtkd.json; raise DataError or Finding."""
    known = run.stage("compress").get("data")
    task = image.load_image_task(recipe.task, data or (Path(known) if known else None), recipe.seed)
    teacher = load_model(run, ROLES["baseline"])
    job = make_job(recipe, task, teacher, graph, int8, threads)
    return export_both(
        run, job.threads, lambda folder, checkpoint: export_net(run, folder, load_model(run, checkpoint), job, report)
    )


def make_job(
    recipe: Recipe, task: image.ImageTask, teacher: ConvNet, graph: GraphOptions, int8: bool, threads: int | None
) -> Job:
    """Return what both folders are made with; raise DataError where the data are not those of the model."""
    spec = teacher.spec
    if list(task.labels) != list(spec.labels) or task.image_size != spec.image_size:
        raise DataError(
            f"the data have the labels {task.labels} at {task.image_size} pixels, the model {list(spec.labels)} at "
            f"{spec.image_size}",
            "give the data that compress used: --data",
        )

    def sampled(split: image.ImageSplit, salt: int) -> list[Batch]:
        count = min(recipe.export.verify_rows, len(split))
        rows = np.random.default_rng([recipe.seed, salt]).permutation(len(split))[:count]
        return list(image.batches(split.take(np.sort(rows)), BATCH, spec.mean, spec.std, None))

    machine = detect_machine()
    return Job(
        recipe, sampled(task.validation, 5), sampled(task.train, 6),
        list(image.batches(task.validation, BATCH, spec.mean, spec.std, None)),
        graph, int8, saturates(recipe, machine.instruction_sets), threads or machine.usable_cores,
        count_parameters(spec),
    )  # fmt: skip


def saturates(recipe: Recipe, here: Sequence[str]) -> bool:
    """Return whether int8 sums saturate on the target: the recipe's hardware profile, else this machine (`here`)."""
    profile = load_profile(recipe.stop.profile) if recipe.stop.profile else None
    return not SUMS_IN_32_BITS & set(profile.instruction_sets if profile else here)


def export_net(run: Run, folder: str, net: ConvNet, job: Job, report: Callable[..., None]) -> dict[str, Any]:
    """Export one checkpoint into a folder of the run and return its rmtkd.json."""
    report("stage", name=folder)
    folded, fold_proof = fold_with_proof(net, job.held_out)
    assert isinstance(folded, ConvNet)
    report("verified", folder=folder, what="fold", relative=fold_proof.float32)
    name = model_id(job.recipe, folder)
    write_folder(run, folder, folded, job.recipe.task.name)
    path = run.path_of(f"{folder}/{VARIANTS['fp32']}")
    files = export_convnet(folded, path, job.graph, _metadata(job, folded, name))
    one = [{key: value[:1] for key, value in job.held_out[0].items()}]
    proof = compare_onnx(open_session(path, threads=job.threads), folded, [*job.held_out, *one])
    if not proof.relative <= FLOAT32_TOLERANCE:
        raise Finding(
            f"{path.name} differs from folded torch by {proof.relative:.1e} of the largest logit "
            f"(allowed {FLOAT32_TOLERANCE:.0e})",
            "report this with the run's recipe.toml",
        )
    report("verified", folder=folder, what="onnx", relative=proof.relative)
    score = evaluate_onnx(open_session(path, threads=job.threads), job.validation)
    variants = {"fp32": variant_facts(path, files, score, proof)}
    _tell(report, folder, "fp32", variants)
    if job.recipe.export.fp16:
        variants["fp16"] = half_variant(
            path, run.path_of(f"{folder}/{VARIANTS['fp16']}"), folded, score, batches=job.held_out,
            validation=job.validation, threads=job.threads, allowed=job.recipe.export.max_accuracy_drop,
        )  # fmt: skip
        _tell(report, folder, "fp16", variants)
    if job.int8:
        variants["int8"] = _int8(run, folder, path, folded, score, job)
        _tell(report, folder, "int8", variants)
    parameters = count_parameters(folded.spec)
    convs = sum(isinstance(module, ProjectedConv) for module in folded.modules())
    found = sum(node.op_type == "Conv" for node in onnx.load(str(path)).graph.node)
    return write_facts(run, folder, {
        "model_id": name, "task": job.recipe.task.name, "metric": "accuracy", "image_size": folded.spec.image_size,
        "ranks": ranks_of(folded.spec), "parameters": parameters, "teacher_parameters": job.teacher_parameters,
        "reduction": 1 - parameters / job.teacher_parameters, "verification": verification_facts(fold_proof, proof),
        "variants": variants, "fusion": {"expected": {"Conv": convs}, "found": {"Conv": found}},
        "graph": {"opset": job.graph.opset}, "threads": job.threads,
    })  # fmt: skip


def write_folder(run: Run, folder: str, folded: ConvNet, task: str) -> None:
    """Write config.json, preprocessor_config.json and the weights, under this package's names."""
    spec = folded.spec
    run.write_json(f"{folder}/{CONFIG}", {
        "model_type": "resnet", "architectures": ["ResNetForImageClassification"], "num_channels": 3,
        "id2label": {str(i): name for i, name in enumerate(spec.labels)},
        "label2id": {name: i for i, name in enumerate(spec.labels)},
        "rmtkd": {"schema": SCHEMA, "spec": spec.to_dict(), "task": task, "version": package_version()},
    })  # fmt: skip
    run.write_json(f"{folder}/{PREPROCESSOR}", image.preprocessor_config(spec.mean, spec.std, spec.image_size))
    run.write_tensors(f"{folder}/{WEIGHTS}", folded.state_dict())


def _int8(run: Run, folder: str, path: Path, folded: ConvNet, fp32: Score, job: Job) -> dict[str, Any]:
    target = run.path_of(f"{folder}/{VARIANTS['int8']}")
    images = [batch["pixel_values"].numpy() for batch in job.calibration]
    quantise_convnet(path, target, images, reduce_range=job.reduce_range)
    session = open_session(target, threads=job.threads)
    score, proof = evaluate_onnx(session, job.validation), compare_onnx(session, folded, job.held_out)
    facts = variant_facts(target, [target], score, proof) | {
        "quantisation": {"format": "QDQ", "per_channel": True, "reduce_range": job.reduce_range}
        | {"calibration_rows": sum(map(len, images))},
        "refused": refusal(fp32, score, job.recipe.export.max_accuracy_drop),
    }
    if facts["refused"]:
        target.unlink()
    return facts


def _tell(report: Callable[..., None], folder: str, precision: str, variants: dict[str, Any]) -> None:
    keys = ("accuracy", "size_bytes", "refused")
    report("variant", folder=folder, precision=precision, **{k: variants[precision].get(k) for k in keys})


def _metadata(job: Job, folded: ConvNet, name: str) -> dict[str, str]:
    return {
        "rmtkd_version": package_version(), "rmtkd_model_id": name, "rmtkd_task": job.recipe.task.name,
        "rmtkd_ranks": json.dumps(ranks_of(folded.spec)), "rmtkd_labels": json.dumps(list(folded.spec.labels)),
    }  # fmt: skip
