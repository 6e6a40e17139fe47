"""How far the measurement itself can be believed: equal models, one that is 5 % slower, overhead, memory.

    python tools/bench_runner.py --comparisons 100 --load --out results.json

equal:    two copies of one model; the 95 % interval of their ratio should hold 1 in at least 95 of 100 comparisons.
slower:   a model of 21 layers against one of 20: the interval should lie above 1 in at least 95 of 100.
overhead: what the measuring loop adds to calls of about 1 ms, in per cent: time outside of the timed calls, and its CPU
          time against a bare loop's, interleaved.
memory:   the peak that the runner reports for a fresh process against what /usr/bin/time says of the same process.

--load keeps another process busy on one core all the time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from rmtkd_edge.profile.measuring import basics, execute, sessions
from rmtkd_edge.profile.plan import copy_runner
from rmtkd_edge.profile.ratios import ratio_of_medians
from rmtkd_edge.profile.workload import QUICK

WIDTH, ROWS = 256, 32
BUSY = "while True: sum(i * i for i in range(100000))"


def write_model(path: Path, layers: int) -> str:
    """Write an encoder-like stack of `layers` products and return its sha256."""
    rng = np.random.default_rng(0)
    nodes, constants, name = [], [], "x"
    for i in range(layers):
        weight = rng.standard_normal((WIDTH, WIDTH), dtype=np.float32) / WIDTH**0.5
        constants.append(numpy_helper.from_array(weight, f"w{i}"))
        nodes += [
            helper.make_node("MatMul", [name, f"w{i}"], [f"m{i}"]),
            helper.make_node("Tanh", [f"m{i}"], [f"y{i}"]),
        ]
        name = f"y{i}"
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [ROWS, WIDTH]) for n in ("x", name)]
    graph = helper.make_graph(nodes, "stack", ends[:1], ends[1:], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def bundle(folder: Path, layers: dict[str, int], **changes: Any) -> Path:
    """Write a bundle of one model a label and return its plan."""
    copy_runner(folder)
    x = np.random.default_rng(1).standard_normal((ROWS, WIDTH), dtype=np.float32)
    models, reference = [], {}
    for label, number in layers.items():
        digest = write_model(folder / f"{label}.onnx", number)
        models.append({"label": label, "role": label, "precision": "fp32", "file": f"{label}.onnx", "sha256": digest})
        session = onnxruntime.InferenceSession(str(folder / f"{label}.onnx"), providers=["CPUExecutionProvider"])
        reference[f"{label}/b{ROWS}/y{number - 1}"] = session.run(None, {"x": x})[0]
    np.savez(folder / "inputs.npz", allow_pickle=False, **{f"b{ROWS}/x": x})
    np.savez(folder / "reference.npz", allow_pickle=False, **reference)
    plan = {
        "schema": basics.PLAN_SCHEMA,
        "provider": "CPUExecutionProvider",
        "threads": 1,
        "spinning": False,
        "models": models,
        "inputs": "inputs.npz",
        "reference": "reference.npz",
        "workloads": [{"batch": ROWS, "seq": None}],
        "min_runs": 50,
        "min_duration_s": 2.0,
        "warmup": 5,
        "rounds": 10,
        "seed": 0,
        "idle_s": 0.0,
        "meters": ["unavailable"],
        "probe_repeats": 0,
        **changes,
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder / "plan.json"


def compared(
    layers: dict[str, int], count: int, seconds: float, rounds: int, keep: Path | None = None
) -> dict[str, Any]:
    """Return how often the interval of the second model's time over the first's holds 1, and lies above it.

    Args:
        keep: a folder that holds the results of every comparison; what an earlier call left there is not measured
            again.
    """
    holds = above = 0
    ratios, widths = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(count):
            effort = {"min_duration_s": seconds, "rounds": rounds, "min_runs": QUICK.min_runs}
            plan = bundle(Path(folder), layers, seed=number, **effort)
            kept = (keep or Path(folder)) / f"{number}.json"
            document = json.loads(kept.read_text()) if kept.is_file() else {}
            if not document.get("complete"):
                document = execute.measure(plan, kept, lambda *a, **k: None)
            results = document["results"]
            first, second = (r["latency"]["rounds_ns"] for r in results)
            ratio, ends = ratio_of_medians(second, first, number)
            assert ends is not None
            holds, above = holds + (ends[0] <= 1 <= ends[1]), above + (ends[0] > 1)
            ratios.append(ratio)
            widths.append(ends[1] - ends[0])
    return {
        "comparisons": count,
        "holds_1": holds,
        "above_1": above,
        "median_ratio": round(statistics.median(ratios), 4),
        "median_interval_width": round(statistics.median(widths), 4),
        "seconds_a_model": seconds,
        "rounds": rounds,
    }


def kept_in(folder: Path | None, name: str) -> Path | None:
    """Return the folder of one kind of comparison, made where it is not there."""
    if folder is None:
        return None
    (folder / name).mkdir(parents=True, exist_ok=True)
    return folder / name


def overhead(rounds: int = 20) -> dict[str, Any]:
    """Return what the loop adds to calls of about a millisecond; against a bare loop in CPU time, which load leaves."""
    with tempfile.TemporaryDirectory() as folder:
        plan = json.loads(bundle(Path(folder), {"a": 20}).read_text())
        session = sessions.open_session(plan, Path(folder) / "a.onnx")
        feeds = {"x": np.load(Path(folder) / "inputs.npz")[f"b{ROWS}/x"]}
        outside, latency, timed, bare = [], [], [], []
        for _ in range(rounds):
            block = execute.run_block(session, feeds, 200, 0.0, None)
            outside.append((block["wall_ns"] - sum(block["ns"])) / sum(block["ns"]))
            latency.append(statistics.median(block["ns"]))
            timed.append(block["cpu_ns"] / len(block["ns"]))
            begin = time.process_time_ns()
            for _ in range(200):
                session.run(None, feeds)
            bare.append((time.process_time_ns() - begin) / 200)
    ratio, ends = ratio_of_medians([[t] for t in timed], [[b] for b in bare], 0)
    return {
        "latency_ms": round(statistics.median(latency) / 1e6, 3),
        "outside_of_the_calls_percent": round(100 * statistics.median(outside), 3),
        "cpu_over_bare_loop": round(ratio, 4),
        "ci95": None if ends is None else [round(e, 4) for e in ends],
    }


def memory(repeats: int = 5) -> dict[str, Any]:
    """Return the peak of a fresh process by the runner and by /usr/bin/time, in bytes."""
    pairs = []
    with tempfile.TemporaryDirectory() as folder:
        plan = bundle(Path(folder), {"a": 200})
        argv = [sys.executable, str(Path(folder) / "runner.py"), "--probe", "model", str(plan), "0", "0"]
        for _ in range(repeats):
            done = subprocess.run(["/usr/bin/time", "-v", *argv], capture_output=True, text=True, check=True)
            found = re.search(r"Maximum resident set size \(kbytes\): (\d+)", done.stderr)
            assert found is not None, done.stderr
            pairs.append((json.loads(done.stdout.splitlines()[-1])["peak_rss_bytes"], int(found[1]) * 1024))
    worst = max(abs(mine / other - 1) for mine, other in pairs)
    return {"runner_and_time_bytes": pairs, "largest_difference_percent": round(100 * worst, 2)}


def main() -> None:
    """Check what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comparisons", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=QUICK.min_duration_s, help="a model and comparison")
    parser.add_argument("--rounds", type=int, default=QUICK.rounds, help="of interleaving")
    parser.add_argument("--load", action="store_true")
    parser.add_argument("--only", nargs="*", default=["overhead", "memory", "equal", "slower"])
    parser.add_argument("--keep", type=Path, help="folder for the rounds of every comparison, to resume from")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    other = subprocess.Popen([sys.executable, "-c", BUSY]) if args.load else None
    found: dict[str, Any] = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "load": args.load}
    try:
        if "overhead" in args.only:
            found["overhead"] = overhead()
        if "memory" in args.only:
            found["memory"] = memory()
        if "equal" in args.only:
            keep = kept_in(args.keep, "equal")
            found["equal"] = compared({"a": 20, "b": 20}, args.comparisons, args.seconds, args.rounds, keep)
        if "slower" in args.only:
            keep = kept_in(args.keep, "slower")
            found["slower"] = compared({"a": 20, "b": 21}, args.comparisons, args.seconds, args.rounds, keep)
        found["load_average"] = [round(value, 2) for value in os.getloadavg()]
    finally:
        if other is not None:
            other.kill()
    print(json.dumps(found, indent=1))
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
