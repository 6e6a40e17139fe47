"""Trained ResNets as files of weights: what weights do not tell is stated or proved, and wrappers' names are read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from report.report_sample import exported
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.models.resnet import ResNet as Torchvision

from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import UserError
from rmtkd_edge.export.bundle import write_folder, write_record
from rmtkd_edge.families.resnet import FAMILY, ResNetShape
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, IMAGENET_STD, Wanted

LABELS = ("a", "b", "c")


def torchvision_net(**options: Any) -> Torchvision:
    """A small net of torchvision's blocks, whose norms matter."""
    torch.manual_seed(0)
    net = Torchvision(options.pop("block", BasicBlock), [1, 1, 1, 1], num_classes=len(LABELS), **options)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.002, 0.02)
                module.weight.uniform_(0.5, 1.5)
    return net.eval()


def saved(folder: Path, net: nn.Module, reference: bool = False, **states: Tensor) -> str:
    path = folder / "net.safetensors"
    save_file(states or net.state_dict(), path)
    if reference:
        x = torch.randn(2, 3, 64, 64)
        save_file({"pixel_values": x, "logits": net(x).detach()}, folder / "net.reference.safetensors")
    return str(path)


def built(source: str, **shape: Any) -> ResNet:
    net, trained = FAMILY.from_source(source, Wanted(LABELS, 64, 0), ResNetShape.model_validate(shape))
    assert trained
    return net.eval()


def same(ours: nn.Module, theirs: nn.Module) -> bool:
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        return torch.allclose(ours(x), theirs(x), atol=1e-4, rtol=1e-4)


def test_weights_alone_are_refused_with_what_they_would_be_taken_for(tmp_path: Path) -> None:
    source = saved(tmp_path, torchvision_net())
    with pytest.raises(UserError, match=r"7x7 stem of stride 2 and a max-pool.*eps 1e-05.*no dilation") as caught:
        built(source)
    assert "--set model.shape.stem=imagenet" in caught.value.hint and "net.reference.safetensors" in caught.value.hint
    assert same(built(source, stem="imagenet"), torchvision_net())
    with pytest.raises(UserError, match=r"model.shape.stem is cifar, that of .* imagenet"):
        built(source, stem="cifar")


def cifar(pool: bool = False, stride: int = 1) -> Torchvision:
    net = torchvision_net()
    net.conv1 = nn.Conv2d(3, 64, 3, stride, 1, bias=False)
    if not pool:
        net.maxpool = nn.Identity()  # type: ignore[assignment]
    return net


def no_pool() -> Torchvision:
    net = torchvision_net()
    net.maxpool = nn.Identity()  # type: ignore[assignment]
    return net


def v1() -> Torchvision:
    net = torchvision_net(block=Bottleneck)
    for layer in (net.layer2, net.layer3, net.layer4):
        layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)  # type: ignore[union-attr]
    return net


def eps() -> Torchvision:
    return torchvision_net(norm_layer=lambda width: nn.BatchNorm2d(width, eps=1e-3))


def dilated() -> Torchvision:
    return torchvision_net(block=Bottleneck, replace_stride_with_dilation=[False, True, True])


OTHERS: dict[str, Callable[[], Torchvision]] = {
    "3x3 stem with its pool": lambda: cifar(pool=True),
    "3x3 stem of stride 2": lambda: cifar(stride=2),
    "7x7 stem without a pool": no_pool,
    "eps of 1e-3": eps,
    "bottleneck of the first version": v1,
    "dilation": dilated,
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_computes_something_else_is_never_taken_unasked(name: str, tmp_path: Path) -> None:
    source = saved(tmp_path, OTHERS[name]())
    with pytest.raises(UserError, match="do not tell what the model computes"):
        built(source)
    saved(tmp_path, OTHERS[name](), reference=True)
    for shape in ({}, {"stem": "cifar" if "3x3" in name else "imagenet"}):
        with pytest.raises(UserError, match="computes something else"):
            built(source, **shape)


@pytest.mark.parametrize("make", [torchvision_net, cifar, lambda: torchvision_net(block=Bottleneck)])
def test_a_reference_proves_what_is_the_same(make: Callable[[], Torchvision], tmp_path: Path) -> None:
    assert same(built(saved(tmp_path, make(), reference=True)), make())


def test_another_eps_can_be_stated(tmp_path: Path) -> None:
    assert same(built(saved(tmp_path, eps(), reference=True), eps=1e-3), eps())


@pytest.mark.parametrize("content", [{"x": torch.zeros(1)}, {"pixel_values": torch.zeros(2, 1, 8, 8)}])
def test_a_reference_without_images_and_outputs_is_refused(content: dict[str, Tensor], tmp_path: Path) -> None:
    source = saved(tmp_path, torchvision_net())
    save_file(content, tmp_path / "net.reference.safetensors")
    with pytest.raises(UserError, match="needs `pixel_values`"):
        built(source, stem="imagenet")
    pixels = {"pixel_values": torch.zeros(2, 3, 64, 64), "logits": torch.zeros(2, 4)}
    save_file(pixels, tmp_path / "net.reference.safetensors")
    with pytest.raises(UserError, match="logits are"):
        built(source, stem="imagenet")


# --- names ---


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "_orig_mod.module.", "model._orig_mod."])
def test_what_wrappers_put_before_names_is_left_out(prefix: str, tmp_path: Path) -> None:
    state = {f"{prefix}{name}": tensor for name, tensor in torchvision_net().state_dict().items()}
    assert same(built(saved(tmp_path, nn.Identity(), **state), stem="imagenet"), torchvision_net())
    with pytest.raises(UserError, match="other tensors: loss"):
        built(saved(tmp_path, nn.Identity(), **state, loss=torch.zeros(1)), stem="imagenet")


def test_a_classifier_after_a_dropout_is_read(tmp_path: Path) -> None:
    net = torchvision_net()
    net.fc = nn.Sequential(nn.Dropout(), net.fc)  # type: ignore[assignment]
    assert "fc.1.weight" in net.state_dict()
    assert same(built(saved(tmp_path, net), stem="imagenet"), net.eval())


def test_a_classifier_of_several_layers_is_refused(tmp_path: Path) -> None:
    net = torchvision_net()
    net.fc = nn.Sequential(nn.Linear(512, 8), nn.ReLU(), nn.Linear(8, 3))  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"several layers \(fc\.0, fc\.2\)"):
        built(saved(tmp_path, net), stem="imagenet")


def test_other_names_are_shown(tmp_path: Path) -> None:
    state = {f"backbone.{name}": tensor for name, tensor in torchvision_net().state_dict().items()}
    with pytest.raises(UserError, match=r"torchvision's names: .* it has backbone\."):
        built(saved(tmp_path, nn.Identity(), **state), stem="imagenet")


# --- timm, and normalisation ---


def recipe(source: str, **task: Any) -> Any:
    return parse_recipe(
        {
            "model": {"family": "resnet", "source": source, "shape": {"stem": "imagenet"}},
            "task": {"name": "t", "kind": "image-classification", **task},
        },
        "test",
    )


def timm_folder(folder: Path, **config: Any) -> Path:
    folder.mkdir()
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=len(LABELS))
    save_file(net.state_dict(), folder / "model.safetensors")
    facts = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5, 0.5, 0.4], "std": [0.2, 0.3, 0.2]}}
    (folder / "config.json").write_text(json.dumps({**facts, **config}), encoding="utf-8")
    return folder


def test_timm_says_architecture_and_normalisation(tmp_path: Path) -> None:
    source = str(timm_folder(tmp_path / "plain"))
    assert built(source).spec.stem == "imagenet"
    assert FAMILY.source_normalisation(recipe(source)) == ((0.5, 0.5, 0.4), (0.2, 0.3, 0.2))
    for name, config in (("other", {"architecture": "resnet18d"}), ("args", {"model_args": {"output_stride": 8}})):
        with pytest.raises(UserError, match="do not tell what the model computes"):
            built(str(timm_folder(tmp_path / name, **config)), stem="imagenet")


def test_the_normalisation_of_weights_is_asked_for(tmp_path: Path) -> None:
    source = saved(tmp_path, torchvision_net())
    with pytest.raises(UserError, match="nothing says how images were normalised") as caught:
        FAMILY.source_normalisation(recipe(source))
    assert "task.mean=[0.485, 0.456, 0.406]" in caught.value.hint
    asked = recipe(source, mean=list(IMAGENET_MEAN), std=list(IMAGENET_STD))
    assert FAMILY.source_normalisation(asked) is None
    assert FAMILY.source_normalisation(recipe(str(tmp_path / "missing.safetensors"))) is None


def test_a_name_of_timm_is_compared_with_torchvisions_model_of_that_name(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="none of a resnet34"):
        built(str(timm_folder(tmp_path / "name", architecture="resnet34")))
    with pytest.raises(UserError, match="computes something else than a plain ResNet"):
        built(str(timm_folder(tmp_path / "eps")), eps=1e-3)


def test_labels_of_timm_are_brought_into_the_datas_order(tmp_path: Path) -> None:
    net, turned = (built(str(timm_folder(tmp_path / n, label_names=list(n)))) for n in ("abc", "cab"))
    assert torch.equal(turned.classifier.weight, net.classifier.weight[[1, 2, 0]])
    with pytest.raises(UserError, match="names the labels x, y, z"):
        built(str(timm_folder(tmp_path / "others", label_names=["x", "y", "z"])))


def test_torchvisions_weights_are_compared_with_torchvisions_net(monkeypatch: pytest.MonkeyPatch) -> None:
    state = torchvision.models.resnet18().state_dict()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: state)
    wanted = Wanted(LABELS, 64, 0)
    assert FAMILY.from_source("torchvision:resnet18", wanted, ResNetShape(stem="imagenet"))[1] is False
    forward = ResNet.forward
    monkeypatch.setattr(ResNet, "forward", lambda self, x: 1.01 * forward(self, x))
    with pytest.raises(UserError, match="resnet18 computes something else"):
        FAMILY.from_source("torchvision:resnet18", wanted, ResNetShape(stem="imagenet"))


def test_a_run_is_refused_and_an_export_loaded(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="is a run directory") as caught:
        built(str(tmp_path))
    assert f"model.source={tmp_path}/compress/teacher" in caught.value.hint
    net = built(saved(tmp_path, torchvision_net()), stem="imagenet")
    folder = tmp_path / "export"
    folder.mkdir()
    write_folder(folder, net, "toy", {})
    write_record(folder, exported(True, {}))
    assert same(built(str(folder)), net)
    assert FAMILY.source_normalisation(recipe(str(folder))) == (net.spec.mean, net.spec.std)
