"""What a hardware profile (profiles/*.toml) says, and what this machine is: every key and its only default."""

from __future__ import annotations

import difflib
import os
import platform
import re
import tomllib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rmtkd_edge.errors import RecipeError

Positive = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(gt=0.0)]
Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
MeterName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]

# Multiples that ranks are rounded up to: the float32 lanes of one vector register (avx512 16, avx2 8, neon 4), which is
# the channel block of onnxruntime's blocked convolutions and the tile width of its matrix products; on CUDA 8, the
# multiple that tensor cores want for half precision.
ALIGNMENT = MappingProxyType({"cuda": 8, "avx512": 16, "avx2": 8, "neon": 4})

X86_SETS = {"avx512": "avx512f", "avx512-vnni": "avx512_vnni", "avx-vnni": "avx_vnni", "avx2": "avx2"}
UNREADABLE = {
    "form_factor": "software cannot read it",
    "cooling": "software cannot read it",
    "power": "no figure is known for this machine; write idle_watts, active_watts_per_core and source in a profile",
}
ARM_SETS = {"neon": "asimd", "dotprod": "asimddp", "i8mm": "i8mm", "sve": "sve"}


class Section(BaseModel):
    """A table of a profile: unknown keys are refused, values cannot be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Processor(Section):
    """The processor as MLPerf describes it; None where nobody knows."""

    model: str | None = None
    cores: Positive | None = Field(default=None, description="Physical cores")


class Alignment(Section):
    """Widths are rounded up to these multiples: `gemm` for matrix products, `conv` for channels."""

    gemm: Positive
    conv: Positive


class Power(Section):
    """Figures for the `modelled` meter, in watts; both may be left out, and neither may stand without a source."""

    idle_watts: Amount | None = None
    active_watts_per_core: Amount | None = Field(default=None, description="Above idle, for one core at full load")
    source: str | None = Field(default=None, description="Who measured it, where, and what it covers")

    @model_validator(mode="after")
    def _has_source(self) -> Power:
        if (self.idle_watts or self.active_watts_per_core) and not self.source:
            raise ValueError("watts without a `source` are no evidence: say who measured them")
        return self


class Loads(Section):
    """What is run by default: every batch with every sequence length."""

    batches: tuple[Positive, ...] = Field(default=(1, 8), min_length=1)
    seq: tuple[Positive, ...] = Field(default=(128,), min_length=1)


class Budgets(Section):
    """Limits of the device for one model; None means none."""

    latency_ms: Amount | None = None
    disk_mb: Amount | None = None
    memory_mb: Amount | None = None
    energy_mj: Amount | None = None


class HardwareProfile(Section):
    """A device: what it is, how it is measured, and what it can bear."""

    name: Name
    title: str
    detect: bool = Field(default=False, description="Fill what is left out from the machine that this runs on")
    form_factor: str | None = None
    chipset: str | None = None
    processor: Processor = Processor()
    memory_bytes: Positive | None = None
    accelerator: str | None = None
    operating_system: str | None = None
    cooling: str | None = None
    power_management: str | None = None
    instruction_sets: tuple[Name, ...] = Field(
        default=(), description="What the processor must have, e.g. avx512, avx2, neon"
    )
    provider: str = Field(default="CPUExecutionProvider", pattern=r"^[A-Za-z]+ExecutionProvider$")
    threads: Positive | Literal["auto-physical"] = Field(
        "auto-physical", description="Threads of one onnxruntime session"
    )
    spinning: bool = Field(
        default=False, description="session.intra_op.allow_spinning: saves microseconds, costs energy"
    )
    alignment: Alignment
    meters: tuple[MeterName, ...] = Field(
        default=("unavailable",), min_length=1, description="Energy meters, best first"
    )
    power: Power = Power()
    transport: Literal["local", "ssh", "folder"]
    loads: Loads = Loads()
    budgets: Budgets = Budgets()
    comparable: bool = Field(description="Whether figures of two machines under this name may be compared")
    whys: dict[str, str] = Field(default={}, description="Why a key has no value, or which rule gave it one")

    @property
    def memory_gb(self) -> float | None:
        """Memory in GiB, or None where `memory_bytes` is."""
        return None if self.memory_bytes is None else self.memory_bytes / 2**30

    @property
    def idle_watts(self) -> float | None:
        """Watts of the idle board, or None where no honest figure is known."""
        return self.power.idle_watts

    @property
    def active_watts_per_core(self) -> float | None:
        """Watts above idle of one busy core, or None where no honest figure is known."""
        return self.power.active_watts_per_core


def profiles_folder() -> Path:
    """Return the folder of the profiles that ship: inside the wheel, or profiles/ of a checkout."""
    shipped = Path(str(resources.files("rmtkd_edge"))) / "_data" / "profiles"
    return shipped if shipped.is_dir() else Path(__file__).resolve().parent.parent / "profiles"


def list_profiles() -> list[str]:
    """Return the names of the profiles that ship, sorted."""
    return sorted(path.stem for path in profiles_folder().glob("*.toml"))


def load_profile(name_or_path: str | Path) -> HardwareProfile:
    """Read a profile by the name of one that ships or by a path ending in .toml; one with `detect` is filled in.

    Raises RecipeError that lists all faults at once, or the profiles that exist.
    """
    path = _find(str(name_or_path))
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise RecipeError(
            f"{path} is not a readable TOML file: {err}", "mend the file at the place named above"
        ) from err
    return parse_profile(data, str(path))


def parse_profile(data: dict[str, Any], where: str, machine: Machine | None = None) -> HardwareProfile:
    """Return the profile that `data` describes; `machine` stands in for this one where the profile says `detect`.

    Raises RecipeError with every fault of it, each with a near match where a key is unknown.
    """
    if data.get("detect") is True:
        data = fill_from_machine(data, machine or detect_machine())
    try:
        return HardwareProfile.model_validate(data)
    except ValidationError as err:
        lines = "\n".join(_describe(dict(fault)) for fault in err.errors())
        raise RecipeError(f"{where}:\n{lines}", f"profiles/{list_profiles()[0]}.toml is an example that works") from err


def detect_local() -> HardwareProfile:
    """Return the profile `local-cpu` filled in from this machine; what cannot be read is None, its reason in `whys`."""
    return load_profile("local-cpu")


def resolve_threads(profile: HardwareProfile, machine: Machine | None = None) -> int:
    """Return the threads of a session: the profile's, or the physical cores that this process may use."""
    return profile.threads if profile.threads != "auto-physical" else (machine or detect_machine()).usable_cores


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


def _find(name: str) -> Path:
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return path
    names = list_profiles()
    if name in names:
        return profiles_folder() / f"{name}.toml"
    near = difflib.get_close_matches(path.stem, names, n=1)
    guess = f" Did you mean `{near[0]}`?" if near else ""
    raise RecipeError(
        f"there is no hardware profile `{name}`.{guess}",
        f"profiles that ship: {', '.join(names)}; or give a .toml file",
    )


def _describe(fault: dict[str, Any]) -> str:
    path = [str(part) for part in fault["loc"]]
    where = ".".join(path) or "the profile"
    if fault["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1, cutoff=0.5)
        return f"  {where}: unknown key; " + (f"did you mean `{near[0]}`?" if near else f"known: {', '.join(known)}")
    got = "" if isinstance(fault.get("input"), dict) else f" (got {fault.get('input')!r})"
    return f"  {where}: {fault['msg']}{got}"


def _keys_at(path: list[str]) -> list[str]:
    model: type[BaseModel] = HardwareProfile
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)


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
