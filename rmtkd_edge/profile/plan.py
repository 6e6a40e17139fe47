"""From models to a bundle: inputs, reference outputs, and the plan that runner.py carries out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from rmtkd_edge.config.hardware import HardwareProfile, resolve_threads
from rmtkd_edge.errors import UserError
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.profile.measuring.basics import PLAN_SCHEMA
from rmtkd_edge.profile.meter_files import third_party_files
from rmtkd_edge.profile.models import Exported, ModelFile
from rmtkd_edge.profile.options import MeasureOptions
from rmtkd_edge.profile.workload import Effort, Workload, choose_effort, choose_workloads
from rmtkd_edge.tasks.base import find_task

TRAVELS = ("runner.py", "limits.py", "measuring/*.py", "meters/*.py")  # what measures, on any device
TOLERANCE = {"CPUExecutionProvider": 1e-4, "WasmExecutionProvider": 1e-4}  # relative, of fp32 between two machines
# Of int8 outputs between processors, relative to the largest magnitude: twice the worst of 64 sentences and 128 images
# from AVX2 to Arm (Cortex-A76): 0.076 of an uncompressed encoder, 0.037 of a compressed one, 0.007 of ResNets. A float
# that rounds otherwise moves a value by a whole step of its quantisation, which adds up where scales are dynamic.
TOLERANCE_INT8 = 0.15
PADDED, PADDED_ROWS, PADDED_TOKENS = "padded", 4, 32  # what outputs are compared on besides what is timed
TOLERANCE_OTHER = 1e-2  # accelerators round products to TF32 or half precision
Arrays = Mapping[str, NDArray[Any]]
Trials = Mapping[str, Mapping[str, Mapping[str, Any]]]  # session settings by the label of a file and of the trial
NO_TRIALS: Trials = {}


@dataclass(frozen=True)
class Measurement:
    """All that is settled before anything is measured: models, device, workloads, effort, meter, seed."""

    exported: Exported
    profile: HardwareProfile
    workloads: tuple[Workload, ...]
    effort: Effort
    meter: str
    seed: int
    quick: bool
    notes: tuple[str, ...]


def prepare(exported: Exported, profile: HardwareProfile, options: MeasureOptions, seed: int) -> Measurement:
    """Return what is measured on a device.

    Raises:
        UserError: options that make no sense, or lengths that the model does not read.
    """
    workloads, cut = choose_workloads(exported.spec, profile, options)
    effort, seed = choose_effort(options, profile.emulated), seed if options.seed is None else options.seed
    notes = (*exported.notes, *cut)
    return Measurement(exported, profile, workloads, effort, options.meter, seed, options.quick, notes)


def build_bundle(folder: Path, measurement: Measurement, copy: bool = False, trials: Trials = NO_TRIALS) -> Path:
    """Fill `folder` with runner, meters, models, inputs and reference outputs, and return its plan.json.

    The models are linked where that works, or copied with `copy`: a bundle that leaves this machine owns its files.
    With `trials` only their files run, once with each of their session settings.
    """
    m, models = measurement, measurement.exported.models
    arrays: dict[str, NDArray[Any]] = {}
    reference: dict[str, NDArray[Any]] = {}
    spec, checks = m.exported.spec, {}
    if spec.max_length is not None:
        checks[PADDED] = spec.padded_inputs(PADDED_ROWS, min(PADDED_TOKENS, spec.max_length), m.seed)
    timed = {workload.key: spec.example_inputs(workload.batch, workload.seq, m.seed) for workload in m.workloads}
    for key, made in {**timed, **checks}.items():
        arrays.update({f"{key}/{name}": value for name, value in made.items()})
        for model in models:
            outputs = reference_outputs(model.path, made, resolve_threads(m.profile), model.label)
            own = [model.name] if model.precision == "fp32" else [model.label, *trials.get(model.label, ())]
            reference.update({f"{label}/{key}/{name}": value for label in own for name, value in outputs.items()})
    brought = {model.label: _bring(model, folder, copy) for model in models}
    tried = [
        {**brought[of], "label": label, "session": dict(session)}
        for of, sessions in trials.items()
        for label, session in sessions.items()
    ]
    settings = {
        "models": tried or list(brought.values()),
        "tolerance_int8": TOLERANCE_INT8,
        "prediction": find_task(models[0].facts.kind).prediction,
        "emulated": m.profile.emulated,
        "workloads": [workload.to_dict() for workload in m.workloads],
        "checks": list(checks),
        **asdict(m.effort),
        "seed": m.seed,
        "meters": list(m.profile.meters) if m.meter == "auto" else [m.meter],
        "meter_required": m.meter != "auto",
        "meter_options": m.profile.power.model_dump(),
        "limits": m.profile.limits.imposed(),
    }
    return write_plan(folder, m.profile, arrays, reference, settings)


def write_plan(
    folder: Path, profile: HardwareProfile, inputs: Arrays, reference: Arrays, settings: Mapping[str, Any]
) -> Path:
    """Write runner, arrays and plan.json into a folder that holds the models, and return the plan."""
    copy_runner(folder)
    np.savez(folder / "inputs.npz", allow_pickle=False, **inputs)
    np.savez(folder / "reference.npz", allow_pickle=False, **reference)
    plan = {
        "schema": PLAN_SCHEMA,
        "profile": profile.name,
        "provider": profile.provider,
        "threads": resolve_threads(profile),
        "spinning": profile.spinning,
        **profile.session.model_dump(),
        "tf32": profile.tf32,
        "inputs": "inputs.npz",
        "reference": "reference.npz",
        "files": {name: sha256_file(folder / name) for name in ("inputs.npz", "reference.npz")},
        "tolerance": TOLERANCE.get(profile.provider, TOLERANCE_OTHER),
        **settings,
    }
    path = folder / "plan.json"
    path.write_text(json.dumps(plan, indent=1), encoding="utf-8")
    return path


def reference_outputs(path: Path, inputs: Arrays, threads: int, label: str) -> dict[str, NDArray[Any]]:
    """Return the outputs of an ONNX file on this machine's processor, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_inputs()]
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise UserError(
            f"{label} needs {', '.join(missing)}, and only {', '.join(inputs)} were made",
            "export the run again: its ONNX files and its config.json do not belong together",
        )
    values = session.run(None, {name: inputs[name] for name in wanted})
    return dict(zip((node.name for node in session.get_outputs()), values, strict=True))


def copy_runner(folder: Path) -> None:
    """Copy what measures, which needs nothing else of the package, and the meters of third parties into a bundle."""
    here = Path(__file__).resolve().parent
    for pattern in TRAVELS:
        for file in sorted(here.glob(pattern)):
            shutil.copyfile(file, _made(folder / file.relative_to(here)))
    for name, file in third_party_files().items():
        shutil.copyfile(file, _made(folder / "meters" / f"{name}.py"))


def _bring(model: ModelFile, folder: Path, copy: bool) -> dict[str, Any]:
    place = Path("models") / model.label.replace(" ", "-")
    (folder / place).mkdir(parents=True)
    parts: Sequence[tuple[Path, str]] = [(model.path, model.sha256), *model.external]
    for path, _ in parts:
        (shutil.copyfile if copy else _link_or_copy)(path, _made(folder / place / path.relative_to(model.path.parent)))
    named = [{"file": (place / p.relative_to(model.path.parent)).as_posix(), "sha256": sha} for p, sha in parts]
    told = {"label": model.label, "name": model.name, "role": model.role, "precision": model.precision}
    return {**told, **named[0], "external": named[1:], "onnxruntime": model.facts.onnxruntime}


def _made(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # the same bytes without a second copy; the runner checks the hash either way
    except OSError:
        shutil.copyfile(source, target)
