"""How a device is reached: the transport that a profile, or the command line, names for a bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.profile.emulation import STALL_S as EMULATED_STALL_S
from rmtkd_edge.profile.emulation import refuse_machine
from rmtkd_edge.profile.identity import refuse_other_machine
from rmtkd_edge.profile.transport_javascript import PACKAGES, find_tools, run_javascript
from rmtkd_edge.profile.transport_local import STALL_S, Progress, run_bundle
from rmtkd_edge.profile.transport_ssh import Target, Waiting, make_target, run_over_ssh


@dataclass(frozen=True)
class Reach:
    """What the command line says of the way to a device: its ssh name, how long its work may take, what runs it there.

    python: the interpreter. javascript: the folder of node_modules, for Node and the browser.
    """

    host: str | None = None
    timeout_s: float | None = None
    python: str | None = None
    javascript: Path | None = None


def carry_out(
    bundle: Path, results: Path, profile: HardwareProfile, reach: Reach, progress: Progress | None = None
) -> dict[str, Any]:
    """Run a bundle where the profile's device is and return the runner's document, which also stays at `results`.

    Raises what run_bundle and run_over_ssh raise, and UserError where another machine answered.
    """
    name = reach.host or profile.host
    if profile.transport in PACKAGES:
        tools = find_tools(profile.transport, reach.javascript)
        return run_javascript(bundle, results, tools, progress, timeout_s=reach.timeout_s)
    if name is None:
        stall_s = EMULATED_STALL_S if profile.emulated else STALL_S
        document = run_bundle(
            bundle, results, timeout_s=reach.timeout_s, stall_s=stall_s, progress=progress, python=reach.python
        )
        refuse_machine(profile, document["env"]["machine"], reach.python or "this Python")
        return document
    target = make_target(name, python=reach.python or Target.python)
    document = run_over_ssh(bundle, results, target, progress, Waiting(reach.timeout_s))
    refuse_other_machine(document["env"], profile, name)
    return document
