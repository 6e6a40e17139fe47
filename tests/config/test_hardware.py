"""Hardware profiles: every one that ships is complete and honest; faults are listed together; this machine is read."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from config.keys import put
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.config import hardware
from rmtkd_edge.config.hardware import (
    ALIGNMENT,
    HardwareProfile,
    list_profiles,
    load_profile,
    parse_profile,
    profiles_folder,
    resolve_threads,
)
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.machine import cgroup_quota, detect_machine, instruction_sets, physical_cores, usable_cores
from rmtkd_edge.profile import meters
from rmtkd_edge.profile.options import profile_of

METERS = {p.stem for p in Path(meters.__file__).parent.glob("*.py")} - {"base", "__init__"}
MINIMAL = {"name": "x", "title": "X", "transport": "local", "comparable": False, "alignment": {"gemm": 8, "conv": 8}}
X86 = """processor\t: {i}
model name\t: A Processor
physical id\t: {package}
core id\t\t: {core}
flags\t\t: fpu avx avx2 avx512f avx512_vnni
"""
PI = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU architecture: 8\n\nprocessor\t: 1\nCPU architecture: 8\n"


def test_the_profiles_of_the_design_ship() -> None:
    wanted = {"local-cpu", "generic-x86-avx512", "generic-x86-avx2", "raspberry-pi-5", "raspberry-pi-4", "nvidia-gpu"}
    assert wanted | {"jetson-orin-nano", "node", "web-wasm"} <= set(list_profiles())


@pytest.mark.parametrize("name", list_profiles())
def test_every_profile_is_whole(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert set(profile.meters) <= METERS
    assert profile.meters[-1] == "unavailable"  # the end of every list: nothing measured, and said so
    assert resolve_threads(profile) >= 1
    if profile.provider in ("CPUExecutionProvider", "OpenVINOExecutionProvider"):  # processors
        assert profile.alignment.gemm == hardware.alignment_of(profile.instruction_sets)[0]
    else:
        assert profile.alignment.gemm == ALIGNMENT["wasm" if profile.transport == "browser" else "cuda"]
    for figure in (profile.power.idle_watts, profile.power.active_watts_per_core):
        assert figure is None or profile.power.source
    if profile.power.active_watts_per_core is None and "modelled" in profile.meters:
        assert "power" in profile.whys
    assert not profile.comparable or not profile.detect  # what is detected differs from machine to machine


def test_all_faults_at_once_with_near_matches(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(
        'name = "bad"\ntitle = "Bad"\ntransprot = "local"\nthreads = 0\ncomparable = true\n[alignment]\ngem = 4\n'
    )
    with pytest.raises(RecipeError) as caught:
        load_profile(path)
    message = caught.value.message
    for part in (
        "transprot",
        "did you mean `transport`",
        "threads",
        "alignment.gem:",
        "did you mean `gemm`",
        str(path),
    ):
        assert part in message
    assert caught.value.hint


def test_unknown_profile_lists_names_and_guesses() -> None:
    with pytest.raises(RecipeError, match="did you mean `raspberry-pi-5`") as caught:
        load_profile("rasberry-pi-5")
    assert all(name in caught.value.hint for name in list_profiles())


def test_a_users_file_works_and_a_broken_one_is_named(tmp_path: Path) -> None:
    shipped = hardware.profiles_folder() / "raspberry-pi-4.toml"
    path = tmp_path / "mine.toml"
    path.write_text(shipped.read_text().replace('"raspberry-pi-4"', '"mine"'))
    assert load_profile(str(path)).name == "mine"
    path.write_text("= nonsense")
    with pytest.raises(RecipeError, match=r"mine\.toml"):
        load_profile(path)


def test_watts_without_a_source_are_refused() -> None:
    with pytest.raises(RecipeError, match="source"):
        parse_profile({**MINIMAL, "power": {"idle_watts": 2.0}}, "here")


def test_a_meters_log_needs_no_watts_and_reaches_the_meter() -> None:
    profile = parse_profile({**MINIMAL, "power": {"csv": "/home/me/meter.csv"}}, "here")
    assert profile.power.model_dump()["csv"] == "/home/me/meter.csv"  # the plan's meter_options


def test_profiles_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_profile(MINIMAL, "here").name = "y"  # type: ignore[misc]


def test_a_machine_without_files_is_none_and_says_why(tmp_path: Path) -> None:
    machine = detect_machine(tmp_path)
    assert machine.processor_model is None
    assert machine.physical_cores is None
    assert machine.memory_bytes is None
    assert machine.instruction_sets == ()
    assert machine.usable_cores >= 1
    for key in ("processor", "processor.cores", "memory_bytes", "operating_system", "power_management", "chipset"):
        assert machine.whys[key]
    profile = parse_profile({k: v for k, v in MINIMAL.items() if k != "alignment"} | {"detect": True}, "here", machine)
    assert profile.processor.model is None
    assert "no vector instructions" in profile.whys["alignment"]
    assert resolve_threads(profile, machine) == machine.usable_cores


def test_what_the_profile_says_stands_over_what_was_detected(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text("\n".join(X86.format(i=i, package=0, core=i // 2) for i in range(4)))
    (tmp_path / "proc/meminfo").write_text("MemTotal:       1024 kB\n")
    machine = detect_machine(tmp_path)
    assert machine.physical_cores == 2
    assert machine.memory_bytes == 2**20
    found = parse_profile({"detect": True, "processor": {"cores": 7}} | MINIMAL, "here", machine)
    assert (found.processor.model, found.processor.cores) == ("A Processor", 7)
    assert found.alignment.gemm == 8
    free = {k: v for k, v in MINIMAL.items() if k != "alignment"}
    assert parse_profile({"detect": True, **free}, "here", machine).alignment.gemm == 16


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 16), st.integers(1, 2))
def test_physical_cores_are_counted_once(packages: int, cores: int, siblings: int) -> None:
    entries = [(p, c) for p in range(packages) for c in range(cores) for _ in range(siblings)]
    text = "\n".join(X86.format(i=i, package=p, core=c) for i, (p, c) in enumerate(entries))
    assert physical_cores(text) == packages * cores


def test_arm_and_instruction_sets() -> None:
    assert physical_cores(PI) == 2
    assert instruction_sets(PI) == ("neon", "dotprod")
    assert hardware.alignment_of(("neon", "dotprod"))[0] == 4
    assert instruction_sets(X86)[0] == "avx512"


@pytest.mark.parametrize(("text", "cores"), [("max 100000", None), ("150000 100000", 1.5), ("", None)])
def test_cgroup_quota(tmp_path: Path, text: str, cores: float | None) -> None:
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text(text)
    assert cgroup_quota(tmp_path) == cores
    assert usable_cores(64, tmp_path) == (1 if cores else usable_cores(64, tmp_path / "none"))


def test_the_local_profile_is_this_machine() -> None:
    profile = load_profile("local-cpu")
    assert isinstance(profile, HardwareProfile)
    assert profile.transport == "local"
    assert not profile.comparable
    assert profile.memory_bytes is None or profile.memory_bytes > 0


def test_a_table_of_an_earlier_version_is_refused_with_its_new_name() -> None:
    with pytest.raises(RecipeError, match=r"\[loads\] was renamed, it is \[workloads\] now"):
        parse_profile({**MINIMAL, "loads": {"batches": [1]}}, "here")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threads", 10**9),
        ("memory_bytes", 2**63),
        ("alignment.gemm", 2**31),
        ("limits.cores", 2**31),
        ("limits.memory_mb", 1e300),
        ("limits.cpu_quota", float("inf")),
        ("workloads.batches", [2**31]),
        ("workloads.seq", [10**400]),
        ("budgets.latency_ms", float("inf")),
        ("name", "x" * 300),
    ],
)
def test_absurd_values_are_refused_with_their_key(key: str, value: Any) -> None:
    data = tomllib.loads((profiles_folder() / "raspberry-pi-5.toml").read_text(encoding="utf-8"))
    put(data, key, value)
    with pytest.raises(RecipeError) as caught:
        parse_profile(data, "a profile")
    assert key in caught.value.message and len(caught.value.message) < 1000


@pytest.mark.parametrize("threads", [0, 10**9])
def test_threads_that_are_asked_for_are_bounded_too(threads: int) -> None:
    assert profile_of("raspberry-pi-5", 2).threads == 2
    with pytest.raises(RecipeError, match="threads"):
        profile_of("raspberry-pi-5", threads)
