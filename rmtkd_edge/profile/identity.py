"""Whether a machine is the device that a profile describes: figures never carry another device's name."""

from __future__ import annotations

from typing import Any

from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.errors import UserError
from rmtkd_edge.machine import ARM_SETS, X86_SETS, detect_machine
from rmtkd_edge.profile.emulation import refuse_interpreter

RUNTIMES = ("node", "browser")  # transports to other runtimes on this machine


def refuse_runtime(profile: HardwareProfile) -> None:
    """Raise UserError for a profile whose runtime is not Python's: runner.py alone would measure something else."""
    if profile.transport in RUNTIMES:
        raise UserError(
            f"{profile.name} is measured in another runtime of this machine ({profile.transport}), by `profile` alone",
            f"rmtkd-edge profile RUN --on {profile.name}",
        )


def refuse_device(profile: HardwareProfile, host: str | None, python: str | None = None) -> None:
    """Raise UserError unless the profile can be measured over ssh on `host` (or its own), or here (by `python`)."""
    if profile.transport in RUNTIMES:
        if host is not None or python is not None:
            raise UserError(f"{profile.name} is measured on this machine", "leave --host and --python out")
        return
    refuse_interpreter(profile, host, python)
    if profile.emulated:
        return
    if host is None and profile.host is None:
        refuse_other_device(profile)
    elif profile.detect:
        raise UserError(f"{profile.name} describes the machine that it is used on", "--on another profile, or a copy")
    else:
        refuse_unknown_threads(profile)


def refuse_other_device(profile: HardwareProfile) -> None:
    """Raise UserError unless this machine is what the profile describes."""
    refuse_runtime(profile)
    if profile.transport != "local":
        raise UserError(
            f"{profile.name} is another device (transport {profile.transport}), and nothing says how to reach it",
            f"--host NAME measures it over ssh; rmtkd-edge bundle RUN --on {profile.name} makes a folder that measures "
            "itself there",
        )
    have = detect_machine().instruction_sets
    lacking = [name for name in profile.instruction_sets if name not in have]
    if lacking:
        raise UserError(
            f"{profile.name} needs {', '.join(lacking)}; this processor has {', '.join(have) or 'none that is known'}",
            "measure this machine as what it is: --on local-cpu",
        )


def refuse_unknown_threads(profile: HardwareProfile) -> None:
    """Raise UserError where the profile leaves the threads to a machine that is not this one."""
    if profile.threads == "auto-physical":
        raise UserError(
            f"{profile.name} leaves the threads to the machine, and this one does not know the device's cores",
            "--threads 4, or write threads into a copy of the profile",
        )


def refuse_other_machine(env: dict[str, Any], profile: HardwareProfile, where: str) -> None:
    """Raise UserError where the processor that `env` describes lacks what the profile names."""
    if env.get("emulated") and not profile.emulated:
        raise UserError(f"{where} is emulated: its times mean nothing", "--on arm64-emulated compares outputs only")
    flags = env.get("cpu_flags")
    names = {**X86_SETS, **ARM_SETS}
    lacking = [] if flags is None else [s for s in profile.instruction_sets if names.get(s) not in flags]
    if lacking:
        raise UserError(
            f"{where} is a {env.get('machine')} ({env.get('cpu_model') or 'unknown processor'}) without "
            f"{', '.join(lacking)}; {profile.name} has it",
            "name the profile that this device is: --on NAME",
        )
