"""Memory and cold start, each in a fresh process, and whether a model does with a device's memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .basics import EMULATED_PYTHON, HOME, Json, RunnerError, sibling, workload_key
from .machine import status_bytes
from .plan import arrays_of
from .sessions import feeds_of, open_session, settings_of

PROBE_TIMEOUT_S = 900
MEMORY = "VmHWM of a fresh process minus a bare import"


def _started(argv: list[str]) -> subprocess.CompletedProcess:
    """Return a finished process of runner.py that probes; raise RunnerError where it hangs."""
    # The kernel starts no file of an emulated processor: there this names what starts its Python.
    python = os.environ.get(EMULATED_PYTHON) or sys.executable
    command = [python, str(HOME / "runner.py"), *argv, "--started", str(time.monotonic_ns())]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as err:
        raise RunnerError("probe", f"a probe took longer than {PROBE_TIMEOUT_S} s: {' '.join(argv)}") from err


def fresh(argv: list[str]) -> Json:
    """Return what a fresh process says of itself (`probe`); raise RunnerError where it fails."""
    done = _started(argv)
    if done.returncode:
        raise RunnerError("probe", f"a probe ended with {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.splitlines()[-1])


def probe(argv: list[str], started_ns: int, memory_bytes: int = 0) -> Json:
    """Be the fresh process: import only, or load one model and run it; bytes from /proc/self/status, times in ms.

    With `memory_bytes` it has no more than those; `refused` says where nothing can hold it to them.
    """
    out: Json = {}
    if memory_bytes:
        module = limits_module()
        try:
            out["imposed_by"] = module.fence(memory_bytes)
        except module.LimitRefused as err:
            return {"refused": str(err)}
    if argv[0] == "model":
        plan_path = Path(argv[1])
        plan = json.loads(plan_path.read_text(encoding="utf-8"))
        model, workload = plan["models"][int(argv[2])], plan["workloads"][int(argv[3])]
        begin = time.perf_counter_ns()
        session = open_session(settings_of(plan, model), plan_path.parent / model["file"])
        out["session_ms"] = (time.perf_counter_ns() - begin) / 1e6
        out["rss_after_load_bytes"] = status_bytes("VmRSS")
        feeds = feeds_of(session, arrays_of(plan_path.parent / plan["inputs"], workload_key(workload)), model["file"])
        session.run(None, feeds)
        out["cold_start_ms"] = (time.monotonic_ns() - started_ns) / 1e6
        for _ in range(3):
            session.run(None, feeds)
    return {**out, "peak_rss_bytes": status_bytes("VmHWM"), "rss_bytes": status_bytes("VmRSS")}


def limits_module() -> Any:
    """Return limits.py, the file next to this folder; raise RunnerError where it does not."""
    if not (HOME / "limits.py").is_file():
        raise RunnerError("limit", "no limits.py next to the runner; make the bundle again")
    return sibling("limits")


def confine(plan: Json) -> Json | None:
    """Put the plan's limits of cores and processor time on this process and return what holds; None without any."""
    if not plan.get("limits"):
        return None
    module = limits_module()
    try:
        return module.confine(plan["limits"])
    except module.LimitRefused as err:
        raise RunnerError("limit", str(err)) from err


def within_memory(limit: int, probes: list[Json], argv: list[str]) -> Json:
    """Return whether a model's fresh process does with `limit` bytes: by what it took, then by holding it to them."""
    peaks = [p["peak_rss_bytes"] for p in probes if p.get("peak_rss_bytes") is not None]
    out: Json = {"limit_bytes": limit, "needs_bytes": max(peaks) if peaks else None, "fits": None, "imposed_by": None}
    if not peaks:
        return {**out, "why": "no probe gave the memory that it takes"}
    if max(peaks) > limit:
        short = f"needs {max(peaks) / 1e6:.0f} MB with Python and onnxruntime, the profile has {limit / 1e6:.0f}"
        return {**out, "fits": False, "why": short}
    done = _started([*argv, "--memory", str(limit)])
    try:
        said = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = {}
    if said.get("refused"):
        raise RunnerError("limit", said["refused"])
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1][-200:]
        return {**out, "fits": False, "why": f"held to {limit / 1e6:.0f} MB it failed: {last}"}
    return {**out, "fits": True, "imposed_by": said.get("imposed_by"), "why": ""}


def median(probes: list[Json], key: str) -> float | None:
    values = [float(p[key]) for p in probes if p.get(key) is not None]
    return statistics.median(values) if values and len(values) == len(probes) else None


def memory(bare: list[Json], probes: list[Json], method: str = MEMORY) -> Json:
    """Return peak and loaded memory above a bare import, in bytes: medians, with the raw values."""
    out: Json = {"peak_rss_bytes": None, "rss_after_load_bytes": None, "repeats": len(probes)}
    out["method"] = method
    zero, peak = median(bare, "peak_rss_bytes"), median(probes, "peak_rss_bytes")
    base, loaded = median(bare, "rss_bytes"), median(probes, "rss_after_load_bytes")
    if zero is None or peak is None or base is None or loaded is None:
        return {**out, "why": "/proc/self/status gives no VmHWM here"}
    out.update(peak_rss_bytes=int(peak - zero), rss_after_load_bytes=int(loaded - base), bare_import_bytes=int(zero))
    return {**out, "peak_rss_raw": [p["peak_rss_bytes"] for p in probes]}
