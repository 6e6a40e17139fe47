"""Whatever goes wrong in the middle of a measurement ends in a message that names it, and loses no finished round."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from profile_bundle import sha256, tiny_encoder, write_plan

from rmtkd_edge.profile.measuring import execute
from rmtkd_edge.profile.plan import copy_runner

Fault = Callable[[Path], None]
ROUNDS, DONE = 6, 2


class Stop(Exception):
    """Ends a measurement from outside, as a signal would."""


def stop_after(rounds: int) -> Any:
    def say(event: str, text: str, **facts: Any) -> None:
        if event == "round" and facts["done"] == rounds:
            raise Stop

    return say


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle whose measurement was stopped after two rounds of six."""
    folder = tmp_path_factory.mktemp("begun")
    plan = write_plan(folder, rounds=ROUNDS, min_runs=ROUNDS, files={}, profile="a")
    text = json.loads(plan.read_text())
    text["files"] = {name: sha256(folder / name) for name in ("inputs.npz", "reference.npz")}
    plan.write_text(json.dumps(text))
    copy_runner(folder)
    with pytest.raises(Stop):
        execute.measure(plan, folder / "results.json", stop_after(DONE))
    return folder


@pytest.fixture
def bundle(begun: Path, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    return shutil.copytree(begun, tmp_path / "bundle")


def run(folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    """Run the bundle by itself; `before` are lines of Python that the process begins with."""
    lines = [*before, f"import runpy; runpy.run_path({str(folder / 'runner.py')!r}, run_name='__main__')"]
    command = [sys.executable, "-c", "\n".join(lines)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, cwd=folder)


def change(**keys: Any) -> Fault:
    """Return a fault that puts other values into the plan."""

    def fault(folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        (folder / "plan.json").write_text(json.dumps({**plan, **keys}))

    return fault


def cut(name: str) -> Fault:
    """Return a fault that cuts a file in half."""

    def fault(folder: Path) -> None:
        data = (folder / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])

    return fault


def other_model(folder: Path) -> None:
    tiny_encoder(folder / "A.onnx", 16, seed=5)


def no_model_at_all(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "A.onnx").write_bytes(b"not an ONNX file")
    plan["models"][0]["sha256"] = sha256(folder / "A.onnx")
    (folder / "plan.json").write_text(json.dumps(plan))


def other_reference(value: float) -> Fault:
    """Return a fault after which the host's outputs are others than the device's."""

    def fault(folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        with np.load(folder / "reference.npz") as stored:
            arrays = {key: np.full_like(stored[key], value) for key in stored.files}
        np.savez(folder / "reference.npz", **arrays)
        plan["files"]["reference.npz"] = sha256(folder / "reference.npz")
        (folder / "plan.json").write_text(json.dumps(plan))

    return fault


def inputs_without(name: str) -> Fault:
    """Return a fault that leaves one input out."""

    def fault(folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        with np.load(folder / "inputs.npz") as stored:
            arrays = {key: stored[key] for key in stored.files if not key.endswith(name)}
        np.savez(folder / "inputs.npz", **arrays)
        plan["files"]["inputs.npz"] = sha256(folder / "inputs.npz")
        (folder / "plan.json").write_text(json.dumps(plan))

    return fault


def model_is(**keys: Any) -> Fault:
    """Return a fault that changes what the plan says of its first model."""

    def fault(folder: Path) -> None:
        plan = json.loads((folder / "plan.json").read_text())
        plan["models"][0].update(keys)
        (folder / "plan.json").write_text(json.dumps(plan))

    return fault


def linked_to_outside(folder: Path) -> None:
    """Put a link in the place of a model, to the same file next to the bundle."""
    (folder / "A.onnx").rename(folder.parent / "outside.onnx")
    (folder / "A.onnx").symlink_to(folder.parent / "outside.onnx")


def piped(name: str) -> Fault:
    """Return a fault that puts a pipe, which nobody writes to, in the place of a file."""
    return lambda folder: ((folder / name).unlink(), os.mkfifo(folder / name))


def endless(name: str) -> Fault:
    """Return a fault that makes a file a terabyte that takes no space."""
    return lambda folder: os.truncate(folder / name, 2**40)


def packed_bomb(folder: Path) -> None:
    """Pack sixteen gigabytes of zeros, as their headers have it, into the inputs."""
    with zipfile.ZipFile(folder / "inputs.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("b2s6/input_ids.npy", b"\x93NUMPY")
        file.infolist()[0].file_size = 2**34
    plan = json.loads((folder / "plan.json").read_text())
    plan["files"]["inputs.npz"] = sha256(folder / "inputs.npz")
    (folder / "plan.json").write_text(json.dumps(plan))


def without(name: str) -> Fault:
    """Return a fault that takes a file away."""
    return lambda folder: (folder / name).unlink()


FAULTS: dict[str, tuple[Fault, str]] = {  # name: what is done to the bundle, what the message must say
    "a model is another one": (other_model, "A.onnx has sha256"),
    "a model is cut off": (cut("B.onnx"), "B.onnx has sha256"),
    "a model is missing": (without("A.onnx"), "A.onnx is missing"),
    "a model is no ONNX file": (no_model_at_all, "A.onnx does not load"),
    "the inputs are cut off": (cut("inputs.npz"), "inputs.npz has sha256"),
    "the reference is missing": (without("reference.npz"), "reference.npz is missing"),
    "an input is not there": (inputs_without("attention_mask"), "needs attention_mask"),
    "outputs differ": (other_reference(7.0), "outputs differ by"),
    "the reference is not finite": (other_reference(float("nan")), "the reference of logits is not finite"),
    "the plan is half written": (cut("plan.json"), "plan.json cannot be read"),
    "the plan is of another version": (change(schema="rmtkd-edge/plan@9"), "this runner reads rmtkd-edge/plan@2"),
    "the plan is missing": (without("plan.json"), "plan.json is missing"),
    "the plan is a pipe": (piped("plan.json"), "plan.json is missing, or is no regular file"),
    "the plan is endless": (endless("plan.json"), "plan.json has 1,099,511,627,776 bytes"),
    "the plan asks for nothing": (change(workloads=[]), "workloads must be a list of at least 1"),
    "the provider is not there": (change(provider="CoreMLExecutionProvider"), "is not in this onnxruntime"),
    "the provider falls back": (change(provider="CUDAExecutionProvider"), "CUDAExecutionProvider"),
    "the meter is unreadable": (change(meters=["rapl"], meter_required=True), "the meter rapl cannot be read"),
    "the meter does not exist": (change(meters=["sundial"], meter_required=True), "no meters/sundial.py"),
    "the meter's name is too long for a file": (change(meters=["x" * 300]), "is no name of a meter"),
    "the meter's name is a path": (change(meters=["../x"]), "is no name of a meter"),
    "more cores than there are": (change(limits={"cores": 4096}), "limits.cores is 4096"),
    "a model lies outside": (model_is(file="../A.onnx"), "models must be a list"),
    "a model lies elsewhere": (model_is(file="/nowhere/A.onnx"), "models must be a list"),
    "a part of a model lies outside": (model_is(external=[{"file": "a/../../b", "sha256": "0" * 64}]), "external"),
    "the inputs lie outside": (change(inputs="../inputs.npz"), "the name of a file in this folder"),
    "a name is too long": (change(inputs="x" * 300), "cannot be read: "),
    "a model is a link to outside": (linked_to_outside, "A.onnx leads out of"),
    "a model is a pipe": (piped("A.onnx"), "A.onnx is missing"),
    "the inputs are a bomb": (packed_bomb, "inputs.npz holds 17,179,869,184 bytes"),
    "a figure is a text": (change(threads="4"), "threads must be a whole number from 1 to 4096"),
    "a figure is endless": (change(min_duration_s=1e308), "min_duration_s must be a number"),
    "a figure is not finite": (change(tolerance=float("nan")), "tolerance must be a number"),
    "a model is a text": (change(models=["A.onnx"]), "models must be a list"),
    "a batch is negative": (change(workloads=[{"batch": -1, "seq": 6}]), "workloads must be a list"),
    "the limits cannot be read": (lambda f: (change(limits={"cores": 1})(f), without("limits.py")(f)), "no limits.py"),
}


def kept_rounds(folder: Path) -> list[list[list[int]]]:
    """Return the rounds that the partial results hold, model by model."""
    cells = json.loads((folder / "results.json").read_text())["cells"]
    return [[block["ns"] for block in cell["blocks"]] for cell in cells.values()]


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_and_nothing_is_lost(name: str, bundle: Path, begun: Path) -> None:
    fault, says = FAULTS[name]
    before = kept_rounds(bundle)
    assert [len(rounds) for rounds in before] == [DONE, DONE]
    fault(bundle)
    done = run(bundle)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert kept_rounds(bundle) == before
    for file in begun.glob("*.*"):  # mended, the same command goes on
        if file.name != "results.json":
            (bundle / file.name).unlink(missing_ok=True)  # a copy would be written through a link
            shutil.copyfile(file, bundle / file.name)
    results = execute.measure(bundle / "plan.json", bundle / "results.json", lambda *a, **k: None)["results"]
    assert [r["latency"]["rounds_ns"][:DONE] for r in results] == before


def test_a_full_disk_is_named_and_what_was_written_stays(bundle: Path) -> None:
    before = kept_rounds(bundle)
    size = (bundle / "results.json").stat().st_size
    done = run(
        bundle,
        "import resource, signal",
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))",
    )
    assert done.returncode == 2, done.stderr
    assert "results.json cannot be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert kept_rounds(bundle) == before
    assert not list(bundle.glob("*.tmp"))


def test_results_that_are_endless_are_refused_and_left_alone(bundle: Path) -> None:
    endless("results.json")(bundle)
    done = run(bundle)
    assert done.returncode == 2 and "results.json has 1,099,511,627,776 bytes" in done.stderr
    assert (bundle / "results.json").stat().st_size == 2**40


def test_half_written_results_are_refused_and_left_alone(bundle: Path) -> None:
    cut("results.json")(bundle)
    data = (bundle / "results.json").read_bytes()
    done = run(bundle)
    assert done.returncode == 2
    assert "results.json exists and holds no results" in done.stderr
    assert (bundle / "results.json").read_bytes() == data


@pytest.mark.parametrize("jump", [-3600.0, 3600.0])
def test_a_jump_of_the_clock_does_no_harm(bundle: Path, monkeypatch: pytest.MonkeyPatch, jump: float) -> None:
    now = [1e9]

    def jumping() -> float:
        now[0] += jump
        return now[0]

    monkeypatch.setattr(execute.time, "time", jumping)
    results = execute.measure(bundle / "plan.json", bundle / "results.json", lambda *a, **k: None)["results"]
    assert all(0 < ns < 10**10 for r in results for block in r["latency"]["rounds_ns"] for ns in block)


def test_a_meter_that_fails_midway_costs_its_own_figure_alone(bundle: Path) -> None:
    (bundle / "meters/failing.py").write_text(
        "from .base import Meter, Reading\n\n\nclass Failing(Meter):\n"
        "    name = 'failing'\n    provenance = 'measured-counter'\n    needs_window = False\n    count = 0\n\n"
        "    def read(self):\n        self.count += 1\n        if self.count > 9:\n"
        "            return Reading(None, 'unavailable', 'failing', 'all', 'the cable fell out')\n"
        "        return Reading(float(self.count), self.provenance, 'failing', 'all')\n\n\n"
        "def open_meter(options):\n    return Failing()\n"
    )
    (bundle / "results.json").unlink()
    change(meters=["failing"])(bundle)
    done = run(bundle)
    assert done.returncode == 0, done.stderr
    results = json.loads((bundle / "results.json").read_text())["results"]
    assert all(len(r["latency"]["rounds_ns"]) == ROUNDS for r in results)
    assert any(r["energy"]["why"] == "the cable fell out" for r in results)
    assert all(r["energy"]["j_per_inf_gross"] is None for r in results if "why" in r["energy"])


def test_a_probe_that_dies_is_named(bundle: Path) -> None:
    before = kept_rounds(bundle)
    file = bundle / "measuring/probes.py"
    text = file.read_text()
    broken = text.replace(
        "out: Json = {}\n    if memory_bytes", "os.kill(os.getpid(), 9)\n    out: Json = {}\n    if memory_bytes"
    )
    assert broken != text
    file.write_text(broken)
    done = run(bundle)
    assert done.returncode == 2, done.stderr
    assert "a probe ended with -9" in done.stderr
    document = json.loads((bundle / "results.json").read_text())
    assert [[b["ns"] for b in c["blocks"]][:DONE] for c in document["cells"].values()] == before
    assert all(len(c["blocks"]) == ROUNDS for c in document["cells"].values()), "all rounds are kept, only probes lack"
