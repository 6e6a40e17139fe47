"""What this machine has: versions, packages in conflict, execution providers that really load, energy meters."""

from __future__ import annotations

import platform
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, requires, version
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "datasets",
    "accelerate",
    "onnx",
    "onnxscript",
    "numpy",
    "scipy",
    "safetensors",
)
ONNXRUNTIMES = ("onnxruntime", "onnxruntime-gpu")
CPU_TORCH = "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu"
INSTALL = "pip install -c constraints.txt -e '.[demo]'"
IMPORT_TIMEOUT_S = 180
LIST = "import onnxruntime as ort; print(','.join(ort.get_available_providers()))"
PROBE = """
import sys, onnxruntime as ort
if sys.argv[1] == "CUDAExecutionProvider" and hasattr(ort, "preload_dlls"):
    ort.preload_dlls()
options = ort.SessionOptions()
options.log_severity_level = 4
session = ort.InferenceSession(sys.stdin.buffer.read(), options, providers=[sys.argv[1]])
print(",".join(session.get_providers()))
"""
NOT_MEASURING = ("modelled", "unavailable")


@dataclass(frozen=True)
class Check:
    """One line of the examination; `advice` is empty where there is nothing to do."""

    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Return all checks; nothing is changed, and a check that cannot be made says why."""
    gpu = has_gpu()
    torch = [torch_pair(), *torch_build(cuda_of_torch(), gpu)]
    return [*machine(), *packages(), onnxruntime_packages(gpu=gpu), *torch, *providers(), *meters()]


def machine() -> list[Check]:
    """Return the processor, its instruction sets, cores and memory."""
    from rmtkd_edge.config.hardware import alignment_of
    from rmtkd_edge.machine import detect_machine

    found = detect_machine()
    sets = ", ".join(found.instruction_sets) or "unknown"
    multiple, why = alignment_of(found.instruction_sets)
    memory = "unknown" if found.memory_bytes is None else f"{found.memory_bytes / 2**30:.1f} GiB"
    return [
        Check("system", "ok", f"{platform.system()} {platform.machine()}, Python {platform.python_version()}"),
        Check("processor", "ok", f"{found.processor_model or 'unknown'}, {found.usable_cores} usable cores, {memory}"),
        Check("instructions", "ok", f"{sets}; widths in multiples of {multiple} ({why})"),
    ]


def packages() -> list[Check]:
    """Return the versions of the packages that the work is done with."""
    checks = []
    for name in PACKAGES:
        try:
            checks.append(Check(name, "ok", version(name)))
        except PackageNotFoundError:
            checks.append(Check(name, "problem", "not installed", INSTALL))
    return checks


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Return the versions of those of the named packages that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = distribution(name).version
        except PackageNotFoundError:
            continue
    return found


def has_gpu() -> bool:
    """Return whether this machine has an NVIDIA GPU with a driver."""
    if shutil.which("nvidia-smi") is None:
        return Path("/etc/nv_tegra_release").is_file()  # a Jetson
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode == 0 and "GPU" in done.stdout


def onnxruntime_packages(found: dict[str, str] | None = None, gpu: bool = False) -> Check:
    """Return whether exactly one onnxruntime is installed; two overwrite each other's files.

    Args:
        found: versions by package; those that are installed when None.
        gpu: whether the machine has an NVIDIA GPU, which decides what is kept of two.
    """
    found = installed(ONNXRUNTIMES) if found is None else found
    text = ", ".join(f"{name} {number}" for name, number in found.items())
    if len(found) == 2:
        keep = "onnxruntime-gpu" if gpu else "onnxruntime"
        why = "this machine has an NVIDIA GPU" if gpu else "this machine has no NVIDIA GPU"
        advice = f"pip uninstall -y {' '.join(ONNXRUNTIMES)} && pip install {keep}=={found[keep]}"
        return Check("onnxruntime", "problem", f"{text}: they overwrite each other's files ({why})", advice)
    if not found:
        advice = INSTALL if gpu else f"pip install onnxruntime (without an NVIDIA GPU), or {INSTALL}"
        return Check("onnxruntime", "problem", "not installed", advice)
    return Check("onnxruntime", "ok", text)


def cuda_of_torch() -> str | None:
    """Return the CUDA version that the installed torch was built for, None for a CPU build or without torch."""
    try:
        text = Path(str(distribution("torch").locate_file("torch/version.py"))).read_text(encoding="utf-8")
    except (PackageNotFoundError, OSError):
        return None
    found = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)", text, re.MULTILINE)
    return found[1] if found else None


def torch_build(cuda: str | None, gpu: bool) -> list[Check]:
    """Return a note where torch brings CUDA and the machine has no NVIDIA GPU: gigabytes that nothing uses."""
    if cuda is None or gpu:
        return []
    found = f"torch was built for CUDA {cuda}, and this machine has no NVIDIA GPU: it works, and takes gigabytes"
    return [Check("torch build", "note", found, f"in a new environment: {CPU_TORCH}, and then {INSTALL}")]


def torch_pair() -> Check:
    """Return whether torch and torchvision are built for each other (the import is tried in a process of its own)."""
    found = installed(("torch", "torchvision"))
    for name in ("torch", "torchvision"):
        if name not in found:
            return Check("torch pair", "problem", f"{name} is not installed", INSTALL)
    text = f"torch {found['torch']}, torchvision {found['torchvision']}"
    wanted = [r.specifier for r in map(Requirement, requires("torchvision") or []) if r.name == "torch"]
    if not all(specifier.contains(found["torch"], prereleases=True) for specifier in wanted):
        return Check("torch pair", "problem", f"{text}: this torchvision needs torch {wanted[0]}", INSTALL)
    imported, why = said([sys.executable, "-c", "import torchvision"])
    if imported is None:
        return Check("torch pair", "problem", f"{text}: torchvision does not import: {why}", INSTALL)
    return Check("torch pair", "ok", f"{text}: they match and import")


def providers() -> list[Check]:
    """Return every execution provider of the installed onnxruntime, and whether a session really gets it."""
    listed, why = said([sys.executable, "-c", LIST])
    if listed is None:
        return [Check("providers", "problem", f"onnxruntime does not import: {why}", _import_advice(why))]
    checks = []
    model = tiny_model()
    for name in listed.split(","):
        actual, reason = loads(model, name)
        if actual:
            checks.append(Check(name, "ok", "loads"))
        else:
            advice = (
                ""
                if name != "CUDAExecutionProvider"
                else "needs an NVIDIA GPU with a driver for CUDA 13; for the CPU onnxruntime alone is enough"
            )
            checks.append(Check(name, "note", f"is in the package but does not load here: {reason}", advice))
    return checks


def loads(model: bytes, provider: str) -> tuple[bool, str]:
    """Return whether a session on `provider` really gets it, and else the reason.

    It is tried in a process of its own: a provider without its libraries writes to the terminal, and may take it down.
    """
    found, why = said([sys.executable, "-c", PROBE, provider], model)
    if found is None:
        return False, why[:160]
    return provider in found.split(","), f"a session falls back to {found.replace(',', ', ')}"


def said(command: list[str], stdin: bytes = b"") -> tuple[str | None, str]:
    """Return the last line that a command writes and, where it fails or a signal ends it, None and the reason."""
    try:
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=IMPORT_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return None, f"it takes over {IMPORT_TIMEOUT_S} s"
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return None, f"{name}, which the processor raises for instructions that it lacks" if name == "SIGILL" else name
    if done.returncode:
        return None, (done.stderr.decode(errors="replace").strip().splitlines() or [f"code {done.returncode}"])[-1]
    return (done.stdout.decode(errors="replace").strip().splitlines() or [""])[-1], ""


def _import_advice(why: str) -> str:
    """Return what to do about an onnxruntime that does not import."""
    if "libcu" in why:  # onnxruntime-gpu 1.27 and 1.28 want CUDA's libraries even for the CPU
        return (
            "the GPU package wants CUDA: pip install 'onnxruntime-gpu>=1.29', or without a GPU: pip uninstall -y "
            "onnxruntime-gpu && pip install onnxruntime"
        )
    return "pip install --upgrade onnxruntime" if "SIGILL" in why else INSTALL


def tiny_model() -> bytes:
    """Return an ONNX model with one op."""
    from onnx import TensorProto, helper

    value = lambda name: helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])  # noqa: E731
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", [value("x")], [value("y")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def meters() -> list[Check]:
    """Return every measuring energy meter, of this package and of others, and whether it can be opened here."""
    from rmtkd_edge.errors import ProviderError
    from rmtkd_edge.profile.meter_files import load_meter, meter_names
    from rmtkd_edge.profile.meters.base import MeterAbsent

    checks = []
    for name in meter_names():
        if name in NOT_MEASURING:
            continue
        try:
            load_meter(name).open_meter({}).close()
        except MeterAbsent as absent:
            checks.append(Check(f"meter {name}", "note", f"not here: {absent.why}", " or ".join(absent.ways_out)))
        except ProviderError as err:
            checks.append(Check(f"meter {name}", "problem", err.message, err.hint))
        else:
            checks.append(Check(f"meter {name}", "ok", "can be read"))
    return checks
