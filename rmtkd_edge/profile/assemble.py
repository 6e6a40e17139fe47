"""From the runner's document to the record of a device: results with their models' facts, comparisons, notes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

from rmtkd_edge.profile.comparison import compare_all
from rmtkd_edge.profile.emulation import disagreements, without_times
from rmtkd_edge.profile.models import ModelFile
from rmtkd_edge.profile.plan import Measurement
from rmtkd_edge.run.layout import model_of
from rmtkd_edge.run.records.base import from_json, to_json
from rmtkd_edge.run.records.profile import ComparisonRecord, FileScore, ProfileRecord


def assemble(document: Mapping[str, Any], measurement: Measurement, where: Path | str) -> ProfileRecord:
    """Return the record of a device from the runner's document.

    Args:
        where: the file that the document is from, for error messages.

    Raises:
        RunDirError: figures that are missing, of another type or out of range.
    """
    m, profile = measurement, measurement.profile
    models = {model.label: model for model in m.exported.models}
    results = [finish(result, models[result["label"]], profile.name) for result in document["results"]]
    comparisons = () if profile.emulated else tuple(compare_all(document["results"], m.seed))
    record = ProfileRecord(
        profile=profile.name,
        title=profile.title,
        comparable=profile.comparable,
        quick=m.quick,
        inputs=f"synthetic: {', '.join(item.name for item in m.exported.spec.inputs)}",
        notes=(*m.notes, *document.get("notes", [])),
        meter=document["meter"],
        hardware=profile.model_dump(mode="json"),
        results=(),
        comparisons=comparisons,
    )
    finished = [without_times(result) if profile.emulated else result for result in results]
    whole = from_json(ProfileRecord, {**to_json(record), "results": finished}, where)
    found = (*does_not_fit(whole), *slower_than_fp32(whole.comparisons), *disagreements(whole))
    return replace(whole, notes=(*whole.notes, *found))


def finish(result: Mapping[str, Any], model: ModelFile, profile: str) -> dict[str, Any]:
    """Return a result with the model's id and score, and the latencies of all rounds as one list in ms."""
    latency = dict(result["latency"])
    rounds = latency.pop("rounds_ns")
    latency["values"] = [ns / 1e6 for ns in chain.from_iterable(rounds)]  # exact: nanoseconds in milliseconds
    latency["round_sizes"] = [len(r) for r in rounds]
    described = {"id": model.facts.model_id, "parameters": model.facts.parameters, **result["model"]}
    score = vars(score_of(model))
    return {**result, "profile": profile, "model": described, "latency": latency, "score": score}


def score_of(model: ModelFile) -> FileScore:
    """Return the primary metric of a file as the export measured it, on test where there is a test split."""
    variant = model.facts.variants.get(model.precision)
    scores = None if variant is None else variant.test or variant.validation
    if scores is None:
        why = "the export recorded no score of this file"
        return FileScore(model.facts.metric, None, None, "measured at export, on the host", why)
    where = f"measured at export, on the host, on the {scores.split} split"
    return FileScore(scores.primary, scores.value, scores.rows, where)


def does_not_fit(record: ProfileRecord) -> list[str]:
    """Return a sentence for every file that the profile's memory does not hold, workload by workload."""
    return [
        f"{r.label} does not fit (batch {r.workload.batch}): {r.memory.limit.why}"
        for r in record.results
        if r.memory.limit is not None and r.memory.limit.fits is False
    ]


def slower_than_fp32(comparisons: tuple[ComparisonRecord, ...]) -> list[str]:
    """Return a sentence for every int8 or fp16 file that is clearly slower here than its own fp32 file."""
    return [
        f"{c.candidate} is refused on this device: it takes {c.ratio:.2f} times as long as {c.baseline} "
        f"(batch {c.workload.batch}, 95 % interval {c.ci95[0]:.2f} to {c.ci95[1]:.2f})"
        for c in comparisons
        if c.ci95 and c.clear and c.ratio > 1 and model_of(c.candidate) == model_of(c.baseline)
    ]
