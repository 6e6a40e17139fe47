"""Exported runs and records of devices, made by hand: no torch, no training, tiny graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from profile_bundle import VOCABULARY, sha256, tiny_encoder

from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import PRECISIONS, ROLES
from rmtkd_edge.run.records.base import from_json
from rmtkd_edge.run.records.export import ExportRecord, FusionRecord, OpCounts, VariantRecord, VerificationRecord
from rmtkd_edge.run.records.profile import MeasurementRecord, ProfileRecord
from rmtkd_edge.run.records.scores import Scores

RECIPE = 'title = "toy"\n[model]\nsource = "scratch"\n[task]\nname = "toy"\ntext = ["sentence"]\n'
POSITIONS = 16
SPEC: dict[str, Any] = {
    "family": "encoder",
    "model_type": "bert",
    "vocab": VOCABULARY,
    "positions": POSITIONS,
    "type_vocab": 2,
    "width": 8,
    "layers": [{"heads": 1, "qk": 8, "value": 8, "ffn": 8, "scale": 1.0}],
    "pooler_width": 8,
    "labels": ["bad", "good"],
    "raw": {},
}


def export_record(variants: dict[str, VariantRecord], files: dict[str, str], name: str = "toy") -> ExportRecord:
    """Return the record of an exported folder."""
    ops = OpCounts({"MatMul": 2}, {"MatMul": 2})
    return ExportRecord(
        model_id=name,
        family="encoder",
        task="toy",
        kind="text-classification",
        metric="accuracy",
        labels=("bad", "good"),
        max_length=POSITIONS,
        ranks={},
        parameters=100,
        teacher_parameters=1000,
        reduction=0.9,
        verification=VerificationRecord(0.0, 0.0, 0.0, 8, ((1, 8),), {}),
        variants=variants,
        fusion=FusionRecord(ops, {"fp32": ops}),
        graph={},
        threads=1,
        files=files,
        versions={},
        onnxruntime="1.18",
    )


def variant(file: str, digest: str, refused: str | None = None) -> VariantRecord:
    """Return one file's record; accuracy is 0.7 on validation and 0.8 on test."""
    validation, test = (
        Scores(split, 100, "accuracy", {"accuracy": value}, None)
        for split, value in (("validation", 0.7), ("test", 0.8))
    )
    return VariantRecord(file, (file,), 1, digest, validation, test, 0.0, 1.0, 8, None, refused)


def exported_run(path: Path, refused: str | None = None, external: bool = False) -> Run:
    """A run with an exported candidate and its baseline; int8 files are other tiny fp32 graphs, which will do here."""
    run = Run.create(path, RECIPE, 0)
    for role, width in (("candidate", 8), ("baseline", 64)):
        folder, variants = ROLES[role].folder, {}
        run.write_json(f"{folder}/config.json", {"rmtkd": {"spec": SPEC}})
        for precision in ("fp32", "int8"):
            rel = PRECISIONS[precision].file
            if precision == "int8" and role == "candidate" and refused:
                variants[precision] = variant(rel, "0" * 64, refused)
                continue
            file = run.path_of(f"{folder}/{rel}")
            variants[precision] = variant(rel, tiny_encoder(file, width, external=external and precision == "fp32"))
        files = {p.relative_to(path / folder).as_posix(): sha256(p) for p in (path / folder).rglob("*") if p.is_file()}
        run.record(folder)
        run.write_record(ROLES[role].record, export_record(variants, files, folder))
    run.mark("export", "done")
    return run


def measurement(label: str = "rmt-kd fp32", ms: float | None = 2.0, **changes: Any) -> dict[str, Any]:
    """Return one result as profile/NAME.json holds it; `changes` replace whole parts."""
    latency: dict[str, Any] = {"unit": "ms", "warmup": 1, "n": 2, "duration_s": 1.0, "values": [1.0, 2.0]}
    latency |= {"round_sizes": [2], "mean": ms, "p50": ms, "p90": None, "p95": None, "p99": None, "stdev": None}
    energy: dict[str, Any] = {"j_per_inf_gross": None, "j_per_inf_net": None, "idle_w": None, "window_s": 1.0}
    energy |= {"meter": "none", "kind": "unavailable", "scope": "nothing", "why": "no meter"}
    model = {"id": "toy", "parameters": 100, "sha256": "0" * 64, "precision": label.split()[-1], "file": "m.onnx"}
    memory = {"peak_rss_bytes": 30_000_000, "rss_after_load_bytes": 1, "repeats": 1, "method": "a test"}
    score = {"metric": "accuracy", "value": 0.8, "n": 100, "provenance": "a test"}
    whole = {
        "schema": "rmtkd-edge/result@2",
        "label": label,
        "role": "baseline" if label.startswith("original") else "candidate",
        "profile": "board",
        "model": {**model, "disk_bytes": 2_000_000, "files": ["m.onnx"]},
        "workload": {"batch": 1, "seq": 8, "scenario": "single_stream"},
        "scenario": "single_stream",
        "env": {},
        "latency": latency,
        "throughput_per_s": 500.0,
        "cpu_s_per_inf": None,
        "cold_start_ms": None,
        "cold_start": {"method": "a test", "raw_ms": [], "session_ms": None},
        "memory": memory,
        "energy": energy,
        "verification": {"max_abs_diff": 0.0, "max_rel_diff": 0.0, "tolerance": 1e-4, "outputs": ["logits"]},
        "quality": {"verdict": "clean"},
        "score": score,
    }
    for key, value in changes.items():
        whole[key] = {**whole[key], **value} if isinstance(value, dict) else value  # type: ignore[dict-item]
    return whole


def measurement_record(label: str = "rmt-kd fp32", ms: float | None = 2.0, **changes: Any) -> MeasurementRecord:
    """Return one result as a record; see measurement."""
    return device_record(measurement(label, ms, **changes)).results[0]


def device_record(*results: dict[str, Any], **changes: Any) -> ProfileRecord:
    """Return the record of a device that these results are of."""
    whole: dict[str, Any] = {
        "schema": ProfileRecord.SCHEMA,
        "profile": "board",
        "title": "A board",
        "comparable": True,
        "quick": True,
        "inputs": "synthetic",
        "notes": [],
        "meter": {},
        "hardware": {"budgets": {}},
        "results": list(results),
        "comparisons": [],
    }
    return from_json(ProfileRecord, {**whole, **changes}, "a test")
