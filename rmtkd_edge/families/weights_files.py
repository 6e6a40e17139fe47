"""Trained networks for images as files of weights: which tensors they hold, and what is said or proved of them.

Weights tell widths, but not strides, pools, norms or dilation. What they do not tell is stated in the recipe, said by
timm's config.json, or proved by reference outputs next to the weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from rmtkd_edge.errors import RunDirError, UserError, reason
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.model import Model
from rmtkd_edge.families.sources import check_outputs, check_same, label_order, reorder
from rmtkd_edge.run.records.base import read_json_file

WEIGHTS, CONFIG, PREPROCESSOR = "model.safetensors", "config.json", "preprocessor_config.json"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")  # of files
IMAGENET_CLASSES = 1000  # of a classifier that is replaced where the data have another number of labels
REFERENCE = ".reference.safetensors"  # ends the name of a file with images and the original's outputs for them
TRIAL_SIDE = 64  # pixels of the images on which a net is compared with its source
SHOWN = 5  # names or faults in a message
PREFIXES = ("module.", "_orig_mod.", "model.")  # that wrappers of torch and Lightning put before every name


def downloaded(source: str) -> str:
    """Return the folder that a hub id's weights and configuration were downloaded to, any other source as it is.

    Raises:
        UserError: they cannot be fetched.
    """
    if not HUB_ID.fullmatch(source) or Path(source).exists() or Path(source).suffix in SUFFIXES:
        return source
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(source, allow_patterns=[WEIGHTS, CONFIG, PREPROCESSOR])
    except Exception as err:  # the hub's own, of the network, of the disk
        raise UserError(
            f"there is no folder `{source}`, and it cannot be fetched from the hub: {reason(err)}",
            "check the name and the network, or give a folder, a safetensors file, torchvision:NAME or scratch",
        ) from err


def refuse_other_architectures(source: str, family: str, supported: str) -> None:
    """Raise UserError for a folder of transformers whose config.json is of a model that a family does not compute."""
    kind = timm_config(weights_file(source)).get("model_type")
    if kind is not None:
        raise UserError(
            f"`{source}` holds a {kind} of transformers, which the family {family} does not compute",
            f"supported: {supported}; the other families: docs/recipes.md#the-model",
        )


def weights_file(source: str) -> Path:
    """Return the file that holds the weights of a source."""
    return Path(source) / WEIGHTS if Path(source).is_dir() else Path(source)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file; raise UserError for any other."""
    if path.suffix != ".safetensors":
        raise UserError(
            f"`{path}` is no safetensors file (weights are never unpickled)",
            'convert a state dict: python -c "import torch, safetensors.torch as s; d = torch.load('
            f"'{path}', map_location='cpu', weights_only=True); d = d.get('state_dict', d); "
            f"s.save_file({{k: v.contiguous() for k, v in d.items()}}, '{path.with_suffix('.safetensors')}')\"",
        )
    try:
        return load_file(str(path))
    except (OSError, SafetensorError) as err:
        raise UserError(f"cannot load weights from `{path}`: {err}", "give a state dict as a safetensors file") from err


def unwrapped(state: Mapping[str, Tensor], first: str, where: str, kind: str) -> dict[str, Tensor]:
    """Return a state dict without what wrappers put before every name.

    Args:
        first: a name that the plain state dict has.
        kind: of model that it is of, for messages.

    Raises:
        UserError: next to a wrapped net there are tensors of something else.
    """
    found = dict(state)
    while first not in found and (
        prefix := next((p for p in PREFIXES if any(name.startswith(p) for name in found)), None)
    ):
        others = [name for name in found if not name.startswith(prefix)]
        if others:
            raise UserError(
                f"{where} holds a net under `{prefix}` and other tensors: {', '.join(others[:SHOWN])}",
                f"save the state dict of the {kind} alone: model.{prefix.rstrip('.')}.state_dict()",
            )
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def fitted(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], where: str, kind: str, kept: Callable[[str], bool]
) -> dict[str, Tensor]:
    """Return the state `own` with the tensors of `found` in its place.

    Args:
        kept: whether a tensor of `own` stays where the other is missing or of another shape.

    Raises:
        UserError: another tensor is missing, of another shape, or does not belong.
    """
    wanted, faults = dict(own), []
    for name, mine in own.items():
        other = found.get(name)
        if other is not None and other.shape == mine.shape:
            wanted[name] = other.detach().clone().float()
        elif not kept(name):
            faults.append(f"{name} is {'missing' if other is None else tuple(other.shape)}")
    faults += [f"{name} does not belong" for name in found if name not in own]
    if faults:
        raise UserError(
            f"{where} does not fit a {kind}: {'; '.join(faults[:SHOWN])}", "save model.state_dict() of torchvision"
        )
    return wanted


def timm_config(path: Path) -> Mapping[str, Any]:
    """Return config.json next to the weights of a folder, empty where there is none that can be read."""
    if path.name != WEIGHTS:
        return {}
    try:
        found = read_json_file(path.parent / CONFIG)
    except RunDirError:
        return {}
    return found if isinstance(found, dict) else {}


def normalisation_of(source: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return the mean and standard deviation that timm's config.json next to the weights names, else None."""
    facts = timm_config(weights_file(source)).get("pretrained_cfg")
    found = (facts.get("mean"), facts.get("std")) if isinstance(facts, dict) else (None, None)
    if not all(isinstance(part, list) and len(part) == 3 for part in found):
        return None
    mean, std = (tuple(float(value) for value in part) for part in found if part is not None)
    return mean, std


def in_order(classifier: ProjectedLinear, theirs: Any, labels: Sequence[str], source: str) -> None:
    """Bring a classifier's rows into the order of the data's labels, where timm's config.json names the source's."""
    if isinstance(theirs, list) and all(isinstance(name, str) for name in theirs):
        reorder(classifier, label_order(theirs, labels, source))


def reference_of(path: Path) -> Path:
    """Return the file with reference outputs that belongs to a file of weights."""
    return path.with_name(path.name.removesuffix(".safetensors") + REFERENCE)


@torch.no_grad()
def prove(net: Model, reference: Path, causes: str) -> None:
    """Raise UserError where the outputs for the images of a reference file are not those in it."""
    known, channels = load_weights(reference), int(net.spec.inputs[0].shape[1])
    pixels, wanted = known.get("pixel_values"), known.get("logits")
    if pixels is not None and pixels.ndim == 4 and pixels.shape[1] == 1:
        pixels = pixels.expand(-1, channels, -1, -1)  # gray
    if pixels is None or wanted is None or pixels.ndim != 4 or pixels.shape[1] != channels:
        raise UserError(
            f"{reference} needs `pixel_values` (n, {channels}, H, W) and `logits` (n, labels), it has "
            f"{', '.join(known)}",
            "save both with safetensors.torch.save_file, or remove it",
        )
    check_outputs(
        net.eval()(pixels.float()),
        wanted,
        f"the net of these weights computes something else than {reference.name} holds",
        f"{causes}; model.shape.eps can be set. The reference is computed on a CPU, in float32, after model.eval()",
    )


def way_to_prove(reference: Path) -> str:
    """Return the lines that write a reference file."""
    return (
        "To have it proved instead: x = torch.randn(2, 3, 64, 64); "
        f"save_file({{'pixel_values': x, 'logits': model.eval()(x).detach()}}, '{reference}')"
    )


def check_net(net: Model, theirs: Callable[[Tensor], Tensor], what: str, kind: str, causes: str) -> None:
    """Raise UserError where a net gives other outputs than what it was made from, on random images.

    Args:
        what: was made into a net of ours, `kind` what it would be taken for.
        causes: what weights do not tell, which may be why they differ.
    """
    channels = int(net.spec.inputs[0].shape[1])
    x = torch.randn(2, channels, TRIAL_SIDE, TRIAL_SIDE, generator=torch.Generator().manual_seed(0))
    training = net.training
    check_same(lambda: net.eval()(x), lambda: theirs(x), what, kind, causes)
    net.train(training)


def check_torchvision(make: Callable[[], nn.Module], state: Mapping[str, Tensor], name: str) -> nn.Module:
    """Return torchvision's model of a name with these weights, in eval mode; raise UserError where they are none.

    Args:
        make: returns the model, its weights not set.
    """
    with torch.random.fork_rng(devices=[]):
        theirs = make()
    try:
        theirs.load_state_dict(dict(state))
    except RuntimeError as err:
        raise UserError(f"the weights are none of a {name}: {err}", "config.json names another architecture") from err
    return theirs.eval()
