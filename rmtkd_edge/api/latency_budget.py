"""What keeps a compression's latency budget: the model as it would be exported, measured on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from rmtkd_edge.config.hardware import Calibration, HardwareProfile, resolve_threads
from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import Family
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.profile.identity import refuse_other_device
from rmtkd_edge.sessions import open_session, run_session

RUNS, SECONDS, WARMUP = 30, 1.0, 5


def latency_measure(recipe: Recipe, profile: HardwareProfile | None, family: Family) -> Callable[[Any], float] | None:
    """Return what measures a folded model's latency in ms for the budget, or None where the recipe has none.

    Batch 1 at the profile's shortest sequence, median of the runs. None too where this machine is not the profile's
    device and its curves, which were measured there, tell instead.

    Args:
        profile: the recipe's hardware profile.

    Raises:
        UserError: the profile is of another device and has no curves, or several processes compress.
    """
    if recipe.stop.latency_ms is None or profile is None:
        return None
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a latency budget is measured in one process", "compress without `accelerate launch`")
    known = profile.calibration
    try:
        refuse_other_device(profile)
        if known is not None and known.processor not in (detect_machine().processor_model, "unknown"):
            raise UserError(f"{profile.name} was calibrated on a {known.processor}")
    except UserError as err:
        if known is not None and _sizes(known, family):
            return None
        raise UserError(
            f"a latency budget for {profile.name}, which is another device, wants curves that were measured there",
            f"on the device: rmtkd-edge calibrate --on {profile.name}; then --budget that file (or --on NAME for this "
            "machine)",
        ) from err
    return lambda model: latency_ms(model, recipe, profile, family)


def _sizes(curves: Calibration, family: Family) -> dict[int, float]:
    """Return the curve, from narrow to wide, that the family's widths follow."""
    return curves.conv_sizes if family.curve == "conv" else curves.gemm_sizes


def latency_ms(model: Any, recipe: Recipe, profile: HardwareProfile, family: Family) -> float:
    """Return the median latency of a folded model as it would be exported in fp32, in ms, on this machine."""
    spec = model.spec
    sequence = None if spec.max_length is None else min(*profile.workloads.seq, spec.max_length)
    batch = spec.example_inputs(1, sequence, recipe.seed)
    with TemporaryDirectory(prefix="rmtkd-budget-") as folder:
        file = Path(folder) / "model.onnx"
        family.export(model.cpu().eval(), file, recipe.export, {})
        return timed_ms(file, batch, profile)


def timed_ms(file: Path, batch: Mapping[str, np.ndarray], profile: HardwareProfile) -> float:
    """Return the median latency of an ONNX file in ms, under the profile's threads and provider."""
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
