"""Emulated processors: which Python runs a measurement, and what is left of a result whose times mean nothing."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.errors import Finding, ProviderError, UserError
from rmtkd_edge.run.records.profile import ProfileRecord

WHY = "emulated: times, memory and energy of an emulator say nothing about the device"
SETUP = "python tools/arm64_python.py DIR sets it up; then --python DIR/python"
ARCHITECTURE = "aarch64"  # the one that tools/arm64_python.py sets up
STALL_S = 3600.0  # a model that takes seconds here takes minutes there, and a round says nothing before it ends
REPORT = "import platform; print(platform.machine())"
ASK_S = 120.0


def find_python(name: str) -> str:
    """Return the path of a Python by its name or path, links not followed; raise UserError where there is none."""
    found = shutil.which(name)
    if found is None:
        raise UserError(f"--python {name}: there is no such program", "give the path of a Python")
    return str(Path(found).absolute())


def machine_of(python: str) -> str:
    """Return what platform.machine() is for a Python, or raise ProviderError where it does not run."""
    try:
        done = subprocess.run([python, "-c", REPORT], capture_output=True, text=True, timeout=ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as err:
        raise ProviderError(f"{python} does not run: {err}", SETUP) from err
    if done.returncode or not done.stdout.strip():
        raise ProviderError(f"{python} does not run: {done.stderr.strip()[-300:] or 'it said nothing'}", SETUP)
    return done.stdout.split()[-1]


def refuse_interpreter(profile: HardwareProfile, host: str | None, python: str | None) -> None:
    """Raise UserError where the Python of a measurement is emulated and the profile is not, or the other way round."""
    if profile.emulated and (host or profile.host):
        raise UserError(f"{profile.name} is emulated on this machine, not on a host", "leave --host out")
    if profile.emulated and python is None:
        raise UserError(f"{profile.name} needs a Python of that architecture", SETUP)
    if python is not None and host is None and profile.host is None:
        refuse_machine(profile, machine_of(find_python(python)), python)


def refuse_machine(profile: HardwareProfile, machine: str, python: str) -> None:
    """Raise UserError unless `machine` is emulated here exactly where the profile says so."""
    here = platform.machine()
    if profile.emulated and machine == here:
        raise UserError(f"{python} runs on {machine} as this machine does: nothing is emulated", SETUP)
    if profile.emulated and machine != ARCHITECTURE:
        raise UserError(f"{python} runs on {machine}; {profile.name} needs {ARCHITECTURE}", SETUP)
    if not profile.emulated and machine != here:
        raise UserError(
            f"{python} runs on {machine}, which this machine ({here}) emulates: its times mean nothing",
            "--on arm64-emulated compares outputs only",
        )


def without_times(result: dict[str, Any]) -> dict[str, Any]:
    """Return a finished result whose times, memory and energy are None, each with the reason; raw times stay."""
    latency, memory, energy = dict(result["latency"]), dict(result["memory"]), dict(result["energy"])
    for key in ("mean", "p50", "p90", "p95", "p99", "stdev"):
        latency.update({key: None, f"{key}_why": WHY})
    memory.update(peak_rss_bytes=None, rss_after_load_bytes=None, why=WHY)
    energy.update(j_per_inf_gross=None, j_per_inf_net=None, kind="unavailable", why=WHY)
    gone = {key: None for key in ("throughput_per_s", "cold_start_ms", "cpu_s_per_inf")}
    whys = {f"{key}_why": WHY for key in gone}
    return {**result, **gone, **whys, "latency": latency, "memory": memory, "energy": energy}


def disagreements(record: ProfileRecord) -> list[str]:
    """Return a sentence for every int8 file whose outputs left the stated tolerance to its outputs on the host."""
    found = []
    for result in record.results:
        check = result.verification
        difference, limit = check.same_file_max_rel_diff, check.same_file_tolerance
        if difference is not None and limit is not None and difference > limit:
            found.append(
                f"{result.label} (batch {result.workload.batch}) differs from its outputs on the host by "
                f"{difference:.2e} of their largest magnitude; {limit:g} is the stated tolerance"
            )
    return found


def refuse_disagreement(record: ProfileRecord) -> None:
    """Raise Finding where an emulated device's int8 outputs left the tolerance (nothing else is asked of it)."""
    found = disagreements(record) if record.emulated else []
    if found:
        raise Finding(f"{record.profile}: {'; '.join(found)}", "what was measured is kept; see the report")
