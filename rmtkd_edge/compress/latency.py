"""What keeps a latency budget: the model as it would be exported, measured here, or a device's curves."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING

from rmtkd_edge.config.hardware import HardwareProfile, graph_for, resolve_threads
from rmtkd_edge.config.recipe import Export
from rmtkd_edge.families.base import Family, Spec
from rmtkd_edge.run.scratch import scratch_folder

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model

RUNS, SECONDS, WARMUP = 30, 1.0, 5
Predict = Callable[[Spec], float]  # latency in ms, or energy in mJ, of a shape, from curves
Measure = Callable[["Model"], float]  # latency in ms of a folded model, on this machine


def predictor(family: Family, profile: HardwareProfile | None) -> Predict | None:
    """Return what gives the latency in ms of a spec at batch 1 on a device; None without its curves."""
    curves = None if profile is None else profile.calibration
    if profile is None or curves is None:
        return None
    if not (curves.conv_sizes if family.curve == "conv" else curves.gemm_sizes):
        return None
    sequence = min(profile.workloads.seq)
    return lambda spec: family.predict_ms(spec, curves, sequence)


def energy_predictor(family: Family, profile: HardwareProfile | None) -> Predict | None:
    """Return what gives the gross energy in mJ of one input of a spec at batch 1: watts times predicted milliseconds.

    None without the device's curves, or without the watts of its section `power`.
    """
    predict = predictor(family, profile)
    if predict is None or profile is None or profile.calibration is None:
        return None
    idle, active = profile.power.idle_watts, profile.power.active_watts_per_core
    if idle is None or active is None:
        return None
    watts = idle + active * profile.calibration.threads
    return lambda spec: watts * predict(spec)


def measure_ms(family: Family, folded: Model, options: Export, profile: HardwareProfile) -> float:
    """Return the median latency, in ms, of a model as it would be exported in fp32, on this machine.

    Batch 1, at the shortest sequence of the profile's workloads.
    """
    from rmtkd_edge.sessions import open_session, run_session

    spec, lengths = folded.spec, profile.workloads.seq
    sequence = None if spec.max_length is None else min(*lengths, spec.max_length)
    batch = spec.example_inputs(1, sequence, seed=0)
    options = options.model_copy(update={"graph": graph_for(options.graph, profile)})
    with scratch_folder("budget") as folder:
        file = folder / "model.onnx"
        family.export(folded.cpu().eval(), file, options, {})
        session = open_session(file, threads=resolve_threads(profile), provider=profile.provider)
        for _ in range(WARMUP):
            run_session(session, batch)
        values: list[int] = []
        start = time.perf_counter()
        while len(values) < RUNS or time.perf_counter() - start < SECONDS:
            before = time.perf_counter_ns()
            run_session(session, batch)
            values.append(time.perf_counter_ns() - before)
    return median(values) / 1e6
