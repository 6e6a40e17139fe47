"""The user's own model as one of a family's: the same outputs, with widths that can be cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rmtkd_edge import plugins
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import find_family

if TYPE_CHECKING:
    from torch import nn

    from rmtkd_edge.families.model import Model


def from_module(module: nn.Module, labels: Sequence[str] | None = None) -> Model:
    """Return a model that computes what a library's module does (its weights are copied), in eval mode.

    Every family that is installed is asked.

    Args:
        labels: names of the outputs in their order; the module's own when left out.

    Raises:
        UserError: no family knows the module, or one knows it and cannot take it.
    """
    refused: UserError | None = None
    for name in plugins.names("families"):
        try:
            found = find_family(name).from_module(module, labels)
        except UserError as err:
            refused = err
            continue
        if found is not None:
            return found.eval()
    if refused is not None:
        raise refused
    raise UserError(
        f"no family can cut a {type(module).__name__}",
        "a sequence or token classifier of transformers, or an encoder alone (BERT, RoBERTa, DistilBERT, ELECTRA, "
        "MPNet, ALBERT, DeBERTa-v2), a ModernBERT classifier, a ResNet or vision transformer of transformers or "
        f"torchvision, or a MobileNet of torchvision; installed families: {', '.join(plugins.names('families'))}",
    )


def from_transformers(
    model: nn.Module,
    labels: Sequence[str] | None = None,
    *,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Return the model that computes what a classifier of transformers, or encoder alone, does; see from_module.

    Args:
        mean, std: per channel, that an image classifier's images are normalised with, which the model does not say.

    Raises:
        UserError: as `from_module`; of an image classifier mean and std are left out.
    """
    found = from_module(model, labels)
    if hasattr(found.spec, "image_size") and (mean is None or std is None):
        raise UserError(
            "the model does not say how its images were normalised",
            "mean=processor.image_mean, std=processor.image_std of its AutoImageProcessor",
        )
    return _for_images(found, {"mean": mean and tuple(mean), "std": std and tuple(std)})


def from_torchvision(
    model: nn.Module,
    labels: Sequence[str] | None = None,
    *,
    image_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Model:
    """Return the network that computes the same logits as a torchvision classifier; see from_module.

    Args:
        image_size: pixels a side of the images that it reads; the module's own, or 224, when left out.
        mean, std: per channel, that the images are normalised with; ImageNet's when left out.
    """
    given = {"image_size": image_size, "mean": mean and tuple(mean), "std": std and tuple(std)}
    return _for_images(from_module(model, labels), given)


def _for_images(found: Model, given: Mapping[str, Any]) -> Model:
    """Return the model with what is given of its images in its spec; raise UserError where they do not go together."""
    settings = {name: value for name, value in given.items() if value is not None}
    parameters = found.spec.count_parameters()
    if settings and not hasattr(found.spec, "image_size"):
        raise UserError("the model reads no images", f"leave out {' and '.join(settings)}")
    found.spec = replace(found.spec, **settings)  # type: ignore[type-var]  # specs are dataclasses
    if found.spec.count_parameters() != parameters:  # of position embeddings
        size = given["image_size"]
        raise UserError(f"the model does not read images of {size} pixels a side", "leave image_size out")
    return found
