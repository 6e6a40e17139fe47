"""The exported folder: what transformers, Optimum and transformers.js look for, and what is ours under `rmtkd`."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.families.encoder.sources import names_from_transformers
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.ops import Model, ModelSpec
from rmtkd_edge.families.encoder.spec import EncoderSpec
from rmtkd_edge.families.store import SCHEMA, assemble, read_json, read_weights, spec_of
from rmtkd_edge.run.directory import Run, package_version, sha256_file

CONFIG, WEIGHTS, FACTS = "config.json", "model.safetensors", "rmtkd.json"
VARIANTS = {"fp32": "onnx/model.onnx", "fp16": "onnx/model_fp16.onnx", "int8": "onnx/model_quantized.onnx"}
EXPORT_SCHEMA = "rmtkd-edge/export@1"
CLASSES = {"bert": "Bert", "roberta": "Roberta", "distilbert": "DistilBert", "electra": "Electra"}
AGAIN = "export again: rmtkd-edge export RUN --force"
NOTE = (
    "The widths of this model differ from layer to layer: AutoModel.from_pretrained cannot rebuild it, "
    "rmtkd_edge.load(FOLDER) and the files under onnx/ can."
)


def standardise(folded: Encoder) -> Encoder:
    """Return the same function with the attention scale 1 / sqrt(query width), the rest of it moved into the query.

    A query/key width that was cut keeps the scale of the uncut one. Other loaders derive the scale from the width; with
    it moved they cannot be silently wrong.
    """
    layers = tuple(replace(layer, scale=layer.qk**-0.5) for layer in folded.spec.layers)
    state = {name: tensor.detach() for name, tensor in folded.state_dict().items()}
    for i, (old, new) in enumerate(zip(folded.spec.layers, layers, strict=True)):
        for part in ("weight", "bias"):
            if old.scale != new.scale:
                state[f"layers.{i}.query.{part}"] = state[f"layers.{i}.query.{part}"] * (old.scale / new.scale)
    return assemble(replace(folded.spec, layers=layers), state, "the encoder in memory")


def fits_transformers(spec: EncoderSpec) -> bool:
    """Return whether transformers' own class can hold these widths (one width everywhere, one FFN width)."""
    first = spec.layers[0]
    even = all(layer == first for layer in spec.layers) and first.scale == first.qk**-0.5 and spec.words is None
    # ELECTRA maps its embeddings to the width only where the two differ: a map between equal ones would be dropped
    factorised = spec.embedding is None or spec.embedding != spec.width
    return even and factorised and first.heads * first.qk == first.heads * first.value == spec.width == spec.head_width


def to_config(spec: EncoderSpec, task: str) -> dict[str, Any]:
    """Return config.json: the standard keys of the model type, and the true shape under `rmtkd`."""
    from transformers import AutoConfig

    heads, ffn = max(layer.heads for layer in spec.layers), max(layer.ffn for layer in spec.layers)
    common: dict[str, Any] = {
        "vocab_size": spec.vocab,
        "max_position_embeddings": spec.positions,
        "pad_token_id": spec.pad_id,
        "id2label": dict(enumerate(spec.labels)),
        "label2id": {name: i for i, name in enumerate(spec.labels)},
    }
    if spec.model_type == "distilbert":
        shape = {
            "dim": spec.width,
            "n_layers": len(spec.layers),
            "n_heads": heads,
            "hidden_dim": ffn,
            "activation": spec.activation,
            "dropout": spec.dropout,
            "seq_classif_dropout": spec.dropout,
        }
    else:
        shape = {
            "hidden_size": spec.width,
            "num_hidden_layers": len(spec.layers),
            "num_attention_heads": heads,
            "intermediate_size": ffn,
            "type_vocab_size": spec.type_vocab,
            "hidden_act": spec.activation,
            "layer_norm_eps": spec.eps,
            "hidden_dropout_prob": spec.dropout,
        }
    if spec.model_type == "electra":
        shape["embedding_size"] = spec.embedding or spec.width
    config = AutoConfig.for_model(spec.model_type, **common, **shape).to_dict()
    config["architectures"] = [CLASSES[spec.model_type] + "ForSequenceClassification"]
    config["id2label"] = {str(i): name for i, name in enumerate(spec.labels)}
    config["rmtkd"] = {
        "schema": SCHEMA,
        "spec": spec.to_dict(),
        "task": task,
        "version": package_version(),
        "transformers": fits_transformers(spec),
        "note": None if fits_transformers(spec) else NOTE,
    }
    return config


def to_tensors(encoder: Encoder) -> dict[str, Tensor]:
    """Return the weights under transformers' names: a loader that expects other widths fails instead of guessing."""
    names = names_from_transformers(encoder.spec)
    return {_rename(name, names): tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}


def read_spec(folder: Path) -> ModelSpec:
    """Return the shape that an exported folder's config.json describes; raise RunDirError otherwise."""
    shape = read_json(folder / CONFIG, AGAIN).get("rmtkd")
    if not isinstance(shape, dict):
        raise RunDirError(f"{folder / CONFIG} has no key `rmtkd`", AGAIN)
    return spec_of(shape, folder / CONFIG, AGAIN)


def read_model(folder: Path, sha256: str | None) -> Model:
    """Return the folded model of an exported folder, in eval mode; raise RunDirError naming a file at fault."""
    spec = read_spec(folder)
    tensors = read_weights(folder / WEIGHTS, sha256, AGAIN)
    if isinstance(spec, EncoderSpec):
        back = {theirs: ours for ours, theirs in names_from_transformers(spec).items()}
        tensors = {_rename(name, back): tensor for name, tensor in tensors.items()}
    return assemble(spec, tensors, folder / WEIGHTS, AGAIN)


def write_bundle(run: Run, rel: str, encoder: Encoder, task: str, tokenizer: str = "compress/tokenizer") -> None:
    """Write config.json, the weights and the tokenizer's files (checked copies) into a folder of the run."""
    run.write_json(f"{rel}/{CONFIG}", to_config(encoder.spec, task))
    run.write_tensors(f"{rel}/{WEIGHTS}", to_tensors(encoder))
    for name in [name for name in run.manifest["files"] if name.startswith(f"{tokenizer}/")]:
        run.write_bytes(f"{rel}/{name.removeprefix(f'{tokenizer}/')}", run.read_bytes(name))


def write_facts(run: Run, rel: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write rmtkd.json, the last file: `facts`, hashes of the others, versions; a folder without it is not whole."""
    run.record(rel)
    prefix = f"{rel}/"
    files = {
        name.removeprefix(prefix): digest
        for name, digest in sorted(run.manifest["files"].items())
        if name.startswith(prefix)
    }
    whole = {
        "schema": EXPORT_SCHEMA,
        **facts,
        "files": {k: v for k, v in files.items() if k != FACTS},
        "versions": versions(),
    }
    run.write_json(f"{rel}/{FACTS}", whole)
    return whole


def check_file(folder: Path, name: str, files: Mapping[str, str]) -> Path:
    """Return the path of a file of an exported folder; raise RunDirError where it is not the one that was written."""
    path = folder / name
    if folder.resolve() not in path.resolve().parents:
        raise RunDirError(f"{name!r} points outside of {folder}", AGAIN)
    if name not in files:
        raise RunDirError(f"{path} is not part of this export ({FACTS} does not list it)", AGAIN)
    if not path.is_file():
        raise RunDirError(f"{path} is missing", AGAIN)
    if (found := sha256_file(path)) != files[name]:
        raise RunDirError(f"{path} was altered or cut off: its sha256 is {found}, {FACTS} says {files[name]}", AGAIN)
    return path


def versions() -> dict[str, str]:
    """Return the versions of what took part."""
    import onnx
    import onnxruntime

    return {
        "rmtkd-edge": package_version(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "onnx": onnx.__version__,
        "onnxruntime": onnxruntime.__version__,
        "transformers": version("transformers"),
    }


def _rename(name: str, names: Mapping[str, str]) -> str:
    module, _, part = name.rpartition(".")
    return f"{names.get(module, module)}.{part}"
