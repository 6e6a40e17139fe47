"""Run directories with invented but schema-true contents, for the tests of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmtkd_edge.run.directory import Run

LABELS = ("original fp32", "original int8", "rmt-kd fp32", "rmt-kd int8")
GROUPS = (
    ("stream", "layer.0.ffn", "layer.0.value", "layer.0.qk"),
    ("layer.1.ffn", "layer.1.value", "layer.1.qk", "layer.2.ffn"),
    ("layer.2.value", "layer.2.qk", "layer.3.ffn"),
    ("layer.3.value", "layer.3.qk", "head"),
)
PARAMETERS = (11_171_074, 3_918_402, 3_402_114, 3_120_770, 2_866_690)
ACCURACY = (0.8222, 0.8165, 0.8199, 0.7706, 0.8188)  # of the teacher, then after each cycle
RECIPE = """title = {title}
seed = 0

[model]
family = "bert"
source = "scratch"

[task]
name = "sst2"
text = ["sentence"]

[stop]
max_accuracy_drop = 0.02
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


def site(name: str, scale: int, seed: int) -> tuple[dict[str, Any], np.ndarray]:
    width = (1024 if name.endswith("ffn") else 256) // scale
    n, spikes = 6735 // scale, max(3, int(width * (0.15 + 0.03 * (seed % 7))))
    values = spectrum(width, n, spikes, seed)
    q = width / n
    sigma2 = float(np.median(values)) * 0.97
    edge, low = sigma2 * (1 + q**0.5) ** 2, sigma2 * (1 - q**0.5) ** 2
    rank = int((values > edge).sum())
    aligned = min(-(-rank // 8) * 8, width)
    facts = {
        "name": name,
        "kind": name.split(".")[-1],
        "width_before": width,
        "width_after": aligned,
        "heads": 4 if name.endswith(("qk", "value")) else 1,
        "raw_width": width,
        "rule": "window",
        "quantile": 0.5,
        "weighting": "effect",
        "lambda_plus": edge,
        "lambda_minus": low,
        "sigma2": sigma2,
        "q": q,
        "n": n,
        "n_eff": n * 0.83,
        "rank": rank,
        "aligned_rank": aligned,
        "note": "",
    }
    return facts, values


def cycles(scale: int) -> list[tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    found, before, accuracy = [], PARAMETERS[0], ACCURACY[0]
    for index, names in enumerate(GROUPS, 1):
        pairs = [site(name, scale, 10 * index + i) for i, name in enumerate(names)]
        accepted = ACCURACY[index] > 0.8
        cycle = {
            "index": index,
            "round": 1,
            "sites": [p[0] for p in pairs],
            "parameters_before": before,
            "parameters_after": PARAMETERS[index],
            "accuracy_before": accuracy,
            "accuracy_closed_form": ACCURACY[index] - 0.0138,
            "accuracy_after": ACCURACY[index],
            "chosen": "fine_tuned",
            "accepted": accepted,
            "reason": "above the floor" if accepted else "validation accuracy stayed under the floor of 80.2 %",
            "seconds": {"analyse": 14.2 + index, "warm_start": 8.75, "fine_tune": 212.6 + 3 * index},
            "steps": 400,
        }
        found.append((cycle, {f"{p[0]['name']}.eigenvalues": torch.from_numpy(p[1]) for p in pairs}))
        if accepted:
            before, accuracy = PARAMETERS[index], ACCURACY[index]
    return found


def compress_result(parts: list[dict[str, Any]]) -> dict[str, Any]:
    ranks = {s["name"]: s["width_after"] for c in parts if c["accepted"] for s in c["sites"]}
    return {
        "schema": "rmtkd-edge/compress@1",
        "stop": "all_sites_done",
        "task": {"name": "sst2", "metric": "accuracy", "train_rows": 67349, "validation_rows": 872},
        "teacher": {"parameters": PARAMETERS[0], "accuracy": ACCURACY[0], "trained": True, "seconds": 1312.0},
        "student": {"parameters": PARAMETERS[-1], "accuracy": ACCURACY[-1]},
        "reduction": 1 - PARAMETERS[-1] / PARAMETERS[0],
        "accuracy_drop": ACCURACY[0] - ACCURACY[-1],
        "cycles": parts,
        "ranks": ranks,
        "seed": 0,
        "one_shot": False,
        "seconds": 978.0,
    }


def exported(original: bool, ranks: dict[str, int]) -> dict[str, Any]:
    size, accuracy = (
        (44_912_871, 11_398_120) if original else (11_702_413, 3_011_540),
        (0.8222, 0.8211) if original else (0.8188, 0.8165),
    )
    variants = {
        name: {
            "file": f"onnx/{file}.onnx",
            "size_bytes": size[i],
            "sha256": f"{7 * i + original:x}" * 64,
            "accuracy": accuracy[i],
            "n": 872,
            "relative_difference": 2.3e-6,
            "argmax_agreement": 1.0,
            "refused": None,
        }
        for i, (name, file) in enumerate((("fp32", "model"), ("int8", "model_quantized")))
    }
    return {
        "schema": "rmtkd-edge/export@1",
        "model_id": "sst2-4x256",
        "task": "sst2",
        "ranks": {} if original else ranks,
        "parameters": PARAMETERS[0] if original else PARAMETERS[-1],
        "teacher_parameters": PARAMETERS[0],
        "reduction": 0.0 if original else 1 - PARAMETERS[-1] / PARAMETERS[0],
        "verification": {
            "fold_float64": 3.1e-14,
            "fold_float32": 8.4e-7,
            "onnx_float32": 2.3e-6,
            "rows": 64,
            "tolerances": {"fold_float64": 1e-9, "fold_float32": 1e-4, "onnx_float32": 1e-4},
        },
        "variants": variants,
        "fusion": {
            "expected": {"MultiHeadAttention": 4, "SkipLayerNormalization": 8},
            "found": {"MultiHeadAttention": 4, "SkipLayerNormalization": 8, "BiasGelu": 4},
        },
        "versions": {"torch": "2.14.1", "onnx": "1.23.0", "onnxruntime": "1.31.1", "transformers": "5.23.0"},
    }


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
        "kind": "unavailable",
        "meter": None,
        "why": "no energy counter can be read on this device",
    }
    if metered:
        energy = {
            "j_per_inf_gross": p50 * 0.0093,
            "j_per_inf_net": p50 * 0.0061,
            "idle_w": 3.17,
            "window_s": 12.4,
            "meter": "rapl:package-0",
            "kind": "measured-counter",
        }
    return {
        "schema": "rmtkd-edge/result@1",
        "label": label,
        "role": "candidate" if label.startswith("rmt") else "baseline",
        "model": {
            "id": f"sst2-4x256 {label}",
            "sha256": f"{7 * ('int8' in label) + label.startswith('original'):x}" * 64,
            "precision": label.split()[1],
            "disk_bytes": (44_912_871, 11_398_120, 11_702_413, 3_011_540)[LABELS.index(label)],
            "files": ["model.onnx"],
        },
        "profile": profile,
        "load": {"batch": batch, "seq": seq, "scenario": "single_stream" if batch == 1 else "offline"},
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
            "stdev": p50 * 0.043,
            "values": [ns / 1e6 for block in rounds_ns for ns in block],
            "round_sizes": [len(block) for block in rounds_ns],
        },
        "throughput_per_s": 1e3 * batch / p50,
        "cold_start_ms": 38.2 + 41 * speed,
        "cpu_s_per_inf": p50 / 1e3 * 0.992,
        "memory": {
            "peak_rss_bytes": int(2.2e7 + 9.1e7 * speed + 4e4 * batch * seq * speed),
            "rss_after_load_bytes": int(1.8e7 + 8.3e7 * speed),
            "method": "VmHWM",
        },
        "energy": energy,
        "accuracy": {"metric": "accuracy", "value": None, "why": "accuracy was not asked of this device"},
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
        base = next(r for r in results if r["label"] == LABELS[0] and r["load"]["batch"] == b and r["load"]["seq"] == s)
        for label in LABELS[1:]:
            mine = next(r for r in results if r["label"] == label and r["load"]["batch"] == b and r["load"]["seq"] == s)
            ratio = mine["latency"]["p50"] / base["latency"]["p50"]
            pairs.append(
                {
                    "candidate": label,
                    "baseline": LABELS[0],
                    "metric": "latency_ms",
                    "load": {"batch": b, "seq": s},
                    "ratio": ratio,
                    "ci95": [ratio * 0.964, ratio * 1.037],
                    "n": 120,
                }
            )
    return {"schema": "rmtkd-edge/profile@1", "profile": name, "results": results, "comparisons": pairs}


def build_run(
    path: Path, title: str = "BERT 4 × 256 on SST-2", stages: str = "compress export profile", scale: int = 8
) -> Run:
    """Create a run directory with the named stages; `scale` divides widths and sample counts to keep tests quick."""
    run = Run.create(path, RECIPE.format(title=quoted(title)), seed=0)
    ranks: dict[str, int] = {}
    if "compress" in stages:
        parts = cycles(scale)
        for cycle, tensors in parts:
            run.write_json(f"compress/cycles/{cycle['index']:03d}/cycle.json", cycle)
            run.write_tensors(f"compress/cycles/{cycle['index']:03d}/spectra.safetensors", tensors)
        whole = compress_result([cycle for cycle, _ in parts])
        ranks = whole["ranks"]
        run.write_json("compress/result.json", whole)
        run.mark("compress", "done")
    if "export" in stages:
        run.write_json("export/rmtkd.json", exported(False, ranks))
        run.write_json("baseline/rmtkd.json", exported(True, {}))
        run.mark("export", "done")
    if "profile" in stages:
        run.write_json("profile/laptop.json", profiled("laptop", 1.0, metered=True))
        run.write_json("profile/raspberry-pi-5.json", profiled("raspberry-pi-5", 5.3, metered=False, contended=True))
        run.mark("profile", "done")
    return run
