"""From a torch module to an ONNX file: traced by torch's exporter, written whole or not at all."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch import Tensor, nn

from rmtkd_edge.config.settings import Graph
from rmtkd_edge.errors import RmtkdError, RunDirError

LIMIT_BYTES = 1_900_000_000  # a protobuf message holds 2 GiB; the graph itself needs some of it
OUTPUT = "logits"  # the first output of every file is the model's own, whatever its name; others are for other clients
# The highest opset that each onnxruntime and later read. Before 1.18 they refuse the file format (IR version 10) that
# torch writes, and read that of a portable file.
OPSETS_OF_RUNTIMES = {(1, 18): 21, (1, 21): 22, (1, 23): 23}
OPSETS_OF_OLD_RUNTIMES = {(1, 16): 19, (1, 17): 20}


def oldest_runtime(opset: int, graph: Graph | None = None) -> str:
    """Return the oldest onnxruntime that reads a file of an opset."""
    known = {**OPSETS_OF_OLD_RUNTIMES, **OPSETS_OF_RUNTIMES} if graph == "portable" else OPSETS_OF_RUNTIMES
    return next((f"{a}.{b}" for (a, b), highest in known.items() if opset <= highest), "")


def export_module(
    module: nn.Module,
    path: Path,
    sample: Mapping[str, Tensor],
    axes: Mapping[str, Mapping[int, str]],
    *,
    opset: int,
    metadata: Mapping[str, str],
    outputs: Sequence[str] = (OUTPUT,),
) -> list[Path]:
    """Trace a module and write it as ONNX.

    Args:
        sample: inputs by name to trace with; sizes of 0 and 1 would be taken for constants.
        axes: the dynamic axes of every input.
        outputs: names of what the module gives.

    Returns:
        The files: the model, and `<name>.data` where the weights do not fit into protobuf's 2 GiB.

    Raises:
        RmtkdError: torch cannot export the module.
        RunDirError: the file cannot be written.
    """
    try:
        with torch.no_grad(), quiet():
            program: Any = torch.onnx.export(
                module,
                kwargs=dict(sample),
                dynamo=True,
                opset_version=opset,
                output_names=list(outputs),
                dynamic_shapes={name: dict(axes[name]) for name in sample},
                external_data=False,
                verbose=False,
                optimize=True,
            )
    except torch.onnx.errors.OnnxExporterError as err:
        raise RmtkdError(f"torch could not export the model: {err}", "report this with the run's recipe.toml") from err
    ClearMetadataAndDocStringPass()(program.model)  # stack traces, with the paths of this machine
    for key, value in metadata.items():
        program.model.metadata_props[key] = value
    size = sum(tensor.numel() * tensor.element_size() for tensor in module.state_dict().values())
    return save_program(program, path, external=size > LIMIT_BYTES)


def save_program(program: Any, path: Path, external: bool) -> list[Path]:
    """Write next to the target, then rename: readers see a whole file or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            program.save(Path(folder) / path.name, external_data=external)
            for file in sorted(Path(folder).iterdir(), reverse=True):
                if file.name not in (path.name, f"{path.name}.data"):
                    raise RmtkdError(f"torch wrote an unexpected file {file.name} next to {path.name}")
            written = [path.with_name(file.name) for file in sorted(Path(folder).iterdir())]
            for target in reversed(written):  # the data first, then the model that names them
                (Path(folder) / target.name).replace(target)
    except OSError as err:
        raise RunDirError(f"cannot write {path}: {err.strerror or err}", "free space, then export again") from err
    return written


@contextmanager
def quiet() -> Iterator[None]:
    """Keep warnings about torch's own code, and about two inputs sharing an axis, from the user, and nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", message="# The axis name", category=UserWarning)
        yield
