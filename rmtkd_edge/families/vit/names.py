"""Weights of transformers and torchvision under our names: new modules, and the names that files on the hub have."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from rmtkd_edge.errors import UserError, some
from rmtkd_edge.families.vit.module import VisionTransformer

HUB_LAYER = {
    "norm1": "layernorm_before",
    "query": "attention.attention.query",
    "key": "attention.attention.key",
    "value": "attention.attention.value",
    "out": "attention.output.dense",
    "norm2": "layernorm_after",
    "up": "intermediate.dense",
    "down": "output.dense",
}
NEW_LAYER = {  # what newer versions of transformers call them in memory
    "query": "attention.q_proj",
    "key": "attention.k_proj",
    "value": "attention.v_proj",
    "out": "attention.o_proj",
    "up": "mlp.fc1",
    "down": "mlp.fc2",
}
PARTS = {theirs: ours for names in (HUB_LAYER, NEW_LAYER) for ours, theirs in names.items()}
HUB_LAYERS = re.compile(r"^(?:encoder\.layer|layers)\.(\d+)\.(.+)\.(weight|bias)$")
HUB_OTHERS = {
    "embeddings.cls_token": "class_token",
    "embeddings.distillation_token": "distillation_token",
    "embeddings.position_embeddings": "positions",
    "embeddings.patch_embeddings.projection.weight": "patches.weight",
    "embeddings.patch_embeddings.projection.bias": "patches.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
TORCHVISION_LAYERS = re.compile(r"^encoder\.layers\.encoder_layer_(\d+)\.(.+?)[._](weight|bias)$")
TORCHVISION_PARTS = {
    "ln_1": "norm1",
    "self_attention.in_proj": "qkv",
    "self_attention.out_proj": "out",
    "ln_2": "norm2",
    "mlp.0": "up",
    "mlp.linear_1": "up",
    "mlp.3": "down",
    "mlp.linear_2": "down",
}
TORCHVISION_OTHERS = {
    "class_token": "class_token",
    "encoder.pos_embedding": "positions",
    "conv_proj.weight": "patches.weight",
    "conv_proj.bias": "patches.bias",
    "encoder.ln.weight": "norm.weight",
    "encoder.ln.bias": "norm.bias",
    "heads.head.weight": "classifier.weight",
    "heads.head.bias": "classifier.bias",
}


def from_transformers(state: Mapping[str, Tensor], model_type: str) -> dict[str, Tensor]:
    """Return transformers' weights under our names, whose tables are still (1, count, width); unknown names stay."""
    return {_of_transformers(name.removeprefix(f"{model_type}.")): tensor for name, tensor in state.items()}


def _of_transformers(name: str) -> str:
    if (found := HUB_LAYERS.match(name)) and found[2] in PARTS:
        return f"layers.{found[1]}.{PARTS[found[2]]}.{found[3]}"
    return HUB_OTHERS.get(name, name)


def from_torchvision(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return torchvision's weights under our names, as `from_transformers` does; query, key and value are parted."""
    found = {}
    for name, tensor in state.items():
        place = TORCHVISION_LAYERS.match(name)
        part = TORCHVISION_PARTS.get(place[2]) if place else None
        if place is None or part is None:
            found[TORCHVISION_OTHERS.get(name, name)] = tensor
        elif part == "qkv":
            for own, third in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                found[f"layers.{place[1]}.{own}.{place[3]}"] = third
        else:
            found[f"layers.{place[1]}.{part}.{place[3]}"] = tensor
    return found


def merged(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights under our names whose tables are columns, tokens in one."""
    found = dict(named)
    tokens = [found.pop(name) for name in ("class_token", "distillation_token") if name in found]
    if tokens:
        found["tokens.weight"] = torch.cat(tokens, 1)[0].T.contiguous()
    if "positions" in found:
        found["positions.weight"] = found.pop("positions")[0].T.contiguous()
    return found


@torch.no_grad()
def filled(model: VisionTransformer, named: Mapping[str, Tensor], where: str) -> VisionTransformer:
    """Return the model with weights under our names; biases of query, key and value that are not there are zero.

    Raises UserError where one is missing, left over or of another shape.
    """
    given = {name: tensor.detach().float() for name, tensor in merged(named).items()}
    wanted = model.state_dict()
    for name, own in wanted.items():
        if name not in given and re.search(r"\.(query|key|value)\.bias$", name):
            given[name] = torch.zeros_like(own)
    faults = [f"{name} is missing" for name in wanted if name not in given]
    faults += [f"{name} does not belong" for name in given if name not in wanted]
    faults += [
        f"{name} is {tuple(value.shape)} and not {tuple(wanted[name].shape)}"
        for name, value in given.items()
        if name in wanted and value.shape != wanted[name].shape
    ]
    if faults:
        raise UserError(
            f"{where} does not fit a plain vision transformer: {some(faults)}",
            "ViTForImageClassification or DeiTForImageClassification of transformers (without a distillation head), "
            "VisionTransformer of torchvision: class token, one patch convolution, one linear classifier",
        )
    model.load_state_dict(given)
    return model


def to_hub(model: VisionTransformer) -> dict[str, Tensor]:
    """Return the weights under the names that transformers' files have on the hub."""
    kind, found = model.spec.model_type, {}
    others = {ours: theirs for theirs, ours in HUB_OTHERS.items()}
    for name, tensor in model.state_dict().items():
        value = tensor.detach().cpu()
        if name == "tokens.weight":
            for token, column in zip(("cls_token", "distillation_token"), value.T, strict=False):
                found[f"{kind}.embeddings.{token}"] = column[None, None].contiguous()
        elif name == "positions.weight":
            found[f"{kind}.embeddings.position_embeddings"] = value.T[None].contiguous()
        elif name.startswith("layers."):
            _, number, part, kept = name.split(".")
            found[f"{kind}.encoder.layer.{number}.{HUB_LAYER[part]}.{kept}"] = value.contiguous()
        else:
            found[f"{kind}.{others[name]}" if name in others else name] = value.contiguous()
    return found
