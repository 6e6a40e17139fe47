"""From blocks and probes to the result of one model under one workload."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from .basics import Json, cell_key, workload_key
from .energy import energy
from .probes import median, memory
from .quality import cpu_seconds, quality
from .sessions import settings_of

PERCENTILES = {"p50": (50, 1), "p90": (90, 100), "p95": (95, 100), "p99": (99, 1000)}  # name: percentile, samples


def latency(blocks: list[Json], warmup: int, turns: int = 1) -> Json:
    """Return the latency of one call in ms: percentiles where there are samples enough, else None; raw ns by round.

    turns: blocks that make up a round.
    """
    values = np.array([ns for b in blocks for ns in b["ns"]], dtype=np.float64) / 1e6
    out: Json = {
        "unit": "ms",
        "warmup": warmup,
        "n": len(values),
        "duration_s": sum(b["wall_ns"] for b in blocks) / 1e9,
    }
    out["mean"] = float(values.mean())
    for name, (percent, needs) in PERCENTILES.items():
        enough = len(values) >= needs
        out[name] = float(np.percentile(values, percent)) if enough else None
        if not enough:
            out[name + "_why"] = f"{name} needs {needs} samples, there are {len(values)}"
    out["stdev"] = float(values.std(ddof=1)) if len(values) > 1 else None
    rounds = [blocks[i : i + turns] for i in range(0, len(blocks), turns)]
    return {**out, "rounds_ns": [[ns for block in taken for ns in block["ns"]] for taken in rounds]}


def result_of(plan: Json, plan_path: Path, doc: Json, model: Json, workload: Json, engine: Any) -> Json:
    """Return one result: a model under a workload."""
    cell, probes = doc["cells"][cell_key(model, workload)], doc["probes"][cell_key(model, workload)]
    blocks, bare = cell["blocks"], doc["probes"]["import"]
    timing, files = (
        latency(blocks, plan["warmup"], doc["turns"][workload_key(workload)]),
        [model, *model.get("external", [])],
    )
    timing["openings"] = doc["openings"]  # times that all sessions were opened
    judged = quality(blocks, settings_of(plan, model), doc["env"]["cpus"] or 1)
    if timing["stdev"] is not None and timing["stdev"] > 0.1 * timing["mean"]:
        judged["reasons"].append(
            f"the standard deviation is {100 * timing['stdev'] / timing['mean']:.0f} % of the mean"
        )
    described, cpu = {key: model[key] for key in ("sha256", "precision", "file")}, cpu_seconds(blocks)
    described["disk_bytes"] = sum((plan_path.parent / part["file"]).stat().st_size for part in files)
    described["files"] = [part["file"] for part in files]
    return {
        "schema": "rmtkd-edge/result@2",
        "label": model["label"],
        "role": model["role"],
        "model": described,
        "workload": {**workload, "scenario": "single_stream" if workload["batch"] == 1 else "offline"},
        "scenario": "single_stream" if workload["batch"] == 1 else "offline",
        "env": doc["env"],
        "latency": timing,
        "throughput_per_s": workload["batch"] / timing["p50"] * 1e3,
        "cpu_s_per_inf": None if cpu is None else cpu / timing["n"] / workload["batch"],
        **({"cpu_s_per_inf_why": "the processor time cannot be read"} if cpu is None else {}),
        "cold_start_ms": median(probes, "cold_start_ms"),
        "cold_start": {
            "method": engine.cold_start,
            "raw_ms": [p["cold_start_ms"] for p in probes],
            "session_ms": median(probes, "session_ms"),
        },
        "memory": {
            **memory(bare, probes, engine.memory),
            "limit": doc["probes"].get(f"limit|{cell_key(model, workload)}"),
        },
        "energy": energy(
            blocks, doc["meter"], doc["idle"].get(workload_key(workload), []), plan["idle_s"], workload["batch"]
        ),
        "verification": cell["verification"],
        "quality": judged,
    }
