"""Measure ONNX models with onnxruntime, here: python3 runner.py [plan.json results.json] [--json]

Without names the files are those beside it. One stand-alone file for Python 3.9+ with onnxruntime and numpy; nothing
of the package is needed. A folder `meters` beside it adds energy meters; without it energy is null. The results are
written after every round, and the same command goes on where a killed one stopped. Exit codes: 0 measured, 2 refused
(stderr and `error` in the results say why).
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import hashlib
import importlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

PLAN_SCHEMA, RESULTS_SCHEMA = "rmtkd-edge/plan@1", "rmtkd-edge/results@1"
HERE = Path(__file__).resolve().parent
KEYS = (
    "provider threads spinning models inputs reference loads min_runs min_duration_s warmup rounds seed idle_s meters"
)
PERCENTILES = {
    "p50": (50, 1),
    "p90": (90, 100),
    "p95": (95, 100),
    "p99": (99, 1000),
}  # name: percentile, samples it needs
WINDOW_S, WINDOW_PERIODS = (
    10.0,
    100,
)  # an energy figure needs a window this long, and each block this many meter periods
CPU_WALL_LEAST, STEAL_PCT_MOST, SPARE_CORES, WAITED_PCT_MOST = 0.9, 2.0, 0.25, 10.0  # beyond these: `contended`
FEWEST_SAMPLES, FAULTS_MOST, NEAR_TRIP_C = 30, 0, 5.0  # calls; major page faults; degrees below a passive trip point
ON_CPU = ("CPUExecutionProvider", "WasmExecutionProvider")  # what keeps a processor busy while it runs
FEWEST_ROUNDS = 5  # of interleaving, however slow the energy meter
PROBE_TIMEOUT_S = 900
ON_DEVICE = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}  # where inputs stay while timed
EMULATED_PYTHON = "RMTKD_PYTHON"  # set by the launcher of an emulated Python: the command that starts another one
Json = dict  # a JSON object
Say = Callable[..., None]


class RunnerError(Exception):
    """A refusal; `kind` is plan, hash, provider, model, output, meter, limit, disk or probe."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


# ---- the plan ----


def load_plan(path: Path) -> Json:
    """Return a plan whose keys are complete and whose files have the hashes that it names; raise RunnerError."""
    try:
        text = path.read_bytes()
        plan = json.loads(text)
    except (OSError, ValueError) as err:
        raise RunnerError("plan", f"{path} cannot be read: {err}") from err
    if not isinstance(plan, dict) or plan.get("schema") != PLAN_SCHEMA:
        raise RunnerError("plan", f"{path} is not a {PLAN_SCHEMA}")
    missing = [key for key in KEYS.split() if key not in plan]
    if missing:
        raise RunnerError("plan", f"{path} lacks {', '.join(missing)}")
    if not plan["models"] or not plan["loads"] or min(plan["threads"], plan["rounds"], plan["min_runs"]) < 1:
        raise RunnerError("plan", f"{path} wants at least one model, load, thread, round and run")
    for model in plan["models"]:
        for part in [model, *model.get("external", [])]:
            check_hash(path.parent, part["file"], part["sha256"])
    for file, sha256 in plan.get("files", {}).items():
        check_hash(path.parent, file, sha256)
    return {**plan, "sha256": hashlib.sha256(text).hexdigest()}


def check_hash(folder: Path, file: str, expected: str) -> None:
    """Raise RunnerError, naming the file and both hashes, unless its sha256 is the expected one."""
    path = folder / file
    if not path.is_file():
        raise RunnerError("hash", f"{file} is missing")
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        raise RunnerError("hash", f"{file} has sha256 {digest.hexdigest()}, the plan names {expected}")


def load_key(load: Json) -> str:
    """Return the name of a load, which also prefixes its arrays: `b8s128`, or `b8` without a sequence."""
    return f"b{load['batch']}" + ("" if load.get("seq") is None else f"s{load['seq']}")


def arrays_of(path: Path, prefix: str, needed: bool = True) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz whose names begin with `prefix/`, the prefix taken off."""
    with np.load(path, allow_pickle=False) as stored:
        found = {k[len(prefix) + 1 :]: stored[k] for k in stored.files if k.startswith(prefix + "/")}
    if needed and not found:
        raise RunnerError("plan", f"{path.name} has nothing for {prefix}")
    return found


# ---- one model ----


def open_session(plan: Json, file: Path) -> Any:
    """Return a session with explicit threads on the provider that was asked for; another one is a RunnerError."""
    asked = plan["provider"]
    if asked not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise RunnerError("provider", f"{asked} is not in this onnxruntime ({onnxruntime.__version__} has {have})")
    if asked == "CUDAExecutionProvider" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed, which no search path names
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(plan["threads"]), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if plan["spinning"] else "0")
    options.log_severity_level = 3
    settings = {"use_tf32": "1" if plan.get("tf32", True) else "0"} if asked == "CUDAExecutionProvider" else {}
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[(asked, settings)])
    except Exception as err:  # onnxruntime's errors have no common base
        raise RunnerError("model", f"{file.name} does not load on {asked}: {err}") from err
    if session.get_providers()[0] != asked:
        raise RunnerError("provider", f"{file.name}: {asked} was asked for, {session.get_providers()[0]} is what runs")
    return session


class Bound:
    """A session on an accelerator: while it is timed, its inputs and outputs stay there and no call copies them."""

    def __init__(self, session: Any, device: str) -> None:
        self._session, self._device = session, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def pids(self) -> list:
        """Return the processes that do the work."""
        return ["self"]

    def timed(self, feeds: Json, runs: int, seconds: float) -> Json:
        """Return a block of calls, each with the wait until its outputs are there."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0))
        for node in self._session.get_outputs():
            binding.bind_output(node.name, self._device, 0)
        binding.synchronize_inputs()

        def call() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        call()  # allocates the outputs
        return timed_here(call, runs, seconds)


def gpu_facts() -> Json | None:
    """Return name, driver, clocks and limits of the first NVIDIA GPU as nvidia-smi tells them, None without it."""
    keys = "name driver_version clocks.sm clocks.max.sm clocks.mem power.limit temperature.gpu persistence_mode"
    command = ["nvidia-smi", "--id=0", "--query-gpu=" + ",".join(keys.split()), "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(keys.split(), (part.strip() for part in done.stdout.splitlines()[0].split(","))))  # noqa: B905


def feeds_of(session: Any, inputs: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """Return the inputs that the graph wants."""
    wanted = [node.name for node in session.get_inputs()]
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise RunnerError("plan", f"{file} wants {', '.join(missing)}; the plan's inputs have {', '.join(inputs)}")
    return {name: inputs[name] for name in wanted}


def verify_outputs(
    model: Json, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray], tolerance: float
) -> Json:
    """Return the largest differences from the reference; raise RunnerError beyond `tolerance` x its largest magnitude.

    int8 models only report: their outputs differ by design (same_file has their difference between processors).
    """
    worst, relative = 0.0, 0.0
    for name, expected in reference.items():
        if not np.isfinite(expected).all():
            raise RunnerError("plan", f"{model['label']}: the reference of {name} is not finite; export the run again")
        if name not in outputs or outputs[name].shape != expected.shape or not np.isfinite(outputs[name]).all():
            raise RunnerError("output", f"{model['label']}: output {name} is absent, of another shape or not finite")
        worst = max(worst, float(np.abs(outputs[name] - expected).max()))
        relative = max(relative, float(np.abs(outputs[name] - expected).max() / max(np.abs(expected).max(), 1e-12)))
    exact = model["precision"] == "fp32"
    if exact and relative > tolerance:
        raise RunnerError(
            "output", f"{model['label']}: outputs differ by {relative:.2e} relative, allowed {tolerance:.0e}"
        )
    limit = tolerance if exact else None
    return {"max_abs_diff": worst, "max_rel_diff": relative, "tolerance": limit, "outputs": sorted(reference)}


# ---- the limits of a smaller device ----


def limits_module() -> Any:
    """Return limits.py, which stands beside this file; raise RunnerError where it does not."""
    if not (HERE / "limits.py").is_file():
        raise RunnerError("limit", "no limits.py beside the runner; make the bundle again")
    return importlib.import_module(f"{__package__}.limits" if __package__ else "limits")


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


def same_file(model: Json, outputs: dict[str, np.ndarray], there: dict[str, np.ndarray], tolerance: float) -> Json:
    """Return how far outputs are from those of the same file on the host, and the share of rows with the same label."""
    found = verify_outputs({**model, "precision": "any"}, outputs, there, tolerance)
    rows = [(outputs[name].argmax(-1) == there[name].argmax(-1)).mean() for name in there if there[name].ndim > 1]
    out = {"same_labels": float(min(rows)) if rows else None}
    if model["precision"] != "fp32":
        out.update(same_file_max_abs_diff=found["max_abs_diff"], same_file_max_rel_diff=found["max_rel_diff"])
        out["same_file_tolerance"] = tolerance
    return out


# ---- the machine ----


def read_text(path: str) -> str | None:
    """Return a small file of /proc or /sys, or None where it cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
    except OSError:
        return None


def counters(root: str = "", pids: tuple = ("self",)) -> Json:
    """Return counters that only grow (`ticks_*`, `quota`, `throttle`, `faults`) and states; None: unreadable.

    States: `capped`, `swap_bytes`, `below_trip_c` degrees to the nearest passive trip point. pids: the processes that
    `waited_ns`, `faults` and `swap_bytes` are of.
    """
    names = "ticks_total ticks_busy ticks_steal quota throttle capped waited_ns faults swap_bytes below_trip_c"
    out: Json = dict.fromkeys(names.split())
    mine = usable_cpus()
    lines = re.findall(r"^cpu(\d+) ([\d ]+)", read_text(root + "/proc/stat") or "", re.MULTILINE)
    ticks = [[int(v) for v in values.split()][:8] for number, values in lines if int(number) in mine]
    if ticks:
        user, nice, system, idle, wait, irq, soft, steal = (sum(column) for column in zip(*ticks))  # noqa: B905
        busy = user + nice + system + irq + soft
        out.update(ticks_total=busy + idle + wait + steal, ticks_busy=busy, ticks_steal=steal)
    tasks = [file for pid in pids for file in glob.glob(f"{root}/proc/{pid}/task/*/schedstat")]
    waits = [(read_text(file) or "").split() for file in tasks]
    out["waited_ns"] = sum(int(parts[1]) for parts in waits if len(parts) == 3) if waits else None
    group = read_text(root + "/sys/fs/cgroup/cpu.stat") or read_text(root + "/sys/fs/cgroup/cpu/cpu.stat")
    quota = re.search(r"^nr_throttled (\d+)", group or "", re.MULTILINE)
    out["quota"] = int(quota[1]) if quota else None
    events = glob.glob(root + "/sys/devices/system/cpu/cpu*/thermal_throttle/*_throttle_count")
    seen = [int(text) for text in map(read_text, events) if text and text.isdigit()]
    out["throttle"] = sum(seen) if seen else None
    out["capped"] = frequency_capped(root)
    # behind the command's name, which may hold blanks: the tenth field counts the pages that came from a disk
    stats = [(read_text(f"{root}/proc/{pid}/stat") or "").rpartition(")")[2].split() for pid in pids]
    out["faults"] = sum(int(stat[9]) for stat in stats) if all(len(stat) > 9 for stat in stats) else None
    swaps = [status_bytes("VmSwap", read_text(f"{root}/proc/{pid}/status") or "-") for pid in pids]
    out["swap_bytes"] = None if None in swaps else sum(size or 0 for size in swaps)
    out["below_trip_c"] = below_trip(root)
    return out


def below_trip(root: str = "") -> float | None:
    """Return how many degrees the hottest zone is below its lowest passive trip point; None where none has one."""
    found = []
    for zone in glob.glob(root + "/sys/class/thermal/thermal_zone*"):
        now, trips = read_text(zone + "/temp"), []
        for kind in glob.glob(zone + "/trip_point_*_type"):
            limit = read_text(kind[: -len("type")] + "temp")
            if read_text(kind) == "passive" and limit and limit.lstrip("-").isdigit() and int(limit) > 0:
                trips.append(int(limit))
        if trips and now and now.lstrip("-").isdigit():
            found.append((min(trips) - int(now)) / 1000)
    return min(found) if found else None


def usable_cpus() -> set:
    """Return the numbers of the processors that this process may use (all of them where the system cannot say)."""
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def frequency_capped(root: str = "") -> bool | None:
    """Return whether heat or supply limits the clock now: cooling devices, Raspberry Pi firmware flags."""
    states = []
    for folder in glob.glob(root + "/sys/class/thermal/cooling_device*"):
        if re.match(r"processor|cpufreq|cpu-", (read_text(folder + "/type") or "").lower()):
            states.append((read_text(folder + "/cur_state") or "0") != "0")
    flags = read_text(root + "/sys/devices/platform/soc/soc:firmware/get_throttled")
    if flags:
        states.append(bool(int(flags, 16) & 0xF))  # bits 0-3: under-voltage, capped, throttled, soft limit: now
    return any(states) if states else None


def environment(plan: Json, session: Any) -> Json:
    """Return what ran where; a fact that cannot be read is None and listed in `unread`."""
    info = read_text("/proc/cpuinfo") or ""
    name = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", info, re.MULTILINE)
    if platform.machine() == "aarch64" and not re.search(r"^CPU architecture", info, re.MULTILINE):
        info, name = "", None  # emulated: these are the flags of the processor that emulates
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", info, re.MULTILINE)
    vector = [f for f in (flags[1].split() if flags else []) if re.match(r"avx|amx|fma$|asimd|sve|i8mm|bf16", f)]
    board = read_text("/proc/device-tree/model")
    quota = read_text("/sys/fs/cgroup/cpu.max") or read_text("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    env = {
        "onnxruntime": onnxruntime.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "providers_requested": [plan["provider"]],
        "providers_actual": session.get_providers(),
        "cpu_model": name[1] if name else board,
        "cpu_flags": vector or None,
        "cpus": len(usable_cpus()),
        "threads": plan["threads"],
        "spinning": plan["spinning"],
        "governor": read_text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "cgroup_cpu_max": quota,
        "os": platform.platform(),
        "machine": platform.machine(),
        "emulated": EMULATED_PYTHON in os.environ or bool(plan.get("emulated")),
    }
    if plan["provider"] in ON_DEVICE:
        options = session.get_provider_options().get(plan["provider"], {})
        env.update(gpu=gpu_facts(), io_binding=True, tf32=options.get("use_tf32"))
    env["unread"] = [key for key, value in env.items() if value is None]
    return env


def quality(blocks: list[Json], plan: Json, cpus: int) -> Json:
    """Return how far the figures can be believed: `verdict`, and `reasons` that say why.

    Verdicts, worst first: throttled, swapped, hot, contended, few (too few samples), unknown (nothing says what the
    processor did), clean; `emulated` stands alone. cpu_wall_ratio: CPU seconds of what ran the model per second.
    others_cores: processors that others kept busy.
    """
    wall, cpu = sum(b["wall_ns"] for b in blocks) / 1e9, cpu_seconds(blocks)
    total, busy, steal, quota, events, waited, faults = (
        _grown(blocks, k)
        for k in ("ticks_total", "ticks_busy", "ticks_steal", "quota", "throttle", "waited_ns", "faults")
    )
    waited_pct = None if waited is None or not cpu else max(0.0, waited / 1e7 / cpu)
    steal_pct = None if not total or steal is None else 100.0 * steal / total
    others = None if not total or busy is None or cpu is None else max(0.0, busy * cpus / total - cpu / wall)
    capped, swap, below = (_states(blocks, key) for key in ("capped", "swap_bytes", "below_trip_c"))
    throttled = None if events is None and not capped else bool(events) or any(capped)
    held = bool((plan.get("limits") or {}).get("cpu_quota"))  # the profile itself takes processor time away
    contended = []
    if plan["provider"] in ON_CPU and cpu is not None and cpu / wall < CPU_WALL_LEAST and not held:
        contended.append(f"the process got {cpu / wall:.2f} CPU seconds a second")
    if waited_pct is not None and waited_pct > WAITED_PCT_MOST and not held:
        contended.append(f"its threads waited for a processor {waited_pct:.0f} % as long as they ran")
    if steal_pct is not None and steal_pct > STEAL_PCT_MOST:
        contended.append(f"{steal_pct:.1f} % of the time was stolen by the hypervisor")
    if quota and not held:
        contended.append(f"the cgroup's quota stopped it {quota} times")
    if others is not None and others + plan["threads"] > cpus + SPARE_CORES:
        contended.append(f"others kept {others:.1f} of {cpus} processors busy")
    swapped = [f"{max(swap) / 1e6:.0f} MB of the process lay in swap"] if any(swap) else []
    if faults is not None and faults > FAULTS_MOST:
        swapped.append(f"{faults} pages came from a disk while it was timed")
    near = min(below, default=NEAR_TRIP_C)
    samples = sum(len(b["ns"]) for b in blocks)
    reasons = {
        "throttled": ["heat or supply capped the clock"] if throttled else [],
        "swapped": swapped,
        "hot": [f"a sensor came within {near:.1f} degrees of where the clock is capped"] if near < NEAR_TRIP_C else [],
        "contended": contended,
        "few": [f"{samples} calls are few; {FEWEST_SAMPLES} are wanted"] if samples < FEWEST_SAMPLES else [],
        "unknown": ["the processor time of what ran the model cannot be read"] if cpu is None else [],
    }
    if plan.get("emulated"):
        reasons = {"emulated": ["another processor is emulated: its times and its energy mean nothing"]}
    verdict = next((name for name, found in reasons.items() if found), "clean")
    ratio = None if cpu is None else cpu / wall
    out: Json = {"verdict": verdict, "cpu_wall_ratio": ratio, "steal_pct": steal_pct, "others_cores": others}
    out.update(throttled=throttled, quota_stops=quota, waited_pct=waited_pct, major_faults=faults)
    out.update(swap_bytes=max(swap, default=None), below_trip_c=min(below, default=None))
    out["reasons"] = [reason for found in reasons.values() for reason in found]
    out["unread"] = [key for key, value in out.items() if value is None]
    return out


def _states(blocks: list[Json], key: str) -> list:
    """Return what was read of a state at the ends of all blocks; unreadable ones are left out."""
    return [b["machine"][i][key] for b in blocks for i in (0, 1) if b["machine"][i].get(key) is not None]


def cpu_seconds(blocks: list[Json]) -> float | None:
    """Return the processor time of what ran the model, None where a block has none."""
    spent = [b["cpu_ns"] for b in blocks]
    return None if None in spent else sum(spent) / 1e9


def _grown(blocks: list[Json], key: str) -> int | None:
    ends = [(b["machine"][0].get(key), b["machine"][1].get(key)) for b in blocks]
    return None if any(v is None for pair in ends for v in pair) else sum(after - before for before, after in ends)


# ---- energy ----


def open_meter(plan: Json) -> tuple[Any, Json]:
    """Return the first meter of the plan that opens (or None) and its facts; `skipped` says why others did not.

    With `meter_required` a meter that is absent is a RunnerError that names two ways out.
    """
    skipped: list[str] = []
    options = {**plan.get("meter_options", {}), "provider": plan["provider"]}
    package = f"{__package__}.meters" if __package__ else "meters"
    for name in plan["meters"]:
        if not re.match(r"^[a-z][a-z0-9_]*$", name):
            raise RunnerError("plan", f"{name!r} is no name of a meter")
        if not (HERE / "meters" / f"{name}.py").is_file():
            why, ways = f"no meters/{name}.py beside the runner", ["take a meter that is there", "--meter auto"]
        else:
            module, base = importlib.import_module(f"{package}.{name}"), importlib.import_module(f"{package}.base")
            try:
                return _opened(module.open_meter(options), skipped)
            except base.MeterAbsent as err:
                why, ways = err.why, list(err.ways_out)
        if plan.get("meter_required"):
            raise RunnerError("meter", f"the meter {name} cannot be read: {why}. Either {ways[0]}; or {ways[1]}")
        skipped.append(f"{name}: {why}")
    return None, {"name": "none", "kind": "unavailable", "scope": "nothing", "needs_window": False, "skipped": skipped}


def _opened(meter: Any, skipped: list[str]) -> tuple[Any, Json]:
    facts = {"name": meter.name, "kind": meter.provenance, "scope": meter.scope, "period_s": meter.period_s}
    facts.update(needs_window=meter.needs_window, idle_watts=meter.idle_watts, gross_why=meter.gross_why)
    return meter, {**facts, "skipped": skipped}


def read_meter(meter: Any) -> Json:
    """Return {name: [joules or None, why]}: the meter first, then what stands beside it."""
    return {} if meter is None else {r.meter: [r.joules, r.why] for r in [meter.read(), *meter.also()]}


def idle_watts(meter: Any, facts: Json, seconds: float) -> float | None:
    """Return the power of doing nothing for `seconds`, None where the meter has none or needs none."""
    if meter is None or not facts["needs_window"] or seconds <= 0:
        return None
    before, begin = meter.read(), time.perf_counter()
    time.sleep(seconds)
    after, end = meter.read(), time.perf_counter()
    return None if before.joules is None or after.joules is None else (after.joules - before.joules) / (end - begin)


def energy(blocks: list[Json], facts: Json, idle: list[float | None], idle_s: float, batch: int = 1) -> Json:
    """Return joules per inference (one row of a batch), gross and net, or None and why.

    gross: all that the meter counted; net: minus the idle power x the window. Sums run over the blocks of one model.
    """
    n, window = sum(len(b["ns"]) for b in blocks) * batch, sum(b["wall_ns"] for b in blocks) / 1e9
    out: Json = {"j_per_inf_gross": None, "j_per_inf_net": None, "idle_w": None, "window_s": window}
    out.update(meter=facts["name"], kind=facts["kind"], scope=facts["scope"], skipped=facts["skipped"] or None)
    why = _withheld(blocks, facts, window)
    if why:
        return {**out, "kind": "unavailable", "why": why}
    parts = {name: [b["joules"].get(name, [None])[0] for b in blocks] for name in blocks[0]["joules"]}
    joules = sum(parts[facts["name"]])
    sums = {name: None if None in values else sum(values) for name, values in parts.items()}
    beside = {name: None if value is None else value / n for name, value in sums.items() if name != facts["name"]}
    out["beside"] = beside or None
    if facts["gross_why"]:
        return {**out, "j_per_inf_net": joules / n, "j_per_inf_gross_why": facts["gross_why"]}
    out["j_per_inf_gross"] = joules / n
    known = [w for w in idle if w is not None]
    out["idle_w"] = (
        facts["idle_watts"] if facts["idle_watts"] is not None else statistics.fmean(known) if known else None
    )
    if out["idle_w"] is None or (facts["needs_window"] and idle_s < WINDOW_PERIODS * facts["period_s"]):
        return {**out, "j_per_inf_net_why": f"the idle window of {idle_s:g} s is too short for {facts['name']}"}
    net = (joules - out["idle_w"] * window) / n
    if net <= 0:
        return {**out, "j_per_inf_net_why": "idle took as much as the run: nothing is left to attribute"}
    return {**out, "j_per_inf_net": net}


def _withheld(blocks: list[Json], facts: Json, window: float) -> str:
    if facts["kind"] == "unavailable":
        return "; ".join(facts["skipped"]) or "no energy meter can be read on this machine"
    readings = [b["joules"].get(facts["name"], [None, "the meter changed"]) for b in blocks]
    broken = [why for joules, why in readings if joules is None]
    if broken:
        return broken[0]
    if facts["needs_window"]:
        least = max(WINDOW_S, WINDOW_PERIODS * facts["period_s"] * len(blocks))
        if window < least:
            return f"withheld: {facts['name']} wants a window of {least:.0f} s, it was {window:.1f} s; measure longer"
        if sum(joules for joules, _ in readings) <= 0:
            return f"{facts['name']} did not move during {window:.1f} s"
    return ""


# ---- measuring ----


def run_block(session: Any, feeds: Json, runs: int, seconds: float, meter: Any) -> Json:
    """Run a model at least `runs` times and `seconds` long, after one run that only brings its weights back in.

    A session of another runtime times its own calls (`timed`), since the way to it is no part of them.
    """
    session.run(None, feeds)
    timed = getattr(session, "timed", None)
    pids = ("self",) if timed is None else tuple(session.pids())
    machine, joules = counters(pids=pids), read_meter(meter)
    block = timed(feeds, runs, seconds) if timed else timed_here(lambda: session.run(None, feeds), runs, seconds)
    after = {name: _spent(joules.get(name), reading) for name, reading in read_meter(meter).items()}
    return {**block, "joules": after, "machine": [machine, counters(pids=pids)]}


def timed_here(call: Callable[[], Any], runs: int, seconds: float) -> Json:
    """Return the nanoseconds of every call, of all of them, and of the processor."""
    values: list[int] = []
    clock, cpu, begin = time.perf_counter_ns, time.process_time_ns(), time.perf_counter_ns()
    enough = begin + int(seconds * 1e9)
    end = begin
    while len(values) < runs or end < enough:
        start = clock()
        call()
        end = clock()
        values.append(end - start)
    return {"ns": values, "cpu_ns": time.process_time_ns() - cpu, "wall_ns": clock() - begin}


def _spent(before: list | None, after: list) -> list:
    if before is None or before[0] is None or after[0] is None:
        return [None, after[1] or (before or [None, "the meter gave no reading"])[1]]
    return [after[0] - before[0], ""]


def write_whole(path: Path, document: Json) -> None:
    """Replace a file by a JSON document: readers see the old one or the new one, never a part; raise RunnerError."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(document, stream, allow_nan=False)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except OSError as err:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise RunnerError(
            "disk", f"{path} cannot be written: {err.strerror or err}; what it held is kept, free space and go on"
        ) from err


def digest_of(document: Json) -> str:
    """Return the sha256 of a results document without its own digest: tells a damaged or edited file (not a forger)."""
    kept = {key: value for key, value in document.items() if key != "digest"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def previous(path: Path) -> Json:
    """Return what an earlier run left at `path`; raise RunnerError for a file that no runner wrote."""
    text = read_text(str(path))
    try:
        found = json.loads(text) if text else {}
    except ValueError:
        found = None
    if found is None or (found and found.get("schema") != RESULTS_SCHEMA):
        raise RunnerError("plan", f"{path} exists and holds no results: move it away or name another file")
    return found


class Store:
    """The results file: whatever was measured is in it, written whole or not at all."""

    def __init__(self, path: Path, plan: Json, version: str = onnxruntime.__version__) -> None:
        names = ("provider", "threads", "spinning", "min_runs", "min_duration_s", "rounds", "warmup", "seed", "meters")
        settings = [
            version,
            *(plan[name] for name in names),
            *filter(None, [plan.get("limits"), plan.get("tf32") is False]),
        ]
        mark = hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:16]
        self.path, self.resumed = path, False
        self.doc: Json = {
            "schema": RESULTS_SCHEMA,
            "complete": False,
            "profile": plan.get("profile"),
            "plan_sha256": plan["sha256"],
            "settings": mark,
            "cells": {},
            "probes": {},
            "idle": {},
        }
        found = previous(path)
        if found.get("settings") == mark and not found.get("complete") and found.get("cells"):
            self.doc, self.resumed = {**found, "plan_sha256": plan["sha256"], "error": None}, True

    def cell(self, model: Json, load: Json) -> Json:
        """Return what is kept of a model under a load."""
        return self.doc["cells"].setdefault(cell_key(model, load), {"blocks": []})

    def write(self) -> None:
        """Replace the file by the present state."""
        write_whole(self.path, self.doc)


def cell_key(model: Json, load: Json) -> str:
    """Return the key of a partial result: the file's hash, the label and the load."""
    return f"{model['sha256']}|{model['label']}|{load_key(load)}"


def measure_load(plan: Json, load: Json, sessions: list, feeds: list, store: Store, meter: Any, say: Say) -> None:
    """Measure all models under one load in rounds that rotate their order, going on after the rounds that are kept."""
    cells = [store.cell(model, load) for model in plan["models"]]
    begun = min(len(cell["blocks"]) for cell in cells)
    for cell in cells:
        del cell["blocks"][begun:]
    if begun >= plan["rounds"]:
        return
    idle = store.doc["idle"].setdefault(load_key(load), [])
    if meter is not None and store.doc["meter"]["needs_window"]:
        say("idle", f"{load_key(load)}: idle power")
    idle.append(idle_watts(meter, store.doc["meter"], plan["idle_s"]))
    for i, session in enumerate(sessions):
        for _ in range(plan["warmup"]):
            session.run(None, feeds[i])
    runs, seconds = math.ceil(plan["min_runs"] / plan["rounds"]), plan["min_duration_s"] / plan["rounds"]
    for number in range(begun, plan["rounds"]):
        first = (number + plan["seed"]) % len(sessions)
        for i in [*range(first, len(sessions)), *range(first)]:
            cells[i]["blocks"].append(run_block(sessions[i], feeds[i], runs, seconds, meter))
        store.write()
        say("round", f"{load_key(load)}: round {number + 1} of {plan['rounds']}", done=number + 1, total=plan["rounds"])
    idle.append(idle_watts(meter, store.doc["meter"], plan["idle_s"]))


class Engine:
    """What runs the models: onnxruntime in this process. A subclass puts another runtime in its place.

    Its sessions answer to run, get_inputs, get_outputs, get_providers, timed (a block without machine and joules) and
    pids (the processes that do the work).
    """

    version = onnxruntime.__version__
    no_meter = ""  # why there is no energy, where a meter could not tell
    cold_start = "process start to first output, median, files in the page cache"
    memory = "VmHWM of a fresh process minus a bare import"

    def open(self, plan: Json, folder: Path) -> tuple[list, list, list]:
        """Return the models that load, their sessions, and notes on those that do not."""
        sessions = [open_session(plan, folder / model["file"]) for model in plan["models"]]
        device = ON_DEVICE.get(plan["provider"])
        return plan["models"], sessions if device is None else [Bound(s, device) for s in sessions], []

    def environment(self, plan: Json, session: Any) -> Json:
        """Return what ran where."""
        return environment(plan, session)

    def probe(self, plan_path: Path, pair: tuple | None) -> Json:
        """Return memory and cold start of (model, load), by number, in a fresh process; None: of a bare import."""
        return _probe(["--probe", "import"] if pair is None else ["--probe", "model", str(plan_path), *map(str, pair)])


def measure(plan_path: Path, results: Path, say: Say, engine: Engine | None = None) -> Json:
    """Carry out a plan and return the results document, which is also written to `results`."""
    engine = engine or Engine()
    document = previous(results)
    try:
        plan = load_plan(plan_path)
        store = Store(results, plan, engine.version)
        try:
            return _measure(plan, plan_path, store, say, engine)
        finally:
            if has_rounds(store.doc) or not has_rounds(document):  # else a refused plan would cost another's rounds
                document = store.doc
    except RunnerError as err:
        error = {"kind": err.kind, "message": str(err)}
        with contextlib.suppress(RunnerError):  # a full disk is named by the error that is on its way
            write_whole(results, {"schema": RESULTS_SCHEMA, "complete": False, **document, "error": error})
        raise


def has_rounds(document: Json) -> bool:
    """Return whether unfinished results hold any measured round."""
    return any(cell.get("blocks") for cell in (document.get("cells") or {}).values())


def suited_to(plan: Json, facts: Json) -> Json:
    """Return the plan with blocks as long as the meter's period wants them: fewer rounds first, then more seconds.

    The idle power is watched as long as one block, or there would be no net figure.
    """
    if not facts["needs_window"] or not facts["period_s"]:
        return plan
    block = WINDOW_PERIODS * facts["period_s"]
    rounds = min(plan["rounds"], max(FEWEST_ROUNDS, int(plan["min_duration_s"] // block)))
    idle = plan.get("idle_s", 0.0)  # 0: not asked for
    seconds = max(plan["min_duration_s"], rounds * block, WINDOW_S)
    return {**plan, "rounds": rounds, "min_duration_s": seconds, "idle_s": max(idle, block) if idle > 0 else idle}


def _measure(plan: Json, plan_path: Path, store: Store, say: Say, engine: Engine) -> Json:
    folder = plan_path.parent
    held = confine(plan)
    models, sessions, store.doc["notes"] = engine.open(plan, folder)
    plan = {**plan, "models": models}
    store.doc["env"] = {**engine.environment(plan, sessions[0]), **({} if held is None else {"limits": held})}
    meter, facts = open_meter(plan)
    facts["skipped"] += [engine.no_meter] if engine.no_meter else []
    if store.resumed and store.doc.get("meter", {}).get("name") != facts["name"]:
        store.doc.update(cells={}, idle={})  # energies of two meters cannot be added up
    store.doc["meter"] = facts
    plan = suited_to(plan, facts)
    say("start", f"{len(models)} models, {len(plan['loads'])} loads" + (", going on" if store.resumed else ""))
    try:
        for load in plan["loads"]:
            inputs = arrays_of(folder / plan["inputs"], load_key(load))
            feeds = [feeds_of(session, inputs, model["file"]) for session, model in zip(sessions, models)]  # noqa: B905
            for model, session, feed in zip(models, sessions, feeds):  # noqa: B905
                names = [node.name for node in session.get_outputs()]
                outputs = dict(zip(names, session.run(names, feed)))  # noqa: B905
                reference = arrays_of(folder / plan["reference"], f"{model['role']}/{load_key(load)}")
                verified = verify_outputs(model, outputs, reference, plan.get("tolerance", 1e-4))
                if model["precision"] != "fp32":  # plans before tolerance_int8 hold no outputs of int8 files
                    role = f"{model['role']}-{model['precision']}/{load_key(load)}"
                    reference = arrays_of(folder / plan["reference"], role, needed=False)
                if reference:
                    limit = plan.get("tolerance_int8", plan.get("tolerance", 1e-4))
                    verified.update(same_file(model, outputs, reference, limit))
                store.cell(model, load)["verification"] = verified
            measure_load(plan, load, sessions, feeds, store, meter, say)
    finally:
        if meter is not None:
            meter.close()
    del sessions
    run_probes(plan, plan_path, store, say, engine)
    pairs = [(model, load) for load in plan["loads"] for model in models]
    store.doc["results"] = [result_of(plan, plan_path, store.doc, model, load, engine) for model, load in pairs]
    store.doc["complete"] = True
    del store.doc["cells"], store.doc["probes"]  # all of it is in the results now
    store.doc["digest"] = digest_of(store.doc)
    store.write()
    say("done", f"{len(pairs)} results measured")
    return store.doc


# ---- memory and cold start, each in a fresh process ----


def run_probes(plan: Json, plan_path: Path, store: Store, say: Say, engine: Engine) -> None:
    """Fill the probes: a bare import, and every model under every load, several times, each in a process of its own."""
    probes, repeats = store.doc["probes"], int(plan.get("probe_repeats", 3))
    if "import" not in probes:
        probes["import"] = [engine.probe(plan_path, None) for _ in range(repeats)]
    for j, load in enumerate(plan["loads"]):
        for i, model in enumerate(plan["models"]):
            if cell_key(model, load) not in probes:
                if repeats:
                    say("probe", f"{load_key(load)}: memory and cold start of {model['label']}")
                probes[cell_key(model, load)] = [engine.probe(plan_path, (i, j)) for _ in range(repeats)]
                limit = (plan.get("limits") or {}).get("memory_bytes")
                if limit:
                    argv = ["--probe", "model", str(plan_path), str(i), str(j)]
                    probes[f"limit|{cell_key(model, load)}"] = within_memory(limit, probes[cell_key(model, load)], argv)
                store.write()


def _started(argv: list[str]) -> subprocess.CompletedProcess:
    """Return a finished process of this file that probes; raise RunnerError where it hangs."""
    # The kernel starts no file of an emulated processor: there this names what starts its Python.
    python = os.environ.get(EMULATED_PYTHON) or sys.executable
    command = [python, str(Path(__file__).resolve()), *argv, "--started", str(time.monotonic_ns())]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as err:
        raise RunnerError("probe", f"a probe took longer than {PROBE_TIMEOUT_S} s: {' '.join(argv)}") from err


def _probe(argv: list[str]) -> Json:
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
        model, load = plan["models"][int(argv[2])], plan["loads"][int(argv[3])]
        begin = time.perf_counter_ns()
        session = open_session(plan, plan_path.parent / model["file"])
        out["session_ms"] = (time.perf_counter_ns() - begin) / 1e6
        out["rss_after_load_bytes"] = status_bytes("VmRSS")
        feeds = feeds_of(session, arrays_of(plan_path.parent / plan["inputs"], load_key(load)), model["file"])
        session.run(None, feeds)
        out["cold_start_ms"] = (time.monotonic_ns() - started_ns) / 1e6
        for _ in range(3):
            session.run(None, feeds)
    return {**out, "peak_rss_bytes": status_bytes("VmHWM"), "rss_bytes": status_bytes("VmRSS")}


def status_bytes(key: str, text: str | None = None) -> int | None:
    """Return VmHWM or VmRSS of this process in bytes; None where /proc/self/status does not give it."""
    found = re.search(rf"^{key}:\s+(\d+) kB", text or read_text("/proc/self/status") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _median(probes: list[Json], key: str) -> float | None:
    values = [float(p[key]) for p in probes if p.get(key) is not None]
    return statistics.median(values) if values and len(values) == len(probes) else None


def memory(bare: list[Json], probes: list[Json], method: str = Engine.memory) -> Json:
    """Return peak and loaded memory above a bare import, in bytes: medians, with the raw values beside them."""
    out: Json = {"peak_rss_bytes": None, "rss_after_load_bytes": None, "repeats": len(probes)}
    out["method"] = method
    zero, peak = _median(bare, "peak_rss_bytes"), _median(probes, "peak_rss_bytes")
    base, loaded = _median(bare, "rss_bytes"), _median(probes, "rss_after_load_bytes")
    if zero is None or peak is None or base is None or loaded is None:
        return {**out, "why": "/proc/self/status gives no VmHWM here"}
    out.update(peak_rss_bytes=int(peak - zero), rss_after_load_bytes=int(loaded - base), bare_import_bytes=int(zero))
    return {**out, "peak_rss_raw": [p["peak_rss_bytes"] for p in probes]}


# ---- results ----


def latency(blocks: list[Json], warmup: int) -> Json:
    """Return the latency of one call in ms: percentiles where there are samples enough, else None; raw ns by round."""
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
    return {**out, "rounds_ns": [b["ns"] for b in blocks]}


def result_of(plan: Json, plan_path: Path, doc: Json, model: Json, load: Json, engine: Engine) -> Json:
    """Return one result: a model under a load."""
    cell, probes = doc["cells"][cell_key(model, load)], doc["probes"][cell_key(model, load)]
    blocks, bare = cell["blocks"], doc["probes"]["import"]
    timing, files = latency(blocks, plan["warmup"]), [model, *model.get("external", [])]
    judged = quality(blocks, plan, doc["env"]["cpus"] or 1)
    if timing["stdev"] is not None and timing["stdev"] > 0.1 * timing["mean"]:
        judged["reasons"].append(
            f"the standard deviation is {100 * timing['stdev'] / timing['mean']:.0f} % of the mean"
        )
    described, cpu = {key: model[key] for key in ("sha256", "precision", "file")}, cpu_seconds(blocks)
    described["disk_bytes"] = sum((plan_path.parent / part["file"]).stat().st_size for part in files)
    described["files"] = [part["file"] for part in files]
    return {
        "schema": "rmtkd-edge/result@1",
        "label": model["label"],
        "role": model["role"],
        "model": described,
        "load": {**load, "scenario": "single_stream" if load["batch"] == 1 else "offline"},
        "scenario": "single_stream" if load["batch"] == 1 else "offline",
        "env": doc["env"],
        "latency": timing,
        "throughput_per_s": load["batch"] / timing["p50"] * 1e3,
        "cpu_s_per_inf": None if cpu is None else cpu / timing["n"] / load["batch"],
        **({"cpu_s_per_inf_why": "the processor time cannot be read"} if cpu is None else {}),
        "cold_start_ms": _median(probes, "cold_start_ms"),
        "cold_start": {
            "method": engine.cold_start,
            "raw_ms": [p["cold_start_ms"] for p in probes],
            "session_ms": _median(probes, "session_ms"),
        },
        "memory": {
            **memory(bare, probes, engine.memory),
            "limit": doc["probes"].get(f"limit|{cell_key(model, load)}"),
        },
        "energy": energy(blocks, doc["meter"], doc["idle"].get(load_key(load), []), plan["idle_s"], load["batch"]),
        "verification": cell["verification"],
        "quality": judged,
    }


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run; return the exit code."""
    parser = argparse.ArgumentParser(prog="runner.py", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("paths", nargs="*", metavar="FILE", help="plan.json results.json; those beside runner.py")
    parser.add_argument("--json", action="store_true", help="progress as one JSON object a line")
    parser.add_argument("--probe", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--started", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)

    def say(event: str, text: str, **facts: Any) -> None:
        print(json.dumps({"event": event, "text": text, **facts}) if args.json else text, flush=True)

    try:
        if args.probe:
            print(json.dumps(probe(args.paths, args.started, args.memory)), flush=True)
        elif len(args.paths) not in (0, 2):
            parser.error("give plan.json and results.json, or neither")
        else:
            plan, results = args.paths or (HERE / "plan.json", HERE / "results.json")
            measure(Path(plan), Path(results), say)
            if not args.json:
                print(f"written: {results}")
    except RunnerError as err:
        print(f"runner.py: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("runner.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
