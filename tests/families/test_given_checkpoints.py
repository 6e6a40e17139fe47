"""What people give as model.source of an image model: hub ids, pickles, folders of other models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from families.mobilenet.sample import torchvision_net
from families.resnet.test_checkpoint import timm_folder
from families.resnet.test_from_transformers import net_of, saved
from safetensors.torch import save_file
from torchvision.models import get_model

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import find_family
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, IMAGENET_STD

LABELS = ("a", "b", "c")
CLASSES = tuple(f"class {i}" for i in range(1000))


def recipe(family: str, source: str, **shape: Any) -> Any:
    task = SimpleNamespace(mean=None, std=None)
    return SimpleNamespace(model=SimpleNamespace(source=source, family=family, shape=shape), task=task, seed=0)


def loaded(family: str, source: str, **shape: Any) -> tuple[Any, bool]:
    preprocessing = SimpleNamespace(mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size=64)
    return find_family(family).load(recipe(family, source, **shape), LABELS, preprocessing)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder for each id that the hub knows; it is asked for no other files than weights and configuration."""

    def download(name: str, allow_patterns: list[str]) -> str:
        assert set(allow_patterns) == {"model.safetensors", "config.json", "preprocessor_config.json"}
        folder = tmp_path / name.replace("/", "--")
        if not folder.is_dir():
            raise OSError("no such repository")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return tmp_path


def test_a_hub_id_of_transformers_is_loaded(hub: Path) -> None:
    saved(hub / "microsoft--resnet-50", net_of(), image_mean=[0.5] * 3, image_std=[0.2] * 3)
    net, trained = loaded("resnet", "microsoft/resnet-50")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert trained and torch.allclose(net.eval()(x), net_of()(x).logits, atol=1e-5, rtol=1e-4)
    found = find_family("resnet").source_normalisation(recipe("resnet", "microsoft/resnet-50"))
    assert found == (pytest.approx((0.5,) * 3), pytest.approx((0.2,) * 3))


def test_a_classifier_of_imagenet_makes_room_for_the_datas_labels(hub: Path) -> None:
    saved(hub / "microsoft--resnet-50", net_of(CLASSES))
    net, trained = loaded("resnet", "microsoft/resnet-50")
    assert not trained and net.spec.labels == LABELS and net.classifier.weight.shape[0] == 3
    folder = timm_folder(hub / "timm--resnet18.a1_in1k")
    theirs = get_model("resnet18").state_dict()
    save_file(theirs, folder / "model.safetensors")
    net, trained = loaded("resnet", "timm/resnet18.a1_in1k")
    assert not trained and torch.equal(net.stages[3][1].convs[1].conv.weight, theirs["layer4.1.conv2.weight"])
    assert net.spec.labels == LABELS and net.classifier.weight.abs().max() > 0


def test_an_id_that_cannot_be_fetched_is_refused(hub: Path) -> None:
    for family in ("resnet", "mobilenet"):
        with pytest.raises(UserError, match=r"no folder `no/such`.*no such repository"):
            loaded(family, "no/such")


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pickle_is_refused_with_the_command_that_converts_it(wrapped: bool, tmp_path: Path) -> None:
    theirs, path = torchvision_net("v2"), tmp_path / "net.pth"
    state = theirs.state_dict()
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, path)
    for family in ("resnet", "mobilenet"):
        with pytest.raises(UserError, match="never unpickled") as caught:
            loaded(family, str(path), stem="imagenet")
    command = caught.value.hint.partition('python -c "')[2].rpartition('"')[0]
    subprocess.run([sys.executable, "-c", command], check=True)
    net, trained = loaded("mobilenet", str(tmp_path / "net.safetensors"), stem="imagenet")
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert trained and torch.allclose(net.eval()(x), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["resnet", "mobilenet"])
def test_a_folder_of_another_model_of_transformers_is_named(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "convnext"}), encoding="utf-8")
    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="holds a convnext of transformers") as caught:
        loaded(family, str(tmp_path))
    assert "supported: " in caught.value.hint


def test_another_padding_than_torchvisions_is_refused(tmp_path: Path) -> None:
    folder = timm_folder(tmp_path / "timm", architecture="mobilenetv2_100")
    with pytest.raises(UserError, match=r"timm's mobilenetv2_100") as caught:
        loaded("mobilenet", str(folder), stem="imagenet")
    assert "torchvision:NAME" in caught.value.hint
