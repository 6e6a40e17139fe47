"""The stage: an exported run and a hardware profile in, profile/<name>.json out."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.errors import UserError
from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.profile.comparison import Comparison, compare
from rmtkd_edge.profile.emulation import disagreements, refuse_disagreement, without_times
from rmtkd_edge.profile.identity import refuse_device
from rmtkd_edge.profile.plan import (
    EMULATED,
    FULL,
    QUICK,
    Arrays,
    Effort,
    Workload,
    ModelFile,
    build_bundle,
    choose_workloads,
    find_models,
)
from rmtkd_edge.profile.reach import Reach, carry_out
from rmtkd_edge.profile.transport_local import Progress

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run

SCHEMA = "rmtkd-edge/profile@2"


def profile_run(
    run: Run,
    profile: HardwareProfile,
    *,
    quick: bool = False,
    workloads: Sequence[Workload] | None = None,
    min_runs: int | None = None,
    min_duration_s: float | None = None,
    meter: str = "auto",
    seed: int = 0,
    inputs: Arrays | None = None,
    progress: Progress | None = None,
    timeout_s: float | None = None,
    host: str | None = None,
    python: str | None = None,
    javascript: Path | None = None,
) -> dict[str, Any]:
    """Measure the run's models under `profile`, write profile/<name>.json and return it.

    On this machine, or over ssh on `host` (or the profile's own), by the Python that `python` names there. javascript:
    the folder of node_modules, for Node and the browser.

    quick: 50 runs and 10 s a model and workload in place of 200 and 60; min_runs and min_duration_s override either.
    workloads: the profile's when None. meter: `auto`, or a name that must be there. inputs: real token ids, see
    plan.build_inputs. A run that was stopped goes on when called again. Raises UserError for a profile of another
    device, RunDirError without an export, ProviderError for a provider or meter that is not there, Finding for
    outputs that differ.
    """
    refuse_device(profile, host, python)
    effort = choose_effort(quick, min_runs, min_duration_s, profile.emulated)
    models, notes = find_models(run)
    chosen, cut = choose_workloads(run, profile, workloads)
    partial = run.path_of(f"profile/{profile.name}.partial")
    run.mark("profile", "running", on=profile.name)
    with tempfile.TemporaryDirectory(prefix="rmtkd-profile-") as folder:
        build_bundle(
            run,
            profile,
            Path(folder),
            models=models,
            workloads=chosen,
            effort=effort,
            meter=meter,
            seed=seed,
            inputs=inputs,
        )
        document = carry_out(Path(folder), partial, profile, Reach(host, timeout_s, python, javascript), progress)
    out = assemble(document, profile, models, [*notes, *cut], seed, quick, synthetic=inputs is None)
    run.write_json(f"profile/{profile.name}.json", out)
    partial.unlink(missing_ok=True)
    run.mark("profile", "done", on=profile.name, results=len(out["results"]))
    refuse_disagreement(out)
    return out


def choose_effort(quick: bool, min_runs: int | None, min_duration_s: float | None, emulated: bool = False) -> Effort:
    """Return how much is measured; raise UserError for a number that makes no sense."""
    effort = EMULATED if emulated else QUICK if quick else FULL
    if min_runs is not None and min_runs < 1:
        raise UserError(f"{min_runs} runs measure nothing", "--iterations wants at least 1")
    if min_duration_s is not None and not 0 <= min_duration_s < float("inf"):
        raise UserError(f"a duration of {min_duration_s} s", "--duration wants seconds, 0 or more")
    runs = effort.min_runs if min_runs is None else min_runs
    return replace(
        effort,
        min_runs=runs,
        min_duration_s=effort.min_duration_s if min_duration_s is None else min_duration_s,
        rounds=min(effort.rounds, runs),
    )


def assemble(
    document: dict[str, Any],
    profile: HardwareProfile,
    models: Sequence[ModelFile],
    notes: Sequence[str],
    seed: int,
    quick: bool,
    *,
    synthetic: bool,
) -> dict[str, Any]:
    """Return the profile's JSON from the runner's document: results with their models' facts, and comparisons."""
    results = document["results"]
    comparisons = [] if profile.emulated else [pair.to_dict() for pair in compare_all(results, seed)]
    facts = {model.label: model for model in models}
    finished = [finish(result, facts[result["label"]], profile.name) for result in results]
    return {
        "schema": SCHEMA,
        "profile": profile.name,
        "title": profile.title,
        "comparable": profile.comparable,
        "quick": quick,
        "inputs": _inputs(results, synthetic),
        "notes": [
            *notes,
            *document.get("notes", []),
            *does_not_fit(results),
            *slower_int8(comparisons),
            *disagreements(results),
        ],
        "meter": document["meter"],
        "hardware": profile.model_dump(mode="json"),
        "results": [without_times(result) if profile.emulated else result for result in finished],
        "comparisons": comparisons,
    }


def _inputs(results: Sequence[dict[str, Any]], synthetic: bool) -> str:
    if any(result["workload"].get("seq") is None for result in results):
        return "synthetic images, normal values"
    return "synthetic token ids, full mask" if synthetic else "token ids of the data set"


def does_not_fit(results: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for every file that the profile's memory does not hold, workload by workload."""
    held = [(r, r["memory"].get("limit") or {}) for r in results]
    return [
        f"{r['label']} does not fit (batch {r['workload']['batch']}): {limit['why']}"
        for r, limit in held
        if limit.get("fits") is False
    ]


def slower_int8(comparisons: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence for every int8 or fp16 file that is clearly slower here than its own fp32 file."""
    return [
        f"{c['candidate']} is refused on this device: it takes {c['ratio']:.2f} times as long as {c['baseline']} "
        f"(batch {c['workload']['batch']}, 95 % interval {c['ci95'][0]:.2f} to {c['ci95'][1]:.2f})"
        for c in comparisons
        if c["clear"] and c["ratio"] > 1 and c["candidate"].split()[:-1] == c["baseline"].split()[:-1]
    ]


def finish(result: dict[str, Any], model: ModelFile, profile: str) -> dict[str, Any]:
    """Return a result with the model's id and accuracy, and the latencies of all rounds as one list in ms."""
    latency = dict(result["latency"])
    rounds = latency.pop("rounds_ns")
    latency["values"] = [ns / 1e6 for ns in chain.from_iterable(rounds)]  # exact: nanoseconds in milliseconds
    latency["round_sizes"] = [len(r) for r in rounds]
    variant = model.facts["variant"]
    accuracy = {"metric": "accuracy", "value": variant.get("accuracy"), "n": variant.get("n")}
    accuracy["provenance"] = "measured at export, on the host"
    if accuracy["value"] is None:
        accuracy["why"] = "the export recorded no accuracy of this file"
    described = {"id": model.facts["id"], "parameters": model.facts["parameters"], **result["model"]}
    return {**result, "profile": profile, "model": described, "latency": latency, "accuracy": accuracy}


def compare_all(results: Sequence[dict[str, Any]], seed: int) -> Iterable[Comparison]:
    """Yield every candidate against every baseline, and int8 against fp32 of the same role, workload by workload."""
    for a in results:
        for b in results:
            against_original = (a["role"], b["role"]) == ("candidate", "baseline")
            precisions = (a["model"]["precision"], b["model"]["precision"])
            against_fp32 = a["role"] == b["role"] and precisions in (("int8", "fp32"), ("fp16", "fp32"))
            if a["workload"] == b["workload"] and (against_original or against_fp32):
                values = (a["latency"]["rounds_ns"], b["latency"]["rounds_ns"])
                yield compare(a["label"], b["label"], "latency_ms", a["workload"], values, seed)
