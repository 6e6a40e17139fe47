"""VisionTransformer of torchvision: a state dict, its ImageNet weights, or a module in memory."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer as Theirs
from torchvision.models import get_model, get_model_weights, list_models

from rmtkd_edge.errors import UserError, some
from rmtkd_edge.families.sources import other_size
from rmtkd_edge.families.torchvision_sources import TORCHVISION, Wanted, refuse_other_shape, sized, torchvision_state
from rmtkd_edge.families.vit.checkpoint import CAUSES, KNOWN, check, labelled, new_classifier
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.families.vit.names import filled, from_torchvision
from rmtkd_edge.families.vit.settings import VitShape
from rmtkd_edge.families.vit.spec import VitSpec, even_layers
from rmtkd_edge.families.weights_files import load_weights, unwrapped


def converted(module: Theirs, labels: Sequence[str] | None, where: str) -> VisionTransformer:
    """Return what computes the same as torchvision's model; raise UserError where nothing does."""
    plain = copy.deepcopy(module).cpu().float().eval()
    first: Any = plain.encoder.layers[0]
    named = from_torchvision(plain.state_dict())
    names = labels or [f"LABEL_{i}" for i in range(len(named.get("classifier.weight", ())))]
    spec = _spec_of(named, names, first.num_heads, plain.encoder.ln.eps, where)
    model = filled(VisionTransformer(spec), named, where)
    check(model, plain, where)
    return model


def _spec_of(named: Mapping[str, Tensor], labels: Sequence[str], heads: int, eps: float, where: str) -> VitSpec:
    """Return the shape that torchvision's tensors, under our names, have; raise UserError where they are none."""
    try:
        width, _, patch, _ = named["patches.weight"].shape
        count = 1 + max(int(m[1]) for m in map(re.compile(r"layers\.(\d+)\.").match, named) if m)
        ffn, classes = len(named["layers.0.up.weight"]), len(named["classifier.weight"])
        side = math.isqrt(named["positions"].shape[1] - 1)
    except (KeyError, ValueError) as err:
        raise UserError(
            f"{where} is no state dict of a plain vision transformer in torchvision's names: {err}; it has "
            f"{some([*named])}",
            f"give {KNOWN}. {CAUSES}",
        ) from err
    if classes != len(labels):
        raise other_size(where, classes, len(labels))
    if width % heads:
        raise UserError(f"{where} is {width} wide, no multiple of {heads} heads", "model.shape.heads")
    return VitSpec(
        width=width,
        layers=even_layers(count, heads, width, ffn),
        labels=tuple(labels),
        patch=patch,
        image_size=side * patch,
        eps=eps,
    )


def load_state(path: Path, wanted: Wanted, shape: VitShape) -> VisionTransformer:
    """Return the model of a state dict of torchvision's, compared with torchvision's own of the same weights."""
    state = unwrapped(load_weights(path), "conv_proj.weight", str(path), "VisionTransformer")
    if "heads" not in shape.model_fields_set:
        raise UserError(
            f"{path} holds weights alone, which do not tell the number of heads",
            "--set model.shape.heads=12 (as torchvision's vit_b_16 has; and model.shape.eps where it is not 1e-6)",
        )
    named = from_torchvision(state)
    spec = _spec_of(named, wanted.labels, shape.heads, shape.eps, str(path))
    layer = spec.layers[0]
    told = {"width": spec.width, "layers": len(spec.layers), "ffn": layer.ffn, "patch": spec.patch, "pool": spec.pool}
    refuse_other_shape(shape, str(path), told)
    model = filled(VisionTransformer(spec), named, str(path))
    with torch.random.fork_rng(devices=[]):
        theirs = Theirs(
            *(spec.image_size, spec.patch, len(spec.layers), layer.heads, spec.width, layer.ffn),
            num_classes=len(spec.labels),
            norm_layer=partial(nn.LayerNorm, eps=spec.eps),
        )
    theirs.load_state_dict(state)
    check(model, theirs.eval(), str(path))
    return sized(model, wanted, str(path))


def load_pretrained(name: str, wanted: Wanted) -> VisionTransformer:
    """Return one of torchvision's with its ImageNet weights and a new classifier (a network is needed once)."""
    known = [other for other in list_models() if other.startswith("vit_")]
    state = torchvision_state(name, known)
    size = get_model_weights(name)["DEFAULT"].meta["min_size"][0]
    with torch.random.fork_rng(devices=[]):
        theirs: Any = get_model(name, weights=None, image_size=size)
    theirs.load_state_dict(state)
    kept = sized(labelled(converted(theirs, None, name), wanted.labels), wanted, f"{TORCHVISION}{name}")
    kept.classifier = type(kept.classifier)(kept.spec.width, len(wanted.labels))
    return new_classifier(kept, wanted)
