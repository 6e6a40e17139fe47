"""What this machine is, as far as software can read it: processor, usable cores, memory, vector instructions."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

X86_SETS = {"avx512": "avx512f", "avx512-vnni": "avx512_vnni", "avx-vnni": "avx_vnni", "avx2": "avx2"}
UNREADABLE = {
    "form_factor": "software cannot read it",
    "cooling": "software cannot read it",
    "power": "no figure is known for this machine; write idle_watts, active_watts_per_core and source in a profile",
}
ARM_SETS = {"neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm", "sve": "sve"}


@dataclass(frozen=True)
class Machine:
    """A machine; `whys` says for every None why it is None. `usable_cores` are physical cores this process may use."""

    processor_model: str | None
    physical_cores: int | None
    usable_cores: int
    memory_bytes: int | None
    instruction_sets: tuple[str, ...]
    operating_system: str | None
    governor: str | None
    chipset: str | None
    whys: dict[str, str]

    def facts(self) -> dict[str, Any]:
        """Return the facts under the keys of a hardware profile."""
        return {
            "processor": {"model": self.processor_model, "cores": self.physical_cores},
            "memory_bytes": self.memory_bytes,
            "instruction_sets": self.instruction_sets,
            "operating_system": self.operating_system,
            "power_management": None if self.governor is None else f"cpufreq governor {self.governor}",
            "chipset": self.chipset,
            "whys": dict(self.whys),
        }


def detect_machine(root: Path = Path("/")) -> Machine:
    """Return this machine, or the one whose /proc and /sys lie under `root`."""
    whys = dict(UNREADABLE)

    def read(rel: str, key: str) -> str | None:
        try:
            return (root / rel).read_text(encoding="utf-8", errors="replace").strip("\x00\n ")
        except OSError as err:
            whys[key] = f"/{rel} cannot be read: {err.strerror}"
            return None

    cpuinfo = read("proc/cpuinfo", "processor") or ""
    model, cores = processor_model(cpuinfo), physical_cores(cpuinfo)
    if model is None:
        whys.setdefault("processor", "/proc/cpuinfo names no model")
    if cores is None:
        whys["processor.cores"] = "/proc/cpuinfo gives no core topology; threads follow the logical processors"
    sets = instruction_sets(cpuinfo)
    if not sets:
        whys["instruction_sets"] = "/proc/cpuinfo lists no vector instructions that are known here"
    total = re.search(r"^MemTotal:\s*(\d+) kB", read("proc/meminfo", "memory_bytes") or "", re.MULTILINE)
    if total is None:
        whys.setdefault("memory_bytes", "/proc/meminfo has no MemTotal")
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', read("etc/os-release", "operating_system") or "", re.MULTILINE)
    if name is None:
        whys.setdefault("operating_system", "/etc/os-release has no PRETTY_NAME")
    governor = read("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "power_management")
    return Machine(
        processor_model=model,
        physical_cores=cores,
        usable_cores=usable_cores(cores, root),
        memory_bytes=int(total[1]) * 1024 if total else None,
        instruction_sets=sets,
        operating_system=f"{name[1]}, {platform.system()} {platform.release()}" if name else None,
        governor=governor,
        chipset=read("proc/device-tree/model", "chipset") or read("sys/devices/virtual/dmi/id/product_name", "chipset"),
        whys=whys,
    )


def processor_model(cpuinfo: str) -> str | None:
    """Return the model that /proc/cpuinfo names (x86 `model name`, Arm `Hardware`)."""
    found = re.search(r"^(?:model name|Hardware)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else None


def physical_cores(cpuinfo: str) -> int | None:
    """Return the distinct (package, core) pairs of /proc/cpuinfo; on Arm, without siblings, the processors."""
    packages = re.findall(r"^physical id\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)
    cores = re.findall(r"^core id\s*:\s*(\d+)$", cpuinfo, re.MULTILINE)
    if packages and len(packages) == len(cores):
        return len(set(zip(packages, cores, strict=True)))
    if re.search(r"^CPU architecture\s*:", cpuinfo, re.MULTILINE):
        return len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None
    return None


def instruction_sets(cpuinfo: str) -> tuple[str, ...]:
    """Return the vector instruction sets of the first processor, in the names that profiles use."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    flags = set(found[1].split()) if found else set()
    return tuple(name for name, flag in {**X86_SETS, **ARM_SETS}.items() if flag in flags)


def usable_cores(physical: int | None, root: Path = Path("/")) -> int:
    """Return how many threads keep a physical core each: the least of topology, affinity and the cgroup's quota."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [affinity, physical or affinity]
    quota = cgroup_quota(root)
    if quota is not None:
        limits.append(max(1, int(quota)))
    return max(1, min(limits))


def cgroup_quota(root: Path = Path("/")) -> float | None:
    """Return the processors that the cgroup's quota grants (v2 `cpu.max`, v1 `cpu.cfs_quota_us`), None for no limit."""
    for quota_file, period_file in (("cpu.max", None), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            parts = (root / "sys/fs/cgroup" / quota_file).read_text(encoding="ascii").split()
            if period_file:
                parts += (root / "sys/fs/cgroup" / period_file).read_text(encoding="ascii").split()
        except OSError:
            continue  # the other version of cgroups, or none: no quota then
        if len(parts) == 2 and parts[0].isdigit() and parts[1].isdigit():
            return int(parts[0]) / int(parts[1])
    return None
