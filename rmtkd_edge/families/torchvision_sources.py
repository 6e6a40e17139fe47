"""Where networks for images come from: torchvision's weights, folders of ours, and how their images were normalised."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.families.base import Spec
    from rmtkd_edge.families.model import Model

TORCHVISION = "torchvision:"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Normalisation = tuple[tuple[float, ...], tuple[float, ...]]


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


def fitting(source: str, net: Model, family: str, wanted: Wanted) -> Model:
    """Return the model of a folder of ours; raise UserError where it is another family's, or does not fit the data."""
    spec: Any = net.spec
    if spec.family != family:
        raise UserError(f"{source} holds no {family}", f"--set model.family={spec.family}")
    if spec.labels != wanted.labels or spec.image_size != wanted.image_size:
        raise UserError(
            f"{source} knows the labels {', '.join(spec.labels)} at {spec.image_size} pixels, the data have "
            f"{', '.join(wanted.labels)} at {wanted.image_size}",
            "check task.labels, task.image_size and --data",
        )
    return net


def own_normalisation(spec: Spec, family: str) -> Normalisation | None:
    """Return the mean and standard deviation of a folder of ours, None where it is another family's."""
    described: Any = spec
    return (described.mean, described.std) if spec.family == family else None


def source_normalisation(recipe: Recipe, found_in: Callable[[str], Normalisation | None]) -> Normalisation | None:
    """Return the mean and standard deviation that a recipe's source was trained with, None where none are named.

    Args:
        found_in: returns what a source says.

    Raises:
        UserError: neither a trained source nor the recipe says them, or they say different ones.
    """
    from rmtkd_edge.families.normalisation import refuse_other
    from rmtkd_edge.families.weights_files import downloaded

    if recipe.model.source == "scratch":
        return None
    source = downloaded(recipe.model.source)
    found = found_in(source)
    if found is not None and recipe.task.mean is not None and not source.startswith(TORCHVISION):
        refuse_other(found, (recipe.task.mean, recipe.task.std), source)
    if found is None and recipe.task.mean is None and Path(source).exists():
        raise UserError(
            f"nothing says how images were normalised for {source}, and other moments would give wrong answers",
            "set task.mean and task.std to those of its training: preprocessor_config.json of transformers has them; "
            "ImageNet's, as fine-tuned weights of torchvision mostly have: "
            f"--set task.mean={list(IMAGENET_MEAN)} --set task.std={list(IMAGENET_STD)}",
        )
    return found


def name_of(source: str) -> str:
    """Return the last part of a source."""
    return source.split(":", 1)[-1].rstrip("/").rsplit("/", 1)[-1].removesuffix(".safetensors")
