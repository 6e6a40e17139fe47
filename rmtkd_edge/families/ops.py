"""What every family can do with its models, by the module that defines them: fold, unfold, narrow, read a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from rmtkd_edge.families.resnet.sources import module as convnet
from rmtkd_edge.families.encoder.module import module as encoder
from rmtkd_edge.families.resnet.module import ConvNet
from rmtkd_edge.families.resnet.spec import ConvNetSpec
from rmtkd_edge.families.encoder.module import Encoder
from rmtkd_edge.families.encoder.spec import EncoderSpec

Model = Encoder | ConvNet
ModelSpec = EncoderSpec | ConvNetSpec
FAMILIES: dict[type, Any] = {Encoder: encoder, ConvNet: convnet}


def build_from_spec(spec: ModelSpec) -> Model:
    """Return an untrained model of a shape."""
    return ConvNet(spec) if isinstance(spec, ConvNetSpec) else Encoder(spec)


def spec_from_dict(data: Mapping[str, Any]) -> ModelSpec:
    """Return the shape that a spec's `to_dict` wrote; raise KeyError, TypeError or ValueError for anything else."""
    kind: Any = ConvNetSpec if data["model_type"] == "resnet" else EncoderSpec
    return kind.from_dict(data)


def fold(model: Model) -> Any:
    """Return the plain narrow model that `model` equals exactly."""
    return FAMILIES[type(model)].fold(model)


def unfold(folded: Model, projections: dict[str, Tensor]) -> Any:
    """Return `folded` with fixed projections by site put back behind its producers."""
    return FAMILIES[type(folded)].unfold(folded, projections)


def projections_of(model: Model) -> dict[str, Tensor]:
    """Return the fixed projections by site."""
    return FAMILIES[type(model)].projections_of(model)


def narrow_like(model: Model, ranks: dict[str, int]) -> Any:
    """Return an untrained folded model of the given ranks."""
    return FAMILIES[type(model)].narrow_like(model, ranks)


def logits(
    model: Any, batch: Mapping[str, Tensor], names: tuple[str, ...], tap: Callable[[str, Tensor], None] | None = None
) -> Tensor:
    """Return the logits (B, labels) of a model, or of what wraps one, from the inputs of these names."""
    inputs = [batch.get(name) for name in names]
    return model(*inputs) if tap is None else model(*inputs, tap=tap)
