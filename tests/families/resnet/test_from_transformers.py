"""ResNets of transformers: the same logits, labels where the data have them, normalisation, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

import rmtkd_edge as rk
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.resnet import FAMILY, ResNetShape
from rmtkd_edge.families.torchvision_sources import Wanted

LABELS = ("a", "b", "c")
SMALL = {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 32], "depths": [1, 2, 1, 1], "layer_type": "basic"}
BOTTLENECK = {**SMALL, "layer_type": "bottleneck", "hidden_sizes": [16, 32, 48, 64]}


def net_of(labels: tuple[str, ...] = LABELS, **settings: Any) -> ResNetForImageClassification:
    torch.manual_seed(0)
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    net = ResNetForImageClassification(ResNetConfig(**{**SMALL, **settings}, **names))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return net.eval()


def saved(folder: Path, net: nn.Module, **preprocessor: Any) -> str:
    net.save_pretrained(folder)  # type: ignore[operator]
    if preprocessor:
        (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    return str(folder)


def built(source: str, labels: tuple[str, ...] = LABELS) -> tuple[nn.Module, bool]:
    net, trained = FAMILY.from_source(source, Wanted(labels, 64, 0), ResNetShape())
    return net.eval(), trained


@torch.no_grad()
def logits(net: nn.Module) -> torch.Tensor:
    found = net(torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)))
    return getattr(found, "logits", found)


@pytest.mark.parametrize("settings", [SMALL, BOTTLENECK])
def test_a_checkpoint_gives_its_own_logits(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = net_of(**settings)
    net, trained = built(saved(tmp_path, theirs))
    assert trained and torch.allclose(logits(net), logits(theirs), atol=1e-5, rtol=1e-4)
    own = rk.from_transformers(theirs, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert own.spec.labels == LABELS and torch.allclose(logits(own), logits(theirs), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [{**BOTTLENECK, "downsample_in_bottleneck": True}, {"downsample_in_first_stage": True}, {"hidden_act": "silu"}],
)
def test_what_computes_something_else_is_refused(settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = net_of(**settings)
    with pytest.raises(UserError, match=r"computes something else than a plain ResNet.*logits differ by") as caught:
        built(saved(tmp_path, theirs))
    assert all(word in caught.value.hint for word in ("stem", "strides", "eps", "dilation"))
    with pytest.raises(UserError, match="something else"):
        rk.from_transformers(theirs)


def test_labels_are_brought_into_the_datas_order_or_refused(tmp_path: Path) -> None:
    theirs = net_of(labels=("c", "a", "b"))
    source = saved(tmp_path, theirs)
    assert torch.allclose(logits(built(source)[0]), logits(theirs)[:, [1, 2, 0]], atol=1e-5, rtol=1e-4)
    for others in (("a", "b", "d"), ("a", "b")):
        with pytest.raises(UserError, match="labels"):
            built(source, others)


def test_a_network_without_a_classifier_gets_a_new_one(tmp_path: Path) -> None:
    source = saved(tmp_path, ResNetModel(net_of().config))
    net, trained = built(source, ("x", "y"))
    assert not trained and logits(net).shape == (2, 2)
    assert torch.equal(logits(net), logits(built(source, ("x", "y"))[0])), "under the seed"


def test_other_problems_and_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="problem_type is multi_label"):
        built(saved(tmp_path / "several", net_of(problem_type="multi_label_classification")))
    source = saved(tmp_path / "cut", net_of())
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot load a model"):
        built(source)


def recipe(source: str, **task: Any) -> Any:
    model = {"family": "resnet", "source": source}
    return parse_recipe({"model": model, "task": {"name": "t", "kind": "image-classification", **task}}, "test")


@pytest.mark.parametrize(
    ("says", "mean", "std"),
    [
        ({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}, (0.5, 0.4, 0.3), (0.2, 0.2, 0.1)),
        ({"do_normalize": False}, (0, 0, 0), (1, 1, 1)),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1], "image_std": [1, 1, 1]}, (0.5,) * 3, (0.5,) * 3),
        ({"do_rescale": False, "image_mean": [102] * 3, "image_std": [51] * 3}, (0.4,) * 3, (0.2,) * 3),
    ],
)
def test_images_are_normalised_as_the_processor_says(says: Any, mean: Any, std: Any, tmp_path: Path) -> None:
    source = saved(tmp_path, net_of(), **says)
    found = FAMILY.source_normalisation(recipe(source))
    assert found == (pytest.approx(mean), pytest.approx(std))
    with pytest.raises(UserError, match="was trained with mean"):
        FAMILY.source_normalisation(recipe(source, mean=[0.9, 0.4, 0.3], std=[0.2, 0.2, 0.1]))


def test_without_a_processor_the_normalisation_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing says how images were normalised"):
        FAMILY.source_normalisation(recipe(saved(tmp_path, net_of())))
    with pytest.raises(UserError, match="names no mean and std"):
        FAMILY.source_normalisation(recipe(saved(tmp_path, net_of(), image_mean=[0.5])))
