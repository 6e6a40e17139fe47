"""What a hardware profile (profiles/*.toml) says: every key and its only default."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from rmtkd_edge.config.settings import (
    Amount,
    Batch,
    Graph,
    Length,
    Positive,
    Section,
    describe_faults,
    did_you_mean,
    shipped_folder,
)
from rmtkd_edge.config.toml import read_toml
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.machine import Machine, detect_machine

Cores = Annotated[int, Field(ge=1, le=4096)]
Bytes = Annotated[int, Field(ge=1, le=2**63 - 1)]
Multiple = Annotated[int, Field(ge=1, le=4096)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=100)]  # it names files
MeterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)]

# Multiples that ranks are rounded up to: the float32 lanes of one vector register (avx512 16, avx2 8, neon 4), which is
# the channel block of onnxruntime's blocked convolutions and the tile width of its matrix products; on CUDA 8, the
# multiple that tensor cores need for half precision; WebAssembly's vectors have 4.
ALIGNMENT = MappingProxyType({"cuda": 8, "wasm": 4, "avx512": 16, "avx2": 8, "neon": 4})

# Providers with kernels of the operators (com.microsoft) in the graph `fast`.
FAST_PROVIDERS = frozenset({"CPUExecutionProvider", "CUDAExecutionProvider", "WasmExecutionProvider"})


class Processor(Section):
    """The processor as MLPerf describes it; None where it is unknown."""

    model: str | None = None
    cores: Cores | None = Field(default=None, description="Physical cores")


class Alignment(Section):
    """Widths are rounded up to these multiples: `gemm` for matrix products, `conv` for channels."""

    gemm: Multiple
    conv: Multiple


class Power(Section):
    """What meters are configured with: watts for `modelled`, never without a source; a log for `external_csv`."""

    idle_watts: Amount | None = None
    active_watts_per_core: Amount | None = Field(default=None, description="Above idle, for one core at full load")
    source: str | None = Field(default=None, description="Who measured it, where, and what it covers")
    csv: str | None = Field(
        default=None, description="Log of an external meter: absolute path on the machine that measures"
    )

    @model_validator(mode="after")
    def _has_source(self) -> Power:
        if (self.idle_watts or self.active_watts_per_core) and not self.source:
            raise ValueError("watts without a `source` are no evidence: say who measured them")
        return self


class Workloads(Section):
    """What is run by default: every batch size with every sequence length."""

    batches: tuple[Batch, ...] = Field(default=(1, 8), min_length=1)
    seq: tuple[Length, ...] = Field(default=(128,), min_length=1)


class Limits(Section):
    """What a measurement is held to, so that a larger machine stands in for a smaller one; None means no limit."""

    cores: Cores | None = Field(default=None, description="Cores that it may use, by affinity")
    cpu_quota: Amount | None = Field(default=None, description="Processors' worth of time, by cgroup v2: 0.5 is half")
    memory_mb: Amount | None = Field(default=None, description="Memory of a process that runs one model, in 10^6 bytes")

    def imposed(self) -> dict[str, Any]:
        """Return the limits that are set, as a plan names them (memory in bytes); empty without any."""
        memory = None if self.memory_mb is None else int(self.memory_mb * 1_000_000)
        named = {"cores": self.cores, "cpu_quota": self.cpu_quota, "memory_bytes": memory}
        return {key: value for key, value in named.items() if value is not None}


class Session(Section):
    """Options of an onnxruntime session of a processor, beside threads and spinning; the defaults are its own."""

    graph_level: Literal["basic", "extended", "all"] = Field(default="all", description="Graph optimisation level")
    arena: bool = Field(default=True, description="Keep memory for the next call: enable_cpu_mem_arena")
    memory_pattern: bool = Field(default=True, description="Plan memory in one block by shape: enable_mem_pattern")
    io_binding: bool = Field(default=False, description="Bind inputs and outputs; on accelerators they always are")


class Budgets(Section):
    """Limits of the device for one model; None means none."""

    latency_ms: Amount | None = None
    disk_mb: Amount | None = None
    memory_mb: Amount | None = None
    energy_mj: Amount | None = None


Curve = dict[Positive, Amount]  # median latency_ms by width
# What the curves of `rmtkd-edge calibrate` are measured on: layers in a row of one width, after one that reads these.
CURVE_DEPTH, CURVE_CHANNELS, CURVE_SIDE, CURVE_BATCH, CURVE_FEATURES, CURVE_ROWS = 3, 3, 16, 8, 64, 128
CURVE_FEW_SIDE, CURVE_ELEMENTS = 4, 1024


class Calibration(Section):
    """Curves that `rmtkd-edge calibrate` measured: median latency_ms by width, of three layers in a row."""

    profile: str = Field(description="The profile that this one is a copy of")
    provider: str
    processor: str
    onnxruntime: str
    threads: Cores
    contended: Annotated[int, Field(ge=0)] = Field(description="Widths whose runs were disturbed by other processes")
    conv: Curve = Field(description="3 x 3 convolutions of that many channels, 8 images of 16 x 16")
    gemm: Curve = Field(description="Products of 128 rows with square matrices")
    conv_sizes: Curve = Field(default={}, description="The same convolutions, from narrow to wide")
    gemm_sizes: Curve = Field(default={}, description="The same products, from narrow to wide")
    conv_few_sizes: Curve = Field(default={}, description="The same convolutions of one image of 4 x 4")
    ns_per_element: dict[Literal["gelu", "softmax", "norm"], Amount] = Field(
        default={}, description="What goes over every element between the products"
    )

    def ns_per_mac(self, kind: Literal["conv", "gemm"], width: float, pixels: int | None = None) -> float:
        """Return nanoseconds a multiply-accumulate of a layer that wide.

        Read off the curve of sizes, between its points by powers; beyond its ends the nearest point holds. With
        `pixels`, of a convolution's output in the whole batch: one part does not depend on them, the other (reading the
        weights, the call) is shared by them; both come from the two curves. Raises ValueError for a profile that was
        calibrated before it had sizes.
        """
        curve = self.conv_sizes if kind == "conv" else self.gemm_sizes
        if not curve:
            raise ValueError(f"the calibration of {self.profile} has no {kind}_sizes")
        many = read_curve({w: ms * 1e6 / curve_macs(kind, w) for w, ms in curve.items()}, width)
        if pixels is None or not self.conv_few_sizes:
            return many
        few = read_curve({w: ms * 1e6 / curve_macs("conv_few", w) for w, ms in self.conv_few_sizes.items()}, width)
        shared = max(few - many, 0.0) / (1 / CURVE_FEW_SIDE**2 - 1 / (CURVE_BATCH * CURVE_SIDE**2))
        return many + shared * (1 / pixels - 1 / (CURVE_BATCH * CURVE_SIDE**2))


def read_curve(curve: dict[int, float], width: float) -> float:
    """Return a curve's value at a width: between its points by powers, beyond its ends that of the nearest point."""
    points = sorted((math.log(w), math.log(value)) for w, value in curve.items())
    at = min(max(math.log(max(width, 1.0)), points[0][0]), points[-1][0])
    for (x0, y0), (x1, y1) in pairwise(points):
        if at <= x1:
            return math.exp(y0 + (y1 - y0) * (at - x0) / (x1 - x0))
    return math.exp(points[-1][1])


def curve_macs(kind: str, width: int) -> int:
    """Return the multiply-accumulates of the graph that a curve's point of this width was measured on."""
    if kind == "gemm":
        return CURVE_ROWS * (CURVE_FEATURES * width + CURVE_DEPTH * width**2)
    pixels = CURVE_FEW_SIDE**2 if kind == "conv_few" else CURVE_BATCH * CURVE_SIDE**2
    return pixels * (CURVE_CHANNELS * width + CURVE_DEPTH * 9 * width**2)


class Tuning(Section):
    """What `rmtkd-edge profile --tune` found: the settings in this profile, and what they save."""

    profile: str = Field(description="The profile that this one is a copy of")
    model: str = Field(description="The file that was tuned")
    sha256: str
    workload: str
    processor: str
    onnxruntime: str
    ratio: Amount | None = Field(default=None, description="Latency divided by that before; none where nothing helped")
    ci95: tuple[Amount, Amount] | None = Field(default=None, description="Its 95 % interval")


class HardwareProfile(Section):
    """A device: what it is, how it is measured, and what it can bear."""

    name: Name
    title: str
    detect: bool = Field(default=False, description="Fill what is left out from the machine that this runs on")
    form_factor: str | None = None
    chipset: str | None = None
    processor: Processor = Processor()
    memory_bytes: Bytes | None = None
    accelerator: str | None = None
    operating_system: str | None = None
    cooling: str | None = None
    power_management: str | None = None
    instruction_sets: tuple[Name, ...] = Field(
        default=(), description="What the processor must have, e.g. avx512, avx2, neon"
    )
    provider: str = Field(default="CPUExecutionProvider", pattern=r"^[A-Za-z]+ExecutionProvider$")
    graph: Graph | None = Field(default=None, description="What export writes for it; by the provider when left out")
    threads: Cores | Literal["auto-physical"] = Field("auto-physical", description="Threads of one onnxruntime session")
    spinning: bool = Field(
        default=False, description="session.intra_op.allow_spinning: saves microseconds, costs energy"
    )
    session: Session = Session()
    tf32: bool = Field(default=True, description="CUDA: fp32 products in TF32, where the GPU has it")
    alignment: Alignment
    meters: tuple[MeterName, ...] = Field(
        default=("unavailable",), min_length=1, description="Energy meters, best first"
    )
    power: Power = Power()
    calibration: Calibration | None = Field(default=None, description="Written by rmtkd-edge calibrate")
    tuning: Tuning | None = Field(default=None, description="Written by rmtkd-edge profile --tune")
    transport: Literal["local", "ssh", "folder", "node", "browser"]
    host: str | None = Field(default=None, description="Name for ssh; --host comes before it")
    limits: Limits = Limits()
    workloads: Workloads = Workloads()
    budgets: Budgets = Budgets()
    emulated: bool = Field(
        default=False,
        description="Another processor is emulated here: only outputs count, times and energy mean nothing",
    )
    comparable: bool = Field(description="Whether figures of two machines under this name may be compared")
    whys: dict[str, str] = Field(default={}, description="Why a key has no value, or which rule gave it one")

    @model_validator(mode="after")
    def _limits_can_hold(self) -> HardwareProfile:
        if self.limits.cores is not None and self.threads != "auto-physical" and self.threads > self.limits.cores:
            raise ValueError(f"threads = {self.threads} with limits.cores = {self.limits.cores}: name no more threads")
        if self.limits.memory_mb is not None and self.transport in ("node", "browser"):
            raise ValueError(f"limits.memory_mb holds a Python process; transport {self.transport} has another")
        if self.session != Session() and self.transport in ("node", "browser"):
            raise ValueError(f"[session] is of onnxruntime in Python; transport {self.transport} has another")
        return self


def profiles_folder() -> Path:
    """Return the folder of the profiles that ship: inside the wheel, or profiles/ of a checkout."""
    return shipped_folder("profiles")


def list_profiles() -> list[str]:
    """Return the names of the profiles that ship, sorted."""
    return sorted(path.stem for path in profiles_folder().glob("*.toml"))


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """Read a profile by the name of one that ships or by a path ending in .toml; one with `detect` is filled in.

    Raises RecipeError that lists all faults at once, or the profiles that exist.
    """
    path = find_profile(str(name_or_path))
    return parse_profile(read_toml(path), str(path))


def parse_profile(data: dict[str, Any], where: str, machine: Machine | None = None) -> HardwareProfile:
    """Return the profile that `data` describes; `machine` stands in for this one where the profile says `detect`.

    Raises RecipeError with every fault of it, each with a near match where a key is unknown.
    """
    if "loads" in data:
        raise RecipeError(f"{where}: the table [loads] was renamed, it is [workloads] now", "rename it in the file")
    tables = all(isinstance(data.get(key, {}), dict) for key in ("processor", "whys"))
    if data.get("detect") is True and tables and isinstance(data.get("instruction_sets", []), list):
        data = fill_from_machine(data, machine or detect_machine())
    try:
        return HardwareProfile.model_validate(data)
    except ValidationError as err:
        faults = describe_faults(err, HardwareProfile)
        raise RecipeError(
            f"{where}:\n{faults}", f"profiles/{list_profiles()[0]}.toml is an example that works"
        ) from err


def resolve_threads(profile: HardwareProfile, machine: Machine | None = None) -> int:
    """Return the threads of a session: the profile's, or the physical cores that it may use."""
    if profile.threads != "auto-physical":
        return profile.threads
    usable = (machine or detect_machine()).usable_cores
    return usable if profile.limits.cores is None else min(usable, profile.limits.cores)


def graph_for(wanted: Graph | None, profile: HardwareProfile | None) -> Graph:
    """Return the graph to export: what is asked for, else the profile's, else what its provider has kernels for."""
    if wanted is not None or profile is None:
        return wanted or "fast"
    return profile.graph or ("fast" if profile.provider in FAST_PROVIDERS else "portable")


def alignment_of(instruction_sets: tuple[str, ...]) -> tuple[int, str]:
    """Return the multiple for these instruction sets and the rule that gave it."""
    for name, multiple in ALIGNMENT.items():
        if name in instruction_sets:
            return multiple, f"the lanes of {name}"
    return 8, "no vector instructions recognised: 8, a multiple that suits avx2, neon and tensor cores"


def fill_from_machine(data: dict[str, Any], machine: Machine) -> dict[str, Any]:
    """Return the tables of a profile with what it leaves out taken from `machine`; what the profile says stands."""
    found = machine.facts()
    whys = {**found.pop("whys"), **data.get("whys", {})}
    sets = tuple(data.get("instruction_sets", found["instruction_sets"]))
    if "alignment" not in data:
        multiple, why = alignment_of(sets)
        found["alignment"], whys["alignment"] = {"gemm": multiple, "conv": multiple}, why
    processor = {**found["processor"], **data.get("processor", {})}
    return {**found, **data, "processor": processor, "whys": whys}


def find_profile(name: str) -> Path:
    """Return the file of a profile by name or path; raise RecipeError with the names that exist."""
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    names = list_profiles()
    if name in names:
        return profiles_folder() / f"{name}.toml"
    raise RecipeError(
        f"there is no hardware profile `{name}`{did_you_mean(path.stem, names)}",
        f"profiles that ship: {', '.join(names)}; or give a .toml file",
    )
