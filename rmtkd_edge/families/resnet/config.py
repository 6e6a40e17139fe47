"""What ships with a ResNet's weights: config.json's own keys, and the names of the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rmtkd_edge.families.resnet.spec import CHANNELS, ResNetSpec

if TYPE_CHECKING:
    from torch import Tensor, nn


def keys(spec: ResNetSpec) -> dict[str, Any]:
    """Return config.json's keys of a ResNet that classifies images."""
    return {
        "model_type": spec.model_type,
        "architectures": ["ResNetForImageClassification"],
        "num_channels": CHANNELS,
        "id2label": {str(i): name for i, name in enumerate(spec.labels)},
        "label2id": {name: i for i, name in enumerate(spec.labels)},
    }


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights under this package's own names: no other library has widths like these."""
    return dict(model.state_dict())


def from_tensors(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict from what `tensors` gave."""
    return dict(found)
