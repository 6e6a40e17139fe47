"""ViT and DeiT classifiers of transformers, from a folder or in memory."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from rmtkd_edge.errors import UserError, reason, some
from rmtkd_edge.families.activations import ACTIVATIONS, plain_name
from rmtkd_edge.families.images import CHANNELS
from rmtkd_edge.families.sources import INTACT, config_labels, label_order, refuse_other_problems, reorder
from rmtkd_edge.families.torchvision_sources import Wanted, sized
from rmtkd_edge.families.vit.checkpoint import CAUSES, KNOWN, check, new_classifier
from rmtkd_edge.families.vit.config import CLASSES
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.families.vit.names import filled, from_transformers
from rmtkd_edge.families.vit.spec import VitSpec, even_layers
from rmtkd_edge.families.weights_files import IMAGENET_CLASSES


def load(source: str, wanted: Wanted) -> tuple[VisionTransformer, bool]:
    """Return the model of a folder, and whether its classifier is trained already.

    Raises UserError where it cannot be loaded, computes something else, or knows other labels or another image size.
    """
    import transformers

    config = _loaded(transformers.AutoConfig, source)
    kind = config.model_type
    if kind not in CLASSES:
        raise UserError(f"`{source}` is a model of type `{kind}`, the family vit does not read it", f"give {KNOWN}")
    refuse_other_problems(config.problem_type)
    if any("WithTeacher" in name for name in config.architectures or []):
        raise UserError(
            f"`{source}` is a {config.architectures[0]}, whose answer is the mean of two classifiers",
            "train and save a DeiTForImageClassification, which has one",
        )
    model, info = _loaded(
        getattr(transformers, CLASSES[kind]),
        source,
        output_loading_info=True,
        use_safetensors=True,  # other files are unpickled
    )
    missing, odd = sorted(info["missing_keys"]), sorted(info["unexpected_keys"])
    if [name for name in missing if not name.startswith("classifier.")]:
        raise UserError(f"`{source}` lacks weights: {some(missing)}", INTACT)
    if odd and not (missing and all("pooler" in name or "mask_token" in name for name in odd)):
        raise UserError(f"`{source}` has weights that a plain {kind} does not: {some(odd)}", CAUSES)
    other = IMAGENET_CLASSES == len(config_labels(config)) != len(wanted.labels)
    if missing or other:
        model.classifier = nn.Linear(config.hidden_size, len(wanted.labels))
        return new_classifier(sized(converted(model, wanted.labels, source), wanted, source), wanted), False
    order = label_order(config_labels(config), wanted.labels, source)
    ours = sized(converted(model, wanted.labels, source), wanted, source)
    reorder(ours.classifier, order)
    return ours, True


def _loaded(kind: Any, source: str, **options: Any) -> Any:
    try:
        return kind.from_pretrained(source, **options)
    except Exception as err:  # transformers raises its own, its validators' and OS errors alike
        raise UserError(f"cannot load a model from `{source}`: {reason(err)}", INTACT) from err


def converted(theirs: nn.Module, labels: Sequence[str], where: str) -> VisionTransformer:
    """Return what computes the same as transformers' classifier; raise UserError where nothing does."""
    config: Any = theirs.config
    size, patch = (_square(getattr(config, name), name, where) for name in ("image_size", "patch_size"))
    activation = plain_name(config.hidden_act)
    if activation not in ACTIVATIONS or config.num_channels != CHANNELS:
        raise UserError(
            f"{where} has the activation `{config.hidden_act}` and {config.num_channels} channels",
            f"known: images of {CHANNELS} channels, and the activations {', '.join(ACTIVATIONS)}",
        )
    spec = VitSpec(
        width=config.hidden_size,
        layers=even_layers(
            config.num_hidden_layers, config.num_attention_heads, config.hidden_size, config.intermediate_size
        ),
        labels=tuple(labels),
        model_type=config.model_type,
        patch=patch,
        tokens={"vit": 1, "deit": 2}[config.model_type],
        image_size=size,
        activation=activation,
        eps=config.layer_norm_eps,
        dropout=config.hidden_dropout_prob,
    )
    plain = copy.deepcopy(theirs).cpu().float().eval()
    model = filled(VisionTransformer(spec), from_transformers(plain.state_dict(), config.model_type), where)
    check(model, lambda x: plain(pixel_values=x).logits, where)
    return model


def _square(value: Any, name: str, where: str) -> int:
    sides = {*value} if isinstance(value, Sequence) else {value}
    if len(sides) != 1:
        raise UserError(f"{where} has {name} {value}", "images and patches must be as high as wide")
    return int(sides.pop())
