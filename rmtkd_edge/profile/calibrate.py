"""Width -> latency curves of a device, and the multiples that widths are best rounded up to there."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rmtkd_edge.config.hardware import Curve, HardwareProfile, resolve_threads
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.profile import layers
from rmtkd_edge.profile.identity import refuse_device, refuse_runtime
from rmtkd_edge.profile.plan import reference_outputs, write_plan
from rmtkd_edge.profile.profile_copy import write_copy
from rmtkd_edge.profile.reach import Reach, carry_out
from rmtkd_edge.profile.transport_local import progress_of
from rmtkd_edge.profile.workload import Effort, Workload
from rmtkd_edge.run.reporter import Reporter
from rmtkd_edge.run.scratch import scratch_folder

MULTIPLES = (1, 2, 4, 8, 16, 32)
CLOSE = 1.02  # a multiple whose mean latency is within 2 % of the best one's is as good, and wastes fewer channels
WIDTHS = {"conv": tuple(range(33, 65)), "gemm": tuple(range(97, 129))}  # every width once, up to a multiple of all
SIZES = {"conv": (8, 16, 32, 64, 128, 256), "gemm": (32, 64, 128, 256, 512, 1024)}  # from narrow to wide
FEW = (8, 16, 32, 64, 128, 256)  # widths of convolutions of one small image
ROUNDS, MIN_RUNS, MIN_SECONDS, WARMUP = 10, 30, 0.2, 3
WORKLOAD = Workload(layers.BATCH, None)


@dataclass(frozen=True, kw_only=True)
class CurveOptions:
    """Which widths are measured, by kind, and for how long.

    Attributes:
        widths: every width of a range, which the multiples come from.
        sizes: few widths, from narrow to wide.
    """

    widths: Mapping[str, Sequence[int]] = field(default_factory=lambda: WIDTHS)
    sizes: Mapping[str, Sequence[int]] = field(default_factory=lambda: SIZES)
    min_runs: int = MIN_RUNS
    min_seconds: float = MIN_SECONDS


@dataclass(frozen=True)
class MeasuredCurves:
    """Median latency_ms by width, the multiple, both by kind; where they come from; what other processes disturbed.

    curves: every width of a range, which multiples come from. sizes: few widths, from narrow to wide, and `conv_few` of
    one small image. ns_per_element: of GELU, softmax and norms.
    """

    curves: dict[str, Curve]
    multiples: dict[str, int]
    environment: dict[str, Any]
    contended: tuple[str, ...]
    sizes: dict[str, Curve] = field(default_factory=dict)
    ns_per_element: dict[str, float] = field(default_factory=dict)


def mean_latency(latency: Curve, multiple: int) -> float:
    """Return the mean latency in ms when every width of the curve is rounded up to a multiple.

    The curve holds every width up to one that all of MULTIPLES divide. Raises ValueError for one that does not.
    """
    widths = sorted(latency)
    if widths != list(range(widths[0], widths[-1] + 1)) or widths[-1] % MULTIPLES[-1]:
        raise ValueError(f"the curve must hold every width once, up to a multiple of {MULTIPLES[-1]}")
    return statistics.mean(latency[-(-width // multiple) * multiple] for width in widths)


def best_multiple(curve: Curve) -> int:
    """Return the smallest multiple whose mean latency is within 2 % of the fastest one's; see mean_latency."""
    cost = {multiple: mean_latency(curve, multiple) for multiple in MULTIPLES}
    return next(multiple for multiple in MULTIPLES if cost[multiple] <= CLOSE * min(cost.values()))


def calibrate(
    profile: HardwareProfile, reporter: Reporter, host: str | None = None, options: CurveOptions | None = None
) -> MeasuredCurves:
    """Measure the curves on this machine, or over ssh on `host`, under the profile's provider, threads and spinning.

    Widths take turns in every round (runner.py, in a fresh process).

    Raises:
        UserError: the profile is of another device.
        ProviderError: the provider is not there.
    """
    asked = options or CurveOptions()
    widths, sizes = asked.widths, asked.sizes
    refuse_runtime(profile)
    refuse_device(profile, host)
    with scratch_folder("calibrate") as bundle:
        every = {kind: sorted({*widths[kind], *sizes.get(kind, ())}) for kind in widths}
        every |= {"conv_few": list(FEW), **{kind: [layers.ELEMENTS] for kind in layers.OPERATORS}}
        _write_bundle(bundle, profile, every, asked)
        document = carry_out(bundle, bundle / "results.json", profile, Reach(host), progress_of(reporter))
    found: dict[str, Curve] = {kind: {} for kind in every}
    contended = []
    for result in document["results"]:
        kind, width = result["label"].split()
        found[kind][int(width)] = round(float(result["latency"]["p50"]), 5)
        if result["quality"]["verdict"] != "clean":
            contended.append(result["label"])
    curves = {kind: {width: found[kind][width] for width in widths[kind]} for kind in widths}
    multiples = {kind: best_multiple(curve) for kind, curve in curves.items()}
    wide = {kind: {width: found[kind][width] for width in sizes.get(kind, ())} for kind in widths}
    wide["conv_few"] = found["conv_few"]
    number = layers.DEPTH * layers.ROWS * layers.ELEMENTS
    single = {kind: round(1e6 * found[kind][layers.ELEMENTS] / number, 5) for kind in layers.OPERATORS}
    return MeasuredCurves(curves, multiples, document["env"], tuple(contended), wide, single)


def _write_bundle(
    bundle: Path, profile: HardwareProfile, widths: Mapping[str, Sequence[int]], asked: CurveOptions
) -> None:
    arrays, threads = layers.inputs(), resolve_threads(profile)
    models: list[dict[str, Any]] = []
    reference: dict[str, Any] = {}
    for kind, these in widths.items():
        for width in these:
            file = f"models/{kind}-{width}.onnx"
            path = layers.write(kind, width, bundle / file)
            label = f"{kind} {width}"
            found = reference_outputs(path, arrays, threads, label)
            reference |= {f"{label}/{WORKLOAD.key}/{name}": value for name, value in found.items()}
            described = {"label": label, "role": label, "precision": "fp32", "file": file, "external": []}
            models.append({**described, "sha256": sha256_file(path)})
    effort = Effort(asked.min_runs, asked.min_seconds, min(ROUNDS, asked.min_runs), WARMUP, 0.0, 0)
    settings = {
        "models": models,
        "workloads": [WORKLOAD.to_dict()],
        **asdict(effort),
        "seed": 0,
        "meters": ["unavailable"],
        "meter_required": False,
        "meter_options": {},
    }
    named = {f"{WORKLOAD.key}/{name}": value for name, value in arrays.items()}
    write_plan(bundle, profile, named, reference, settings)


def write_profile(source: str | Path, found: MeasuredCurves, target: Path) -> HardwareProfile:
    """Write a copy of a profile with the measured multiples and curves, named after the file, and return it.

    Raises RecipeError for a file name that is no profile's name.
    """
    env = found.environment
    calibration = {
        "profile": str(source),
        "provider": env["providers_actual"][0],
        "processor": str(env["cpu_model"] or "unknown"),
        "onnxruntime": env["onnxruntime"],
        "threads": env["threads"],
        "contended": len(found.contended),
        **{kind: _written(curve) for kind, curve in found.curves.items()},
        **{f"{kind}_sizes": _written(curve) for kind, curve in found.sizes.items()},
        "ns_per_element": found.ns_per_element,
    }
    changes = {"alignment": dict(found.multiples), "calibration": calibration}
    return write_copy(source, target, changes, {"alignment": "measured: see calibration"})


def _written(curve: Curve) -> dict[str, float]:
    return {str(width): value for width, value in sorted(curve.items())}
