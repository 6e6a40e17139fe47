"""Models on disk: `model.safetensors` for the weights, `model.json` for the shape; nothing is ever unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as safetensors_load
from safetensors.torch import save as safetensors_save
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.families.base import Spec, find_family, spec_from_dict
from rmtkd_edge.families.model import Model
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.run.directory import atomic_write_bytes
from rmtkd_edge.run.layout import SHAPE, WEIGHTS
from rmtkd_edge.run.records.base import from_json, read_json_file, to_json
from rmtkd_edge.run.records.model import ModelRecord

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run

AGAIN = "the file was changed after it was written: restore it, or compress again with --force"


def save_model(run: Run, rel_dir: str, model: Model) -> None:
    """Write a model to a folder of the run, hashed in the manifest."""
    weights = f"{rel_dir}/{WEIGHTS}"
    run.write_tensors(weights, _tensors(model))
    sha256 = run.manifest["files"].get(weights)  # a process that only reads records nothing
    run.write_record(f"{rel_dir}/{SHAPE}", ModelRecord(model.spec.to_dict(), sha256))


def load_model(run: Run, rel_dir: str) -> Model:
    """Return the model of a folder of the run, in eval mode, after its hashes were checked.

    Raises RunDirError naming the file that is missing, altered, or does not fit the shape.
    """
    shape = f"{rel_dir}/{SHAPE}"
    spec = spec_of(run.read_record(ModelRecord, shape).spec, run.path_of(shape))
    return assemble(spec, run.read_tensors(f"{rel_dir}/{WEIGHTS}"), run.path_of(f"{rel_dir}/{WEIGHTS}"))


def save_folder(path: Path, model: Model) -> None:
    """Write a model to a folder that belongs to no run; model.json carries the sha256 of the weights."""
    path.mkdir(parents=True, exist_ok=True)
    atomic_write_bytes(path / WEIGHTS, safetensors_save(_tensors(model)))
    record = ModelRecord(model.spec.to_dict(), sha256_file(path / WEIGHTS))
    atomic_write_bytes(path / SHAPE, json.dumps(to_json(record), indent=1).encode())


def load_folder(path: Path) -> Model:
    """Return the model that `save_folder` or `save_model` wrote, in eval mode; the hash of its weights is checked.

    Raises RunDirError naming the file that is missing, truncated, altered, or does not fit the shape.
    """
    record = read_shape(path)
    return assemble(spec_of(record.spec, path / SHAPE), read_weights(path / WEIGHTS, record.sha256), path / WEIGHTS)


def read_shape(path: Path) -> ModelRecord:
    """Return model.json of a folder; raise RunDirError naming the file otherwise."""
    return from_json(ModelRecord, read_json_file(path / SHAPE, AGAIN), path / SHAPE)


def read_weights(path: Path, sha256: str | None, hint: str = AGAIN) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file whose hash must be `sha256`; raise RunDirError naming it otherwise."""
    try:
        actual = sha256_file(path)
        if actual != sha256:
            raise RunDirError(f"{path} was altered: its sha256 is {actual}, {sha256 or 'none'} is on record", hint)
        return safetensors_load(path.read_bytes())
    except OSError as err:
        raise RunDirError(f"{path} cannot be read: {err.strerror or err}", hint) from err
    except SafetensorError as err:
        raise RunDirError(f"{path} is not a valid safetensors file: {err}", hint) from err


def spec_of(described: Mapping[str, Any], path: Path, hint: str = AGAIN) -> Spec:
    """Return the shape that a JSON object read from `path` describes; raise RunDirError naming the file otherwise."""
    try:
        return spec_from_dict(described)
    except (KeyError, TypeError, ValueError) as err:
        raise RunDirError(f"{path} describes no model: {err!r}", hint) from err


def assemble(spec: Spec, tensors: Mapping[str, Tensor], path: Path | str, hint: str = AGAIN) -> Model:
    """Return a model in eval mode that owns `tensors` (no weight is initialised first, none copied).

    Raises RunDirError naming `path` and every tensor that is missing, left over, or of another shape or dtype.
    """
    try:
        with torch.device("meta"), _Uninitialised():
            model = find_family(spec.family).build(spec)
    except (TypeError, ValueError, RuntimeError, UserError) as err:
        raise RunDirError(f"{path}: no model can have the shape on record: {err}", hint) from err
    wanted = model.state_dict()
    faults = [f"{name} is missing" for name in wanted if name not in tensors]
    faults += [f"{name} does not belong" for name in tensors if name not in wanted]
    for name, tensor in tensors.items():
        if name in wanted and tensor.shape != wanted[name].shape:
            faults.append(f"{name} is {tuple(tensor.shape)}, the shape on record needs {tuple(wanted[name].shape)}")
    kinds = {tensor.dtype for tensor in tensors.values()}
    if len(kinds) > 1 or not all(kind.is_floating_point for kind in kinds):
        faults.append(f"dtypes are {', '.join(sorted(map(str, kinds)))}, one floating dtype is needed")
    if faults:
        more = f" and {len(faults) - 5} more" if len(faults) > 5 else ""
        raise RunDirError(f"{path} does not fit its shape: {'; '.join(faults[:5])}{more}", hint)
    model.load_state_dict(dict(tensors), assign=True)
    return model.eval()


class _Uninitialised(TorchFunctionMode):
    """Leaves weights as they are made: to fill tensors without memory torch imports its compiler, for a second."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", None) == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def _tensors(model: Model) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
