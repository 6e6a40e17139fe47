"""The limits of a smaller device, put on a process: cores, processor time, memory. Travels with runner.py.

Standard library, Python 3.9. Cores by affinity. Processor time by a cgroup v2 of its own, or by one that this process
was started in; nothing else can hold it back, so without one the limit is refused. Memory by a cgroup v2, else by
RLIMIT_DATA, which counts private writable pages whether they were touched or not: the result says which.
"""

from __future__ import annotations

import atexit
import contextlib
import os
from pathlib import Path
from typing import Any

PERIOD_US = 100_000  # of the kernel's quota


class LimitRefused(Exception):
    """A limit that cannot be put on a process here: the reason, and what to do."""


def confine(limits: dict[str, Any], root: str = "/") -> dict[str, Any]:
    """Put `cores` and `cpu_quota` (processors' worth of time) on this process; return what holds, and by what means.

    Raises LimitRefused.
    """
    out: dict[str, Any] = {}
    cores, quota = limits.get("cores"), limits.get("cpu_quota")
    if cores is not None:
        out.update(cores=_pin(int(cores)), cores_by="affinity")
    if quota is not None:
        out.update(cpu_quota=float(quota), cpu_quota_by=_hold_back(float(quota), root))
    return out


def fence(memory_bytes: int, root: str = "/") -> str:
    """Let this process have no more than `memory_bytes`; return by what means. Raises LimitRefused."""
    group = own_group(root, "memory.max")
    if group is not None:
        _write(group / "memory.max", str(memory_bytes))
        if (group / "memory.swap.max").is_file():
            _write(group / "memory.swap.max", "0")
        enter(group)
        return "cgroup v2"
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    except (ImportError, ValueError, OSError) as err:
        raise LimitRefused(f"neither a cgroup v2 nor RLIMIT_DATA can hold memory back here: {err}") from err
    return "RLIMIT_DATA"


def _pin(cores: int) -> list[int]:
    if not hasattr(os, "sched_setaffinity"):
        raise LimitRefused(
            "this system cannot bind a process to cores; leave limits.cores out, or measure on the device"
        )
    mine = sorted(os.sched_getaffinity(0))
    if cores > len(mine):
        raise LimitRefused(f"limits.cores is {cores}, this process may use {len(mine)}; name no more than those")
    os.sched_setaffinity(0, mine[:cores])
    return mine[:cores]


def _hold_back(quota: float, root: str) -> str:
    present = outer_quota(root)
    if present is not None and present <= quota * 1.001:
        return f"the cgroup it was started in ({present:g} processors)"
    group = own_group(root, "cpu.max")
    if group is None:
        raise LimitRefused(
            "limits.cpu_quota needs a cgroup v2 with the cpu controller that this user may write; either start the "
            f"command in one (systemd-run --user --scope -p CPUQuota={100 * quota:.0f}% rmtkd-edge profile ...), or "
            "leave limits.cpu_quota out"
        )
    _write(group / "cpu.max", f"{round(quota * PERIOD_US)} {PERIOD_US}")
    enter(group)
    return "cgroup v2"


def present_group(root: str) -> Path | None:
    """Return the folder of this process's cgroup v2, or None where there is none."""
    try:
        lines = (Path(root) / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    names = [line[3:] for line in lines if line.startswith("0::")]
    mount = Path(root) / "sys/fs/cgroup"
    if not names or not (mount / "cgroup.controllers").is_file():
        return None
    return mount / names[0].lstrip("/")


def outer_quota(root: str) -> float | None:
    """Return the processors' worth of time that the present cgroup and those around it leave, None for no bound."""
    group, found = present_group(root), []
    while group is not None and group.name != "fs":
        try:
            most, period = (group / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            most, period = "max", "1"
        if most != "max":
            found.append(int(most) / int(period))
        group = group.parent
    return min(found, default=None)


def own_group(root: str, file: str) -> Path | None:
    """Return a new cgroup for this process, next to or below its present one, that has `file`; None where none may be.

    A cgroup with processes in it hands no controllers down, so a place next to the present one comes first.
    """
    present = present_group(root)
    if present is None:
        return None
    for place in (present.parent, present):
        if not (place / "cgroup.procs").is_file():
            continue
        group = place / f"rmtkd-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        if (group / file).is_file() and os.access(group / file, os.W_OK):
            atexit.register(leave, group, present)
            return group
        leave(group, present)
    return None


def enter(group: Path) -> None:
    """Move this process into a cgroup. Raises LimitRefused."""
    _write(group / "cgroup.procs", str(os.getpid()))


def leave(group: Path, back: Path) -> None:
    """Move this process back to where it was and remove its cgroup; one that is left empty is harmless."""
    with contextlib.suppress(OSError):
        (back / "cgroup.procs").write_text(str(os.getpid()), encoding="ascii")
    with contextlib.suppress(OSError):
        group.rmdir()


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="ascii")
    except OSError as err:
        raise LimitRefused(f"{file} cannot be written: {err}") from err
