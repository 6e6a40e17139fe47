"""One model: its session, its inputs, and whether its outputs are what they should be."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .basics import Json, RunnerError

ON_DEVICE = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}  # where inputs stay while timed


def open_session(plan: Json, file: Path) -> Any:
    """Return a session with explicit threads on the provider that was asked for; another one is a RunnerError."""
    asked = plan["provider"]
    if asked not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise RunnerError("provider", f"{asked} is not in this onnxruntime ({onnxruntime.__version__} has {have})")
    if asked == "CUDAExecutionProvider" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed, which no search path names
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(plan["threads"]), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if plan["spinning"] else "0")
    options.log_severity_level = 3
    settings = {"use_tf32": "1" if plan.get("tf32", True) else "0"} if asked == "CUDAExecutionProvider" else {}
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[(asked, settings)])
    except Exception as err:  # onnxruntime's errors have no common base
        raise RunnerError("model", f"{file.name} does not load on {asked}: {err}") from err
    if session.get_providers()[0] != asked:
        raise RunnerError("provider", f"{file.name}: {asked} was asked for, {session.get_providers()[0]} is what runs")
    return session


def timed_here(call: Callable[[], Any], runs: int, seconds: float) -> Json:
    """Return the nanoseconds of every call, of all of them, and of the processor."""
    values: list[int] = []
    clock, cpu, begin = time.perf_counter_ns, time.process_time_ns(), time.perf_counter_ns()
    enough = begin + int(seconds * 1e9)
    end = begin
    while len(values) < runs or end < enough:
        start = clock()
        call()
        end = clock()
        values.append(end - start)
    return {"ns": values, "cpu_ns": time.process_time_ns() - cpu, "wall_ns": clock() - begin}


class Bound:
    """A session on an accelerator: while it is timed, its inputs and outputs stay there and no call copies them."""

    def __init__(self, session: Any, device: str) -> None:
        self._session, self._device = session, device

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def pids(self) -> list:
        """Return the processes that do the work."""
        return ["self"]

    def timed(self, feeds: Json, runs: int, seconds: float) -> Json:
        """Return a block of calls, each with the wait until its outputs are there."""
        binding = self._session.io_binding()
        for name, array in feeds.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, self._device, 0))
        for node in self._session.get_outputs():
            binding.bind_output(node.name, self._device, 0)
        binding.synchronize_inputs()

        def call() -> None:
            self._session.run_with_iobinding(binding)
            binding.synchronize_outputs()

        call()  # allocates the outputs
        return timed_here(call, runs, seconds)


def feeds_of(session: Any, inputs: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """Return the inputs that the graph needs."""
    wanted = [node.name for node in session.get_inputs()]
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise RunnerError("plan", f"{file} needs {', '.join(missing)}; the plan's inputs have {', '.join(inputs)}")
    return {name: inputs[name] for name in wanted}


def verify_outputs(
    model: Json, outputs: dict[str, np.ndarray], reference: dict[str, np.ndarray], tolerance: float
) -> Json:
    """Return the largest differences from the reference; raise RunnerError beyond `tolerance` x its largest magnitude.

    int8 models only report: their outputs differ by design (same_file has their difference between processors).
    """
    worst, relative = 0.0, 0.0
    for name, expected in reference.items():
        if not np.isfinite(expected).all():
            raise RunnerError("plan", f"{model['label']}: the reference of {name} is not finite; export the run again")
        if name not in outputs or outputs[name].shape != expected.shape or not np.isfinite(outputs[name]).all():
            raise RunnerError("output", f"{model['label']}: output {name} is absent, of another shape or not finite")
        worst = max(worst, float(np.abs(outputs[name] - expected).max()))
        relative = max(relative, float(np.abs(outputs[name] - expected).max() / max(np.abs(expected).max(), 1e-12)))
    exact = model["precision"] == "fp32"
    if exact and relative > tolerance:
        raise RunnerError(
            "output", f"{model['label']}: outputs differ by {relative:.2e} relative, allowed {tolerance:.0e}"
        )
    limit = tolerance if exact else None
    return {"max_abs_diff": worst, "max_rel_diff": relative, "tolerance": limit, "outputs": sorted(reference)}


def same_file(
    model: Json, outputs: dict[str, np.ndarray], there: dict[str, np.ndarray], tolerance: float, prediction: str
) -> Json:
    """Return how far outputs are from those of the same file on the host, and the share of rows with the same label.

    `prediction` is the task's: `argmax` or `sign` along the last axis; no labels are compared under any other.
    """
    found = verify_outputs({**model, "precision": "any"}, outputs, there, tolerance)
    pairs = [(outputs[name], there[name]) for name in there]
    same = {
        "argmax": [(a.argmax(-1) == b.argmax(-1)).mean() for a, b in pairs],
        "sign": [((a > 0) == (b > 0)).all(-1).mean() for a, b in pairs],
    }.get(prediction, [])
    out = {"same_labels": float(min(same)) if same else None}
    if model["precision"] != "fp32":
        out.update(same_file_max_abs_diff=found["max_abs_diff"], same_file_max_rel_diff=found["max_rel_diff"])
        out["same_file_tolerance"] = tolerance
    return out
