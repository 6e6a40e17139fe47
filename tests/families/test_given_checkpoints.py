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
from contract_sample import SIDE, bases, load, projected, randomised
from families.mobilenet.sample import torchvision_net
from families.resnet.test_checkpoint import timm_folder
from families.resnet.test_checkpoint import torchvision_net as of_resnet
from families.resnet.test_from_transformers import net_of, saved
from families.vit.sample import of_torchvision
from safetensors.torch import save_file
from torchvision.models import get_model

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import find_family, spec_from_dict
from rmtkd_edge.families.store import save_folder
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, IMAGENET_STD, Wanted

LABELS = ("a", "b", "c")
CLASSES = tuple(f"class {i}" for i in range(1000))


def recipe(family: str, source: str, **shape: Any) -> Any:
    task = SimpleNamespace(mean=None, std=None)
    return SimpleNamespace(model=SimpleNamespace(source=source, family=family, shape=shape), task=task, seed=0)


def loaded(family: str, source: str, **shape: Any) -> tuple[Any, bool]:
    preprocessing = SimpleNamespace(mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size=64)
    return find_family(family).load(recipe(family, source, **shape), LABELS, preprocessing)


SOURCES = {"resnet": of_resnet, "mobilenet": lambda: torchvision_net("v2"), "vit": of_torchvision}
STATED = {"resnet": {"stem": "imagenet"}, "mobilenet": {"stem": "imagenet"}, "vit": {"heads": 3}}
OTHER_STEM = {"resnet": {"stem": "cifar"}, "mobilenet": {"stem": "cifar"}, "vit": {"heads": 3, "patch": 8}}


def found_in(family: str, source: Path, labels: tuple[str, ...], size: int, **shape: Any) -> Any:
    known = find_family(family)
    return known.from_source(str(source), Wanted(labels, size, 0), known.shape.model_validate(shape))[0].eval()


@pytest.mark.parametrize("family", SOURCES)
def test_a_folder_of_ours_must_fit_the_data(family: str, tmp_path: Path) -> None:
    ours = randomised(load(find_family(family), tmp_path))
    save_folder(tmp_path, ours)
    turned, x = ("odd", "bad", "good"), torch.randn(2, 3, SIDE, SIDE)
    again = found_in(family, tmp_path, turned, SIDE)
    assert again.spec.labels == turned and torch.equal(again(x), ours(x)[:, [2, 0, 1]])
    stem = "patch" if family == "vit" else "stem"
    found_in(family, tmp_path, turned, SIDE, **{stem: getattr(ours.spec, stem)})
    for why, labels, size, shape in (
        ("classifies 3 labels, the data have 2", turned[:2], SIDE, {}),
        ("names the labels bad, good, odd; the data odd, bad, fine", ("odd", "bad", "fine"), SIDE, {}),
        ("reads images of 8 pixels a side, the data have 16", turned, 16, {}),
        (f"model.shape.{stem} is .*, that of {tmp_path} ", turned, SIDE, {stem: 2 if stem == "patch" else "imagenet"}),
    ):
        with pytest.raises(UserError, match=why):
            found_in(family, tmp_path, labels, size, **shape)
    other = next(name for name in SOURCES if name != family)
    with pytest.raises(UserError, match=f"holds no {other}") as caught:
        found_in(other, tmp_path, turned, SIDE)
    assert caught.value.hint == f"--set model.family={family}"


@pytest.mark.parametrize("family", SOURCES)
@torch.no_grad()
def test_a_student_of_a_run_is_taken_without_its_projections(family: str, tmp_path: Path) -> None:
    known = find_family(family)
    whole = load(known, tmp_path)
    student = projected(known, whole, bases(whole.spec))
    save_folder(tmp_path, student)
    images = SimpleNamespace(mean=IMAGENET_MEAN, std=IMAGENET_STD, image_size=SIDE)
    found, trained = known.load(recipe(family, str(tmp_path)), whole.spec.labels, images)
    x = torch.randn(2, 3, SIDE, SIDE)
    assert trained and student.spec.raw and not found.spec.raw and found.spec.mean == IMAGENET_MEAN
    torch.testing.assert_close(found.eval()(x), student(x), rtol=1e-3, atol=1e-4 * float(student(x).abs().max()))


@pytest.mark.parametrize("family", SOURCES)
def test_what_a_spec_does_not_say_is_not_assumed(family: str, tmp_path: Path) -> None:
    told = dict(load(find_family(family), tmp_path).spec.to_dict())
    for key in ("mean", "std", "raw", "labels"):
        with pytest.raises(KeyError):
            spec_from_dict({name: value for name, value in told.items() if name != key})
        with pytest.raises(TypeError):
            spec_from_dict(told | {key: None})


@pytest.mark.parametrize("family", SOURCES)
def test_a_state_dict_of_torchvision_must_fit_the_data(family: str, tmp_path: Path) -> None:
    theirs, path, size = SOURCES[family](), tmp_path / "net.safetensors", 16 if family == "vit" else 64
    save_file(theirs.state_dict(), path)
    x = torch.randn(2, 3, size, size)
    with torch.no_grad():
        save_file({"pixel_values": x, "logits": theirs(x)}, tmp_path / "net.reference.safetensors")
        ours = found_in(family, path, LABELS, size, **STATED[family])(x)
        torch.testing.assert_close(ours, theirs(x), rtol=1e-3, atol=1e-4 * float(ours.abs().max()))
    with pytest.raises(UserError, match="classifies 3 labels, the data have 2"):
        found_in(family, path, LABELS[:2], size, **STATED[family])
    why = "computes something else" if family == "mobilenet" else f"model.shape.* is .*, that of {path} "
    with pytest.raises(UserError, match=why):  # weights of a MobileNet do not tell its strides, outputs do
        found_in(family, path, LABELS, size, **OTHER_STEM[family])


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
