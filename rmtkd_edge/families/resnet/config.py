"""What config.json says of a ResNet next to the labels."""

from __future__ import annotations

from typing import Any

from rmtkd_edge.families.resnet.spec import CHANNELS

KEYS: dict[str, Any] = {"architectures": ["ResNetForImageClassification"], "num_channels": CHANNELS}
