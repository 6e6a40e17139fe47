"""transformers' ResNets for image classification: their weights in torchvision's names, labels and normalisation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rmtkd_edge.errors import UserError, reason, some
from rmtkd_edge.families.sources import INTACT, config_labels, label_order, refuse_other_problems
from rmtkd_edge.families.weights_files import IMAGENET_CLASSES
from rmtkd_edge.run.layout import CONFIG
from rmtkd_edge.run.records.base import read_json_file

CLASSIFIER = "fc."
NAMES = (  # theirs and torchvision's
    (re.compile(r"^resnet\.embedder\.embedder\.convolution\."), "conv1."),
    (re.compile(r"^resnet\.embedder\.embedder\.normalization\."), "bn1."),
    (re.compile(r"^classifier\.1\."), CLASSIFIER),
)
PLACE = re.compile(
    r"^resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(shortcut|layer\.(\d+))\.(convolution|normalization)\."
)


def is_transformers_resnet(config: Any) -> bool:
    """Return whether what a folder's config.json holds is that of a ResNet of transformers."""
    return isinstance(config, dict) and config.get("model_type") == "resnet" and "rmtkd" not in config


def config_of(source: str) -> Any:
    """Return what config.json of a folder holds, None where there is none; raise RunDirError for one that is broken."""
    path = Path(source) / CONFIG
    return read_json_file(path, INTACT) if path.is_file() else None


def torchvision_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a ResNetForImageClassification in torchvision's names."""
    return {_name(name): tensor for name, tensor in model.state_dict().items()}


def _name(name: str) -> str:
    if place := PLACE.match(name):
        stage, block, part, number, kind = place.groups()
        if part == "shortcut":
            ours = f"downsample.{0 if kind == 'convolution' else 1}"
        else:
            ours = f"{'conv' if kind == 'convolution' else 'bn'}{int(number) + 1}"
        return f"layer{int(stage) + 1}.{block}.{ours}.{name[place.end() :]}"
    for pattern, theirs in NAMES:
        name = pattern.sub(theirs, name)
    return name


def load_classifier(source: str, labels: Sequence[str]) -> tuple[nn.Module, list[int] | None]:
    """Return transformers' model of a folder, and where it has each of the data's labels; None for a new classifier.

    One for ImageNet's classes is replaced where the data have another number of labels.

    Raises:
        UserError: it cannot be loaded, lacks weights, is for another problem, or knows other labels.
    """
    from transformers import ResNetForImageClassification

    try:
        loaded: Any = ResNetForImageClassification.from_pretrained(
            source,
            output_loading_info=True,
            use_safetensors=True,  # other files are unpickled
        )
    except Exception as err:  # transformers raises its own, its validators' and OS errors alike
        raise UserError(f"cannot load a model from `{source}`: {reason(err)}", INTACT) from err
    model, info = loaded
    refuse_other_problems(model.config.problem_type)
    missing = sorted(info["missing_keys"])
    if odd := [name for name in missing if not name.startswith("classifier.")]:
        raise UserError(f"`{source}` lacks weights: {some(odd)}", INTACT)
    if missing or IMAGENET_CLASSES == len(config_labels(model.config)) != len(labels):
        model.classifier[1] = nn.Linear(model.classifier[1].in_features, len(labels))
        return model, None
    return model, label_order(config_labels(model.config), labels, source)
