"""Run directories with invented but schema-true contents, for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmtkd_edge.run import Run, layout
from rmtkd_edge.run.records.base import from_json
from rmtkd_edge.run.records.compress import CompressRecord, StudentRecord, TaskRecord
from rmtkd_edge.run.records.cycle import CycleRecord, SiteRecord
from rmtkd_edge.run.records.data import DataSummary, RowSummary, SourceSummary, SplitSummary
from rmtkd_edge.run.records.export import ExportRecord, FusionRecord, OpCounts, VariantRecord, VerificationRecord
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.records.scores import Scores
from rmtkd_edge.run.records.teacher import TeacherRecord

LABELS = ("original fp32", "original int8", "rmt-kd fp32", "rmt-kd int8")
GROUPS = (
    ("stream", "layer.0.ffn", "layer.0.value", "layer.0.qk"),
    ("layer.1.ffn", "layer.1.value", "layer.1.qk", "layer.2.ffn"),
    ("layer.2.value", "layer.2.qk", "layer.3.ffn"),
    ("layer.3.value", "layer.3.qk", "pooler"),
)
PARAMETERS = (11_171_074, 3_918_402, 3_402_114, 3_120_770, 2_866_690)
ACCURACY = (0.8222, 0.8165, 0.8199, 0.7706, 0.8188)  # of the teacher, then after each cycle
RECIPE = """title = {title}
seed = 0

[model]
family = "encoder"
source = "scratch"

[task]
name = "sst2"
text = ["sentence"]

[stop]
max_drop = 0.02
target_reduction = 0.8
"""


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def spectrum(width: int, n: int, spikes: int, seed: int) -> np.ndarray:
    """Eigenvalues, descending, of noise plus `spikes` directions whose strength falls as a power of their rank."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((width, n)) * np.exp(0.15 * rng.standard_normal((width, 1)))
    x[:spikes] *= np.sqrt(60.0 * np.arange(1, spikes + 1) ** -1.1 + 1.2)[:, None]
    return np.linalg.eigvalsh(x @ x.T / n)[::-1].copy()


def scores(value: float, split: str = "validation", interval: bool = False, metric: str = "accuracy") -> Scores:
    rows = 872 if split == "validation" else 1821
    half = 1.96 * (value * (1 - value) / rows) ** 0.5
    return Scores(split, rows, metric, {metric: value}, (value - half, value + half) if interval else None)


def site(name: str, scale: int, seed: int) -> tuple[SiteRecord, np.ndarray]:
    width = (1024 if name.endswith("ffn") else 256) // scale
    n, spikes = 6735 // scale, max(3, int(width * (0.15 + 0.03 * (seed % 7))))
    values = spectrum(width, n, spikes, seed)
    q = width / n
    sigma2 = float(np.median(values)) * 0.97
    edge, low = sigma2 * (1 + q**0.5) ** 2, sigma2 * (1 - q**0.5) ** 2
    rank = int((values > edge).sum())
    aligned = min(-(-rank // 8) * 8, width)
    facts = SiteRecord(
        name=name,
        kind=name.split(".")[-1],
        heads=4 if name.endswith(("qk", "value")) else 1,
        width_before=width,
        width_after=aligned,
        rule="window",
        quantile=0.5,
        weighting="effect",
        lambda_plus=edge,
        lambda_minus=low,
        sigma2=sigma2,
        q=q,
        n=n,
        n_eff=n * 0.83,
        rank=rank,
        aligned_rank=aligned,
        note="",
    )
    return facts, values


def cycles(scale: int) -> list[tuple[CycleRecord, dict[str, torch.Tensor]]]:
    found, parameters, accuracy = [], PARAMETERS[0], ACCURACY[0]
    for index, names in enumerate(GROUPS, 1):
        pairs = [site(name, scale, 10 * index + i) for i, name in enumerate(names)]
        accepted = ACCURACY[index] > 0.8
        cycle = CycleRecord(
            index=index,
            round=1,
            retry=False,
            sites=tuple(p[0] for p in pairs),
            quantile=0.5,
            parameters_before=parameters,
            parameters_after=PARAMETERS[index],
            before=scores(accuracy),
            closed_form=scores(ACCURACY[index] - 0.0138),
            after=scores(ACCURACY[index], interval=True),
            chosen="fine_tuned",
            accepted=accepted,
            reason="above the floor" if accepted else "validation accuracy stayed under the floor of 80.2 %",
            steps=400,
            seconds={"analyse": 14.2 + index, "warm_start": 8.75, "fine_tune": 212.6 + 3 * index},
        )
        found.append((cycle, {f"{p[0].name}.eigenvalues": torch.from_numpy(p[1]) for p in pairs}))
        if accepted:
            parameters, accuracy = PARAMETERS[index], ACCURACY[index]
    return found


def teacher(tested: bool = True) -> TeacherRecord:
    test = scores(0.8131, "test", interval=True) if tested else None
    return TeacherRecord(PARAMETERS[0], "scratch", True, 1312.0, scores(ACCURACY[0], interval=True), test)


def read_data() -> DataSummary:
    """What compress read: a row whose text would be markup, and a file that was left alone."""
    return DataSummary(
        name="sst2",
        kind="text-classification",
        sources=(SourceSummary("train", "train.csv", 7000, {}, {}),),
        splits={"train": SplitSummary(6920, {"negative": 3310, "positive": 3610}, 173)},
        max_length=64,
        not_used="not used of sst2: 1 (dev.csv)",
        first_rows=(RowSummary("negative", "[CLS] a <b>dull</b> | film [SEP] (9 tokens)"),),
        notes=("train 6920 rows of train.csv",),
    )


def compress_result(
    parts: list[CycleRecord], title: str = "", method: str = "rmt-kd", tested: bool = True
) -> CompressRecord:
    test = scores(0.8092, "test", interval=True) if tested else None
    return CompressRecord(
        method=method,
        title=title,
        stop="all_sites_done",
        task=TaskRecord(
            "sst2", "text-classification", "accuracy", ("negative", "positive"), 67349, 872, 1821 if tested else None
        ),
        teacher=teacher(tested),
        student=StudentRecord(PARAMETERS[-1], scores(ACCURACY[-1], interval=True), test),
        reduction=1 - PARAMETERS[-1] / PARAMETERS[0],
        drop=ACCURACY[0] - ACCURACY[-1],
        floor=ACCURACY[0] - 0.02,
        cycles=tuple(parts),
        ranks={s.name: s.width_after for c in parts if c.accepted for s in c.sites},
        seed=0,
        one_shot=False,
        processes=1,
        device="cpu",
        seconds=978.0,
        notes=(),
    )


def variant(name: str, original: bool, tested: bool = True) -> VariantRecord:
    index = ("fp32", "int8").index(name)
    size = ((44_912_871, 11_398_120) if original else (11_702_413, 3_011_540))[index]
    validation, test = (((0.8222, 0.8131), (0.8211, 0.8118)) if original else ((0.8188, 0.8092), (0.8165, 0.8083)))[
        index
    ]
    file = layout.PRECISIONS[name].file
    return VariantRecord(
        file=file,
        files=(file,),
        size_bytes=size,
        sha256=f"{7 * index + original:x}" * 64,
        validation=scores(validation, interval=True),
        test=scores(test, "test", interval=True) if tested else None,
        relative_difference=2.3e-6,
        agreement=1.0,
        compared_rows=64,
    )


def exported(original: bool, ranks: dict[str, int], tested: bool = True) -> ExportRecord:
    expected = {"MultiHeadAttention": 4, "SkipLayerNormalization": 8}
    return ExportRecord(
        model_id="sst2-4x256",
        family="encoder",
        task="sst2",
        kind="text-classification",
        metric="accuracy",
        labels=("negative", "positive"),
        max_length=128,
        ranks={} if original else ranks,
        parameters=PARAMETERS[0] if original else PARAMETERS[-1],
        teacher_parameters=PARAMETERS[0],
        reduction=0.0 if original else 1 - PARAMETERS[-1] / PARAMETERS[0],
        verification=VerificationRecord(
            3.1e-14,
            8.4e-7,
            2.3e-6,
            64,
            ((32, 64), (1, 3)),
            {"fold_float64": 1e-9, "fold_float32": 1e-4, "onnx_float32": 1e-4},
        ),
        variants={name: variant(name, original, tested) for name in ("fp32", "int8")},
        fusion=FusionRecord(OpCounts(expected, {**expected, "BiasGelu": 4}), {"fp32": OpCounts(expected, expected)}),
        graph={"name": "fast", "opset": 18},
        threads=1,
        files={},
        versions={"torch": "2.14.1", "onnx": "1.23.0", "onnxruntime": "1.31.1", "transformers": "5.23.0"},
    )


def result(
    label: str, batch: int, seq: int, device: float, metered: bool, verdict: str, profile: str
) -> dict[str, Any]:
    speed = dict(zip(LABELS, (1.0, 0.43, 0.31, 0.19), strict=True))[label]
    p50 = 0.0611 * batch * seq * speed * device + 0.21
    n = 1200 if batch == 1 else 160
    rng = np.random.default_rng([batch, seq, LABELS.index(label)])
    rounds_ns = [
        (p50 * 1e6 * (1 + 0.008 * rng.standard_normal() + 0.03 * rng.standard_normal(n // 10))).astype(int).tolist()
        for _ in range(10)
    ]
    energy: dict[str, Any] = {
        "j_per_inf_gross": None,
        "j_per_inf_net": None,
        "idle_w": None,
        "window_s": 12.4,
        "scope": "nothing",
        "kind": "unavailable",
        "meter": "none",
        "why": "no energy counter can be read on this device",
    }
    if metered:
        energy = {
            "j_per_inf_gross": p50 * 0.0093,
            "j_per_inf_net": p50 * 0.0061,
            "idle_w": 3.17,
            "window_s": 12.4,
            "scope": "package",
            "meter": "rapl:package-0",
            "kind": "measured-counter",
        }
    return {
        "schema": "rmtkd-edge/result@2",
        "label": label,
        "role": "candidate" if label.startswith("rmt") else "baseline",
        "model": {
            "id": f"sst2-4x256 {label}",
            "sha256": f"{7 * ('int8' in label) + label.startswith('original'):x}" * 64,
            "precision": label.split()[1],
            "disk_bytes": (44_912_871, 11_398_120, 11_702_413, 3_011_540)[LABELS.index(label)],
            "parameters": 1000,
            "file": "model.onnx",
            "files": ["model.onnx"],
        },
        "profile": profile,
        "workload": {"batch": batch, "seq": seq, "scenario": "single_stream" if batch == 1 else "offline"},
        "scenario": "single_stream" if batch == 1 else "offline",
        "env": {
            "onnxruntime": "1.31.1",
            "providers_requested": ["CPUExecutionProvider"],
            "providers_actual": ["CPUExecutionProvider"],
            "cpu_model": "Cortex-A76" if device > 1 else "Xeon, AVX-512 VNNI",
            "threads": 1,
            "spinning": False,
            "governor": None,
        },
        "latency": {
            "unit": "ms",
            "warmup": 20,
            "n": n,
            "duration_s": n * p50 / 1e3,
            "mean": p50 * 1.013,
            "p50": p50,
            "p90": p50 * 1.061,
            "p95": p50 * 1.094,
            "p99": p50 * 1.31 if n >= 1000 else None,
            "p99_why": None if n >= 1000 else f"p99 needs 1000 samples, there are {n}",
            "stdev": p50 * 0.043,
            "values": [ns / 1e6 for block in rounds_ns for ns in block],
            "round_sizes": [len(block) for block in rounds_ns],
        },
        "throughput_per_s": 1e3 * batch / p50,
        "cold_start_ms": 38.2 + 41 * speed,
        "cold_start": {"method": "process start to first output", "raw_ms": [38.2 + 41 * speed], "session_ms": 20.0},
        "cpu_s_per_inf": p50 / 1e3 * 0.992,
        "memory": {
            "peak_rss_bytes": int(2.2e7 + 9.1e7 * speed + 4e4 * batch * seq * speed),
            "rss_after_load_bytes": int(1.8e7 + 8.3e7 * speed),
            "repeats": 3,
            "method": "VmHWM",
        },
        "energy": energy,
        "score": {"metric": "accuracy", "value": 0.8092, "n": 1821, "provenance": "measured at export, on the host"},
        "quality": {
            "cpu_wall_ratio": 0.994 if verdict == "clean" else 0.71,
            "steal_pct": 0.0 if verdict == "clean" else 6.4,
            "throttled": False,
            "verdict": verdict,
            "reasons": [] if verdict == "clean" else ["others kept 1.4 of 2 processors busy"],
        },
        "verification": {"max_abs_diff": 1.7e-6, "max_rel_diff": 9.2e-7, "tolerance": 1e-4, "outputs": ["logits"]},
    }


def profiled(name: str, device: float, metered: bool, contended: bool = False) -> dict[str, Any]:
    loads = ((1, 16), (1, 64), (1, 128), (8, 128))
    results = [
        result(label, b, s, device, metered, "contended" if contended and b == 8 else "clean", name)
        for b, s in loads
        for label in LABELS
    ]
    pairs = []
    for b, s in loads:
        base = next(
            r for r in results if r["label"] == LABELS[0] and r["workload"]["batch"] == b and r["workload"]["seq"] == s
        )
        for label in LABELS[1:]:
            mine = next(
                r for r in results if r["label"] == label and r["workload"]["batch"] == b and r["workload"]["seq"] == s
            )
            ratio = mine["latency"]["p50"] / base["latency"]["p50"]
            pairs.append(
                {
                    "candidate": label,
                    "baseline": LABELS[0],
                    "metric": "latency_ms",
                    "workload": {"batch": b, "seq": s},
                    "ratio": ratio,
                    "ci95": [ratio * 0.964, ratio * 1.037],
                    "n": 120,
                    "rounds": 10,
                    "clear": True,
                }
            )
    return {
        "schema": ProfileRecord.SCHEMA,
        "profile": name,
        "title": f"A {name}",
        "comparable": True,
        "quick": False,
        "inputs": "synthetic token ids, full mask",
        "notes": [],
        "meter": {},
        "hardware": {"emulated": False},
        "results": results,
        "comparisons": pairs,
    }


def build_run(
    path: Path,
    title: str = "BERT 4 × 256 on SST-2",
    stages: str = "compress export profile",
    scale: int = 8,
    tested: bool = True,
) -> Run:
    """Create a run directory with the named stages; `scale` divides widths and sample counts to keep tests quick."""
    run = Run.create(path, RECIPE.format(title=quoted(title)), seed=0)
    ranks: dict[str, int] = {}
    if "compress" in stages:
        parts = cycles(scale)
        for cycle, tensors in parts:
            run.write_record(layout.cycle_record(cycle.index), cycle)
            run.write_tensors(layout.cycle_spectra(cycle.index), tensors)
        whole = compress_result([cycle for cycle, _ in parts], title, tested=tested)
        ranks = whole.ranks
        run.write_record(layout.DATA, read_data())
        run.write_record(layout.TEACHER_RECORD, whole.teacher)
        run.write_record(layout.RESULT, whole)
        run.mark("compress", "done")
    if "export" in stages:
        run.write_record("export/rmtkd.json", exported(False, ranks, tested))
        run.write_record("baseline/rmtkd.json", exported(True, {}, tested))
        run.mark("export", "done")
    if "profile" in stages:
        write_profile(run, profiled("laptop", 1.0, metered=True))
        write_profile(run, profiled("raspberry-pi-5", 5.3, metered=False, contended=True))
        run.mark("profile", "done")
    return run


def write_profile(run: Run, data: dict[str, Any]) -> None:
    """Write a profile's JSON as the stage does."""
    run.write_record(layout.profile_record(data["profile"]), from_json(ProfileRecord, data, data["profile"]))
