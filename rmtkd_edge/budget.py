"""What keeps a compression's latency budget: the model as it would be exported, measured on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import UserError
from rmtkd_edge.config.hardware import HardwareProfile, load_profile, resolve_threads
from rmtkd_edge.machine import detect_machine
from rmtkd_edge.config.recipe import Recipe

BUDGET_RUNS, BUDGET_SECONDS, BUDGET_WARMUP = 30, 1.0, 5


def latency_measure(recipe: Recipe) -> Callable[[Any], float] | None:
    """Return what measures a folded model's latency in ms for the budget, or None where the recipe has none.

    Batch 1 at the profile's shortest sequence, median of the runs. None too where this machine is not the profile's
    device and its curves, which were measured there, tell instead; raises UserError without them.
    """
    if recipe.stop.latency_ms is None or recipe.stop.profile is None:
        return None
    from rmtkd_edge.profile.identity import refuse_other_device

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("a latency budget is measured in one process", "compress without `accelerate launch`")
    profile = load_profile(recipe.stop.profile)
    try:
        refuse_other_device(profile)
        known = profile.calibration
        if known is not None and known.processor not in (detect_machine().processor_model, "unknown"):
            raise UserError(f"{profile.name} was calibrated on a {known.processor}")
    except UserError as err:
        from rmtkd_edge.families.encoder.cost import predictor

        if predictor(recipe) is not None:
            return None
        raise UserError(
            f"a latency budget for {profile.name}, which is another device, wants curves that were measured there",
            f"on the device: rmtkd-edge calibrate --on {profile.name}; then --budget that file (or --on NAME for this "
            "machine)",
        ) from err
    return lambda model: latency_ms(model, recipe, profile)


def latency_ms(model: Any, recipe: Recipe, profile: HardwareProfile) -> float:
    """Return the median latency of a model as it would be exported in fp32, in ms, on this machine."""
    from statistics import median
    from tempfile import TemporaryDirectory

    from rmtkd_edge.families.resnet.graph import export_convnet
    from rmtkd_edge.families.encoder.graph import GraphOptions
    from rmtkd_edge.sessions import open_session, run_session
    from rmtkd_edge.families.encoder.to_onnx import export_onnx
    from rmtkd_edge.profile.plan import Load, build_images, build_inputs

    spec, images = model.spec, recipe.task.kind == "image"
    batch: dict[str, Any]
    if images:
        batch = {**build_images(Load(1, None), spec.image_size, recipe.seed)}
    else:
        batch = {**build_inputs(Load(1, min(*profile.loads.seq, spec.max_length)), spec.vocab, recipe.seed)}
    with TemporaryDirectory(prefix="rmtkd-budget-") as folder:
        file = Path(folder) / "model.onnx"
        options = recipe.export
        graph = GraphOptions(opset=options.opset, attention=options.attention, norm=options.norm)
        (export_convnet if images else export_onnx)(model.cpu().eval(), file, graph)
        session = open_session(file, threads=resolve_threads(profile), provider=profile.provider)
        for _ in range(BUDGET_WARMUP):
            run_session(session, batch)
        values: list[int] = []
        start = time.perf_counter()
        while len(values) < BUDGET_RUNS or time.perf_counter() - start < BUDGET_SECONDS:
            before = time.perf_counter_ns()
            run_session(session, batch)
            values.append(time.perf_counter_ns() - before)
    return median(values) / 1e6
