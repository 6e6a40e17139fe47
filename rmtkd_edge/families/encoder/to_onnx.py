"""From a folded encoder to one ONNX file with dynamic batch and sequence axes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from rmtkd_edge.errors import RmtkdError, RunDirError
from rmtkd_edge.families.encoder.graph import GraphOptions, build, input_names
from rmtkd_edge.families.encoder.module import Encoder

LIMIT_BYTES = 1_900_000_000  # a protobuf message holds 2 GiB; the graph itself needs some of it


def export_onnx(
    folded: Encoder, path: Path, options: GraphOptions | None = None, metadata: Mapping[str, str] | None = None
) -> list[Path]:
    """Write a folded encoder as ONNX and return the files: the model, and `<name>.data` beyond protobuf's 2 GiB.

    Inputs are int64 (batch, sequence), the output is `logits` float32 (batch, labels). `metadata`: metadata_props.
    Raises RmtkdError where torch cannot export, RunDirError where the file cannot be written. tools/bench_export.py
    shows time and peak memory.
    """
    options = options or GraphOptions()
    program = _trace(build(folded, options), input_names(folded.spec), options.opset)
    for key, value in (metadata or {}).items():
        program.model.metadata_props[key] = value
    size = sum(tensor.numel() * tensor.element_size() for tensor in folded.state_dict().values())
    return save_program(program, path, external=size > LIMIT_BYTES)


def sample_inputs(names: list[str], batch: int = 2, length: int = 16) -> dict[str, Tensor]:
    """Return int64 inputs (batch, length) to trace with; sizes of 0 and 1 would be taken for constants."""
    ids = torch.full((batch, length), 3)
    return {
        name: ids
        if name == "input_ids"
        else torch.ones_like(ids)
        if name == "attention_mask"
        else torch.zeros_like(ids)
        for name in names
    }


def _trace(module: torch.nn.Module, names: list[str], opset: int) -> Any:
    axes = {0: "batch", 1: "sequence"}
    try:
        with torch.no_grad(), quiet():
            return torch.onnx.export(
                module,
                kwargs=sample_inputs(names),
                dynamo=True,
                opset_version=opset,
                output_names=["logits"],
                dynamic_shapes={name: axes for name in names},
                external_data=False,
                verbose=False,
                optimize=True,
            )
    except torch.onnx.errors.OnnxExporterError as err:
        raise RmtkdError(f"torch could not export the encoder: {err}", "try --set export.attention=plain") from err


def save_program(program: Any, path: Path, external: bool) -> list[Path]:
    """Write beside the target, then rename: readers see a whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            program.save(Path(folder) / path.name, external_data=external)
            for file in sorted(Path(folder).iterdir(), reverse=True):
                if file.name not in (path.name, f"{path.name}.data"):
                    raise RmtkdError(f"torch wrote an unexpected file {file.name} beside {path.name}")
            written = [path.with_name(file.name) for file in sorted(Path(folder).iterdir())]
            for target in reversed(written):  # the data first, then the model that names them
                (Path(folder) / target.name).replace(target)
    except OSError as err:
        raise RunDirError(f"cannot write {path}: {err.strerror or err}", "free space, then export again") from err
    return written


@contextmanager
def quiet() -> Any:
    """Keep warnings about torch's own code, and about two inputs sharing an axis, from the user, and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        yield
