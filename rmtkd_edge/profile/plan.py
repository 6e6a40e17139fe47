"""From a run to a bundle: the models that ship, inputs, reference outputs, and the plan that runner.py carries out."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.config.hardware import HardwareProfile, resolve_threads
from rmtkd_edge.profile.measuring.basics import PLAN_SCHEMA, workload_key
from rmtkd_edge.run.directory import sha256_file

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run

ROLES = {"candidate": ("export", "rmt-kd"), "baseline": ("baseline", "original")}
FILES = {"fp32": "onnx/model.onnx", "fp16": "onnx/model_fp16.onnx", "int8": "onnx/model_quantized.onnx"}
TRAVELS = ("runner.py", "limits.py", "measuring/*.py", "meters/*.py")  # what measures, on any device
ON_REQUEST = ("fp16",)  # no note where it was not asked for
TOKEN_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
TOLERANCE = {"CPUExecutionProvider": 1e-4, "WasmExecutionProvider": 1e-4}  # relative, of fp32 between two machines
# Of int8 outputs between processors, relative to the largest magnitude: twice the worst of 64 sentences and 128 images
# from AVX2 to Arm (Cortex-A76): 0.076 of an uncompressed encoder, 0.037 of a compressed one, 0.007 of ResNets. A float
# that rounds otherwise moves a value by a whole step of its quantisation, which adds up where scales are dynamic.
TOLERANCE_INT8 = 0.15
TOLERANCE_OTHER = 1e-2  # accelerators round products to TF32 or half precision
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Workload:
    """What one call of the session runs; `seq` in tokens, None for images."""

    batch: int
    seq: int | None


@dataclass(frozen=True)
class Effort:
    """How long is measured: per model and workload at least `min_runs` and `min_duration_s`, spread over `rounds`."""

    min_runs: int
    min_duration_s: float
    rounds: int
    warmup: int
    idle_s: float
    probe_repeats: int


QUICK = Effort(min_runs=50, min_duration_s=10.0, rounds=25, warmup=5, idle_s=2.0, probe_repeats=3)
EMULATED = Effort(min_runs=1, min_duration_s=0.0, rounds=1, warmup=0, idle_s=0.0, probe_repeats=0)  # outputs alone
FULL = Effort(min_runs=200, min_duration_s=60.0, rounds=50, warmup=10, idle_s=10.0, probe_repeats=5)


@dataclass(frozen=True)
class ModelFile:
    """One ONNX file to be measured; `sha256` is what the export recorded, `external` its files of weights."""

    label: str
    role: str
    precision: str
    path: Path
    sha256: str
    external: tuple[tuple[Path, str], ...]
    facts: dict[str, Any]


def find_models(run: Run) -> tuple[list[ModelFile], list[str]]:
    """Return the files of the run that are measured, and notes on those that are not there and why.

    Raises RunDirError where the candidate was not exported or a file is not the one that rmtkd.json describes.
    """
    models: list[ModelFile] = []
    notes: list[str] = []
    for role, (folder, name) in ROLES.items():
        if not run.path_of(f"{folder}/rmtkd.json").is_file():
            if role == "candidate":
                raise RunDirError(f"{run.path} holds no exported model", f"rmtkd-edge export {run.path}")
            notes.append(f"{folder}/ is not there: nothing to compare with; rmtkd-edge export {run.path} writes it")
            continue
        described = run.read_json(f"{folder}/rmtkd.json")
        for precision, rel in FILES.items():
            variant = (described.get("variants") or {}).get(precision) or {}
            label = f"{name} {precision}"
            if variant.get("refused"):
                notes.append(f"{label} is not measured: refused at export, {variant['refused']}")
            elif run.path_of(f"{folder}/{rel}").is_file():
                models.append(_model_file(run, folder, rel, label, role, precision, described))
            elif precision == "fp32":
                raise RunDirError(f"{run.path}/{folder}/{rel} is missing", f"rmtkd-edge export {run.path}")
            elif variant or precision not in ON_REQUEST:
                notes.append(f"{label} is not measured: {folder}/{rel} is not there")
    return models, notes


def _model_file(
    run: Run, folder: str, rel: str, label: str, role: str, precision: str, described: dict[str, Any]
) -> ModelFile:
    path = run.path_of(f"{folder}/{rel}")
    variant = (described.get("variants") or {}).get(precision) or {}
    hashes = run.manifest.get("files", {})
    recorded = variant.get("sha256") or hashes.get(f"{folder}/{rel}")
    if not recorded:
        raise RunDirError(f"nothing records the sha256 of {folder}/{rel}", f"rmtkd-edge export {run.path}")
    external = []
    for location in external_files(path):
        beside = (Path(folder) / rel).parent / location
        part = run.path_of(beside.as_posix())
        if beside.as_posix() not in hashes:
            raise RunDirError(f"nothing records the sha256 of {beside}", f"rmtkd-edge export {run.path}")
        external.append((part, str(hashes[beside.as_posix()])))
    facts = {"id": described.get("model_id"), "parameters": described.get("parameters"), "variant": variant}
    return ModelFile(label, role, precision, path, str(recorded), tuple(external), facts)


def external_files(path: Path) -> list[str]:
    """Return the files beside an ONNX file that hold its weights, sorted; empty where they are embedded."""
    try:
        graph = onnx.load(str(path), load_external_data=False).graph
    except Exception as err:  # protobuf's DecodeError has no stable home
        raise RunDirError(f"{path} is no ONNX file: {err}", "export the run again") from err
    return sorted({e.value for t in graph.initializer for e in t.external_data if e.key == "location"})


def choose_workloads(run: Run, profile: HardwareProfile, asked: Sequence[Workload] | None) -> tuple[list[Workload], list[str]]:
    """Return the workloads: those asked for, else the profile's, cut to the positions that the model has (and a note then).

    Raises UserError for an asked length that the model has no positions for.
    """
    config = _config(run)
    if image_size(config) is not None:
        if any(workload.seq is not None for workload in asked or ()):
            raise UserError("this model reads images, which have no tokens", "leave --seq-len out")
        return list(asked or [Workload(batch, None) for batch in profile.workloads.batches]), []
    most = config.get("max_position_embeddings")
    if asked:
        too_long = [workload.seq for workload in asked if most is not None and workload.seq is not None and workload.seq > most]
        if too_long:
            raise UserError(
                f"a sequence of {max(too_long)} tokens: this model has {most} positions", f"--seq-len {most}"
            )
        return list(asked), []
    lengths = sorted({seq if most is None else min(seq, int(most)) for seq in profile.workloads.seq})
    cut = [seq for seq in profile.workloads.seq if most is not None and seq > most]
    notes = [f"sequences of {seq} tokens were cut to the model's {most} positions" for seq in cut]
    return [Workload(batch, seq) for seq in lengths for batch in profile.workloads.batches], notes


def image_size(config: Mapping[str, Any]) -> int | None:
    """Return the pixels a side of the images that an exported model reads, None for a model of text."""
    size = ((config.get("rmtkd") or {}).get("spec") or {}).get("image_size")
    return size if isinstance(size, int) else None


def build_images(workload: Workload, size: int, seed: int) -> dict[str, NDArray[np.float32]]:
    """Return pixel_values, float32 (batch, 3, size, size), as normalised images have them: mean 0, variance 1."""
    shape = (workload.batch, 3, size, size)
    return {"pixel_values": np.random.default_rng([seed, workload.batch, size]).standard_normal(shape, dtype=np.float32)}


def build_inputs(workload: Workload, vocab_size: int, seed: int, given: Arrays | None = None) -> dict[str, NDArray[np.int64]]:
    """Return input_ids, attention_mask and token_type_ids, int64 (batch, seq).

    given: real token ids under the same names, (N, T) int64: rows are taken in turn, longer ones cut, shorter ones
    padded with masked zeros. Without it ids are drawn from [0, vocab_size), the mask is full. Raises UserError.
    """
    assert workload.seq is not None, "text has a length"
    shape = (workload.batch, workload.seq)
    if given is None:
        ids = np.random.default_rng([seed, *shape]).integers(0, vocab_size, shape, dtype=np.int64)
        return {
            "input_ids": ids,
            "attention_mask": np.ones(shape, np.int64),
            "token_type_ids": np.zeros(shape, np.int64),
        }
    if "input_ids" not in given or np.asarray(given["input_ids"]).ndim != 2 or not len(given["input_ids"]):
        raise UserError("inputs need `input_ids` of shape (rows, tokens)", "leave the inputs out to use synthetic ids")
    real = np.asarray(given["input_ids"], np.int64)
    if real.min() < 0 or real.max() >= vocab_size:
        raise UserError(f"input_ids reach from {real.min()} to {real.max()}, the vocabulary has {vocab_size}")
    full = {"attention_mask": np.ones_like(real), "token_type_ids": np.zeros_like(real), **given, "input_ids": real}
    rows, width = np.arange(workload.batch) % len(real), min(workload.seq, real.shape[1])
    out = {}
    for name in TOKEN_INPUTS:
        if np.shape(full[name]) != real.shape:
            raise UserError(f"inputs: {name} has shape {np.shape(full[name])}, input_ids {real.shape}")
        out[name] = np.zeros(shape, np.int64)
        out[name][:, :width] = np.asarray(full[name], np.int64)[rows, :width]
    return out


def reference_outputs(path: Path, inputs: Arrays, threads: int, label: str) -> dict[str, NDArray[Any]]:
    """Return the outputs of an ONNX file on this machine's processor, by name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    wanted = [node.name for node in session.get_inputs()]
    missing = [name for name in wanted if name not in inputs]
    if missing:
        raise UserError(
            f"{label} wants {', '.join(missing)}, and only {', '.join(inputs)} were made",
            "export the run again: its ONNX files and its config.json do not belong together",
        )
    values = session.run(None, {name: inputs[name] for name in wanted})
    return dict(zip((node.name for node in session.get_outputs()), values, strict=True))


def build_bundle(
    run: Run,
    profile: HardwareProfile,
    folder: Path,
    *,
    models: Sequence[ModelFile],
    workloads: Sequence[Workload],
    effort: Effort,
    meter: str,
    seed: int,
    inputs: Arrays | None = None,
    copy: bool = False,
) -> Path:
    """Fill `folder` with runner, meters, models, inputs and reference outputs, and return its plan.json.

    meter: `auto` takes the first of the profile's that opens; any other name must open, or the runner refuses. The
    models are linked where that works, or copied with `copy`: a bundle that leaves this machine owns its files.
    """
    threads, vocabulary = resolve_threads(profile), _config(run).get("vocab_size")
    side = image_size(_config(run))
    vocabulary = vocabulary if isinstance(vocabulary, int) else 0
    if side is None and vocabulary < 1:
        raise RunDirError(f"{run.path}/export/config.json has no vocab_size", f"rmtkd-edge export {run.path}")
    copy_runner(folder)
    arrays, reference = {}, {}
    for workload in workloads:
        key = workload_key(asdict(workload))
        made = build_images(workload, side, seed) if side is not None else build_inputs(workload, vocabulary, seed, inputs)
        arrays.update({f"{key}/{name}": value for name, value in made.items()})
        for model in models:
            outputs = reference_outputs(model.path, made, threads, model.label)
            role = model.role if model.precision == "fp32" else f"{model.role}-{model.precision}"
            reference.update({f"{role}/{key}/{name}": value for name, value in outputs.items()})
    np.savez(folder / "inputs.npz", allow_pickle=False, **arrays)
    np.savez(folder / "reference.npz", allow_pickle=False, **reference)
    plan = {
        "schema": PLAN_SCHEMA,
        "profile": profile.name,
        "provider": profile.provider,
        "threads": threads,
        "spinning": profile.spinning,
        "tf32": profile.tf32,
        "models": [_bring(model, folder, copy) for model in models],
        "inputs": "inputs.npz",
        "reference": "reference.npz",
        "files": {name: sha256_file(folder / name) for name in ("inputs.npz", "reference.npz")},
        "tolerance": TOLERANCE.get(profile.provider, TOLERANCE_OTHER),
        "tolerance_int8": TOLERANCE_INT8,
        "emulated": profile.emulated,
        "workloads": [asdict(workload) for workload in workloads],
        **asdict(effort),
        "seed": seed,
        "meters": list(profile.meters) if meter == "auto" else [meter],
        "meter_required": meter != "auto",
        "meter_options": profile.power.model_dump(),
        "limits": profile.limits.imposed(),
    }
    (folder / "plan.json").write_text(json.dumps(plan, indent=1), encoding="utf-8")
    return folder / "plan.json"


def copy_runner(folder: Path) -> None:
    """Copy what measures, which needs nothing else of the package, into a bundle."""
    here = Path(__file__).resolve().parent
    for pattern in TRAVELS:
        for file in sorted(here.glob(pattern)):
            shutil.copyfile(file, _made(folder / file.relative_to(here)))


def _bring(model: ModelFile, folder: Path, copy: bool) -> dict[str, Any]:
    place = Path("models") / model.label.replace(" ", "-")
    (folder / place).mkdir(parents=True)
    parts = [(model.path, model.sha256), *model.external]
    for path, _ in parts:
        (shutil.copyfile if copy else _link_or_copy)(path, _made(folder / place / path.relative_to(model.path.parent)))
    named = [{"file": (place / p.relative_to(model.path.parent)).as_posix(), "sha256": sha} for p, sha in parts]
    return {"label": model.label, "role": model.role, "precision": model.precision, **named[0], "external": named[1:]}


def _made(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        os.link(source, target)  # the same bytes without a second copy; the runner checks the hash either way
    except OSError:
        shutil.copyfile(source, target)


def _config(run: Run) -> dict[str, Any]:
    config = run.read_json("export/config.json")
    if not isinstance(config, dict):
        raise RunDirError(f"{run.path}/export/config.json is not a table", f"rmtkd-edge export {run.path}")
    return config
