"""One model: its session, and its inputs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from .basics import Json, RunnerError
from .plan_schema import SESSION_DEFAULTS

ON_DEVICE = {"CUDAExecutionProvider": "cuda", "TensorrtExecutionProvider": "cuda"}  # where inputs stay while timed


def settings_of(plan: Json, model: Json) -> Json:
    """Return a plan with the session settings of one of its models, where that has its own."""
    return {**SESSION_DEFAULTS, **plan, **model.get("session", {})}


def open_session(plan: Json, file: Path) -> Any:
    """Return a session with a plan's settings on the provider that was asked for; another one is a RunnerError."""
    asked, plan = plan["provider"], {**SESSION_DEFAULTS, **plan}
    if asked not in onnxruntime.get_available_providers():
        have = ", ".join(onnxruntime.get_available_providers())
        raise RunnerError("provider", f"{asked} is not in this onnxruntime ({onnxruntime.__version__} has {have})")
    if asked == "CUDAExecutionProvider" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()  # finds the CUDA libraries that pip installed, which no search path names
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = int(plan["threads"]), 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if plan["spinning"] else "0")
    level = f"ORT_ENABLE_{plan['graph_level'].upper()}"
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.enable_cpu_mem_arena, options.enable_mem_pattern = plan["arena"], plan["memory_pattern"]
    options.log_severity_level = 3
    own = {
        "CUDAExecutionProvider": {"use_tf32": "1" if plan.get("tf32", True) else "0"},
        "OpenVINOExecutionProvider": {"device_type": "CPU", "num_of_threads": str(plan["threads"])},
    }
    settings = own.get(asked, {})
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=[(asked, settings)])
    except Exception as err:  # onnxruntime's errors have no common base
        raise RunnerError("model", f"{file.name} does not load on {asked}: {err}") from err
    if session.get_providers()[0] != asked:
        raise RunnerError("provider", f"{file.name}: {asked} was asked for, {session.get_providers()[0]} is what runs")
    session.disable_fallback()  # else a call that fails there is repeated on the processor, with no error
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


class BoundHere(Bound):
    """The same on a processor: a call writes its inputs where they are bound, and its outputs are read, as run does."""

    def __init__(self, session: Any) -> None:
        super().__init__(session, "cpu")

    def timed(self, feeds: Json, runs: int, seconds: float) -> Json:
        """Return a block of calls."""
        binding, places = self._session.io_binding(), {name: np.array(array) for name, array in feeds.items()}
        for name, place in places.items():
            binding.bind_ortvalue_input(name, onnxruntime.OrtValue.ortvalue_from_numpy(place, "cpu", 0))
        for node in self._session.get_outputs():
            binding.bind_output(node.name, "cpu", 0)

        def call() -> list:
            for name, place in places.items():
                np.copyto(place, feeds[name])
            self._session.run_with_iobinding(binding)
            return binding.copy_outputs_to_cpu()

        call()
        return timed_here(call, runs, seconds)


def feeds_of(session: Any, inputs: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """Return the inputs that the graph needs."""
    wanted = [node.name for node in session.get_inputs()]
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise RunnerError("plan", f"{file} needs {', '.join(missing)}; the plan's inputs have {', '.join(inputs)}")
    return {name: inputs[name] for name in wanted}
