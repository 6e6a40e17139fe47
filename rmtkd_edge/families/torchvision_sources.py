"""Where networks for images come from: torchvision's weights, folders of ours, and how their images were normalised."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.settings import Normalisation as Normalisation
from rmtkd_edge.config.settings import Section
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import M

if TYPE_CHECKING:
    from torch import Tensor

TORCHVISION = "torchvision:"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Wanted:
    """What a source must fit: the data's labels and image size (in pixels), and the seed of random weights."""

    labels: tuple[str, ...]
    image_size: int
    seed: int


def torchvision_state(name: str, known: Collection[str]) -> dict[str, Tensor]:
    """Return the ImageNet weights of one of torchvision's models (unpickled with tensors alone allowed)."""
    import torch
    from torchvision.models import get_model_weights

    if name not in known:
        raise UserError(
            f"`{TORCHVISION}{name}` is not known", f"known: {', '.join(f'{TORCHVISION}{n}' for n in known)}"
        )
    weights = get_model_weights(name)["DEFAULT"]
    try:
        state = torch.hub.load_state_dict_from_url(weights.url, check_hash=True, weights_only=True, progress=False)
    except (OSError, RuntimeError) as err:
        raise UserError(
            f"the weights of {name} cannot be fetched from {weights.url}: {err}",
            "give a safetensors file as model.source, or `scratch`",
        ) from err
    return dict(state)


def refuse_other_shape(shape: Section, source: str, told: Mapping[str, Any]) -> None:
    """Raise UserError where a recipe's `model.shape` states something else than a source tells, by key."""
    for name in sorted(shape.model_fields_set & told.keys()):
        if getattr(shape, name) != told[name]:
            raise UserError(
                f"model.shape.{name} is {getattr(shape, name)}, that of {source} {told[name]}",
                f"leave it out, or --set model.shape.{name}={told[name]}",
            )


def sized(net: M, wanted: Wanted, source: str) -> M:
    """Return the model; raise UserError where it reads images of another size than the data's."""
    size = net.spec.inputs[0].shape[-1]
    if size != wanted.image_size:
        raise UserError(
            f"`{source}` reads images of {size} pixels a side, the data have {wanted.image_size}",
            f"--set task.image_size={size} resizes them",
        )
    return net


def fitting(source: str, net: Any, family: str, wanted: Wanted, shape: Section, stem: str) -> Any:
    """Return the model of a folder of ours, its labels in the data's order.

    Args:
        stem: the key of `shape`, and of the model's spec, that says how the first layer reads pixels.

    Raises:
        UserError: it is another family's, knows other labels, or reads other images or otherwise than the recipe says.
    """
    from rmtkd_edge.families.sources import label_order, reorder

    if net.spec.family != family:
        raise UserError(f"{source} holds no {family}", f"--set model.family={net.spec.family}")
    refuse_other_shape(shape, source, {stem: getattr(net.spec, stem)})
    reorder(net.classifier, label_order(net.spec.labels, wanted.labels, source))
    net.spec = replace(net.spec, labels=wanted.labels)
    return sized(net, wanted, source)


def source_normalisation(
    recipe: Recipe, family: str, of_checkpoint: Callable[[str], Normalisation | None]
) -> Normalisation | None:
    """Return the mean and standard deviation that a recipe's source was trained with, None where none are named.

    Args:
        of_checkpoint: returns what a file or folder of another library says.

    Raises:
        UserError: neither a trained source nor the recipe says them, or they say different ones.
    """
    from rmtkd_edge.families.normalisation import refuse_other
    from rmtkd_edge.families.sources import own_spec
    from rmtkd_edge.families.weights_files import downloaded

    if recipe.model.source == "scratch":
        return None
    if recipe.model.source.startswith(TORCHVISION):
        return IMAGENET_MEAN, IMAGENET_STD
    source = downloaded(recipe.model.source)
    ours: Any = own_spec(Path(source))
    if ours is None:
        found = of_checkpoint(source)
    else:
        found = (ours.mean, ours.std) if ours.family == family else None
    if found is not None and recipe.task.mean is not None:
        refuse_other(found, (recipe.task.mean, recipe.task.std), source)
    if found is None and recipe.task.mean is None and Path(source).exists():
        raise UserError(
            f"nothing says how images were normalised for {source}, and other moments would give wrong answers",
            "set task.mean and task.std to those of its training: preprocessor_config.json of transformers has them; "
            "ImageNet's, as fine-tuned weights of torchvision mostly have: "
            f"--set task.mean={list(IMAGENET_MEAN)} --set task.std={list(IMAGENET_STD)}",
        )
    return found
