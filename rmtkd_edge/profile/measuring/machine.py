"""What the machine says of itself: its parts, and the counters that tell whether something disturbed."""

from __future__ import annotations

import glob
import os
import platform
import re
import subprocess
from typing import Any

import numpy as np
import onnxruntime

from .basics import EMULATED_PYTHON, Json, read_text
from .plan_schema import SESSION_DEFAULTS
from .sessions import ON_DEVICE


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
        **{name: plan.get(name, value) for name, value in SESSION_DEFAULTS.items()},
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


def gpu_facts() -> Json | None:
    """Return name, driver, clocks and limits of the first NVIDIA GPU as nvidia-smi tells them, None without it."""
    keys = "name driver_version clocks.sm clocks.max.sm clocks.mem power.limit temperature.gpu persistence_mode"
    command = ["nvidia-smi", "--id=0", "--query-gpu=" + ",".join(keys.split()), "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(zip(keys.split(), (part.strip() for part in done.stdout.splitlines()[0].split(","))))  # noqa: B905


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
    # after the command's name, which may hold blanks: the tenth field counts the pages that came from a disk
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


def status_bytes(key: str, text: str | None = None) -> int | None:
    """Return VmHWM or VmRSS of this process in bytes; None where /proc/self/status does not give it."""
    found = re.search(rf"^{key}:\s+(\d+) kB", text or read_text("/proc/self/status") or "", re.MULTILINE)
    return int(found[1]) * 1024 if found else None
