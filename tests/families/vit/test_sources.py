"""Checkpoints of transformers and torchvision: the same logits, or a refusal that says why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families.vit.sample import LABELS, SIDE, SIZES, close, images, logits, of_torchvision, of_transformers, shaken
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.models.vision_transformer import ConvStemConfig
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

import rmtkd_edge as rk
from rmtkd_edge.config.recipes import parse_recipe
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.torchvision_sources import Wanted
from rmtkd_edge.families.vit import FAMILY
from rmtkd_edge.families.vit.settings import VitShape

WANTED = Wanted(LABELS, SIDE, 0)
HEADS = VitShape(heads=3)


def same(model: nn.Module, theirs: nn.Module) -> None:
    for batch in (1, 8):
        assert close(logits(model, images(batch)), logits(theirs, images(batch)))


@pytest.mark.parametrize("kind", ["vit", "deit"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"qkv_bias": False, "hidden_act": "gelu_new"},
        {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-3, "patch_size": 8},
    ],
    ids=str,
)
def test_a_folder_gives_the_logits_of_its_model(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    theirs = of_transformers(kind, **settings)
    theirs.save_pretrained(tmp_path / "whole")
    theirs.save_pretrained(tmp_path / "parts", max_shard_size="10kB")
    assert len([*(tmp_path / "parts").glob("model-*.safetensors")]) > 1
    for folder in ("whole", "parts"):
        model, trained = FAMILY.from_source(str(tmp_path / folder), WANTED, VitShape())
        assert trained and model.spec.model_type == kind
        same(model, theirs)
    own = rk.from_transformers(theirs, mean=(0.5,) * 3, std=(0.5,) * 3)
    assert own.spec.labels == LABELS
    same(own, theirs)


def test_weights_of_16_bits_are_read(tmp_path: Path) -> None:
    theirs = of_transformers().to(torch.bfloat16)
    theirs.save_pretrained(tmp_path)
    model, _ = FAMILY.from_source(str(tmp_path), WANTED, VitShape())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    same(model, theirs.float())


def test_torchvisions_are_read_from_memory_and_from_a_state_dict(tmp_path: Path) -> None:
    theirs = of_torchvision()
    own = rk.from_torchvision(theirs, labels=LABELS)
    assert own.spec.image_size == SIDE and own.spec.labels == LABELS
    same(own, theirs)
    for path in (tmp_path / "net.safetensors", tmp_path / "model.safetensors"):
        save_file(theirs.state_dict(), path)
    for source in (tmp_path / "net.safetensors", tmp_path):
        model, trained = FAMILY.from_source(str(source), WANTED, HEADS)
        assert trained
        same(model, theirs)


def test_a_state_dict_of_older_names_is_read(tmp_path: Path) -> None:
    theirs = of_torchvision()
    state = {
        name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): value
        for name, value in theirs.state_dict().items()
    }
    save_file(state, tmp_path / "model.safetensors")
    same(FAMILY.from_source(str(tmp_path), WANTED, HEADS)[0], theirs)


def test_torchvisions_pretrained_ones_get_a_new_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import models

    theirs = of_torchvision(classes=7)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: theirs.state_dict())
    monkeypatch.setattr("rmtkd_edge.families.vit.of_torchvision.get_model", lambda *_, **__: of_torchvision(classes=7))
    with pytest.raises(UserError, match="reads images of 16 pixels"):
        FAMILY.from_source("torchvision:vit_b_16", Wanted(LABELS, 32, 0), VitShape())
    model, trained = FAMILY.from_source("torchvision:vit_b_16", WANTED, VitShape())
    assert not trained and model.spec.labels == LABELS and len(logits(model, images())[0]) == len(LABELS)
    theirs.heads.head = nn.Identity()
    with torch.no_grad():
        features: list[torch.Tensor] = []
        model(images(), tap=lambda name, value: features.append(value) if name == "features" else None)
        assert close(features[0], theirs(images()))
    assert "vit_b_16" in {*models.list_models()}
    with pytest.raises(UserError, match="not known"):
        FAMILY.from_source("torchvision:vit_z_1", WANTED, VitShape())


def test_a_backbone_gets_a_new_classifier(tmp_path: Path) -> None:
    torch.manual_seed(0)
    backbone = shaken(ViTModel(ViTConfig(**SIZES, image_size=SIDE, patch_size=4)))
    backbone.save_pretrained(tmp_path)
    model, trained = FAMILY.from_source(str(tmp_path), WANTED, VitShape())
    assert not trained
    with torch.no_grad():
        wanted = model.classifier(backbone(images()).last_hidden_state[:, 0])
    assert close(logits(model, images()), wanted)


def test_labels_are_brought_into_the_datas_order_or_refused(tmp_path: Path) -> None:
    theirs = of_transformers(labels=("c", "a", "b"))
    theirs.save_pretrained(tmp_path)
    found = logits(FAMILY.from_source(str(tmp_path), WANTED, VitShape())[0], images())
    assert close(found, logits(theirs, images())[:, [1, 2, 0]])
    with pytest.raises(UserError, match=r"names the labels"):
        FAMILY.from_source(str(tmp_path), Wanted(("a", "b", "x"), SIDE, 0), VitShape())
    with pytest.raises(UserError, match=r"classifies 3 labels"):
        FAMILY.from_source(str(tmp_path), Wanted(("a", "b"), SIDE, 0), VitShape())
    with pytest.raises(UserError, match=r"reads images of 16 pixels") as caught:
        FAMILY.from_source(str(tmp_path), Wanted(LABELS, 32, 0), VitShape())
    assert "task.image_size=16" in caught.value.hint


def test_weights_that_a_plain_one_does_not_have_are_refused(tmp_path: Path) -> None:
    of_transformers().save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    save_file({**state, "vit.embeddings.register_tokens": torch.zeros(1, 4, 24)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="register_tokens"):
        FAMILY.from_source(str(tmp_path), WANTED, VitShape())


@pytest.mark.parametrize(
    ("settings", "part"),
    [
        ({"hidden_act": "mish"}, "activation `mish`"),
        ({"num_channels": 1}, "1 channels"),
        ({"problem_type": "multi_label_classification"}, "problem_type"),
        ({"image_size": (16, 8)}, "as high as wide"),
    ],
)
def test_settings_that_are_not_known_are_refused(settings: dict[str, Any], part: str, tmp_path: Path) -> None:
    theirs = of_transformers(**settings)
    theirs.save_pretrained(tmp_path)
    for attempt in (lambda: FAMILY.from_source(str(tmp_path), WANTED, VitShape()), lambda: FAMILY.from_module(theirs)):
        with pytest.raises(UserError) as caught:
            attempt()
        assert part in caught.value.message + (caught.value.hint or "")


def test_a_deit_of_two_classifiers_is_refused(tmp_path: Path) -> None:
    theirs = DeiTForImageClassificationWithTeacher(DeiTConfig(**SIZES, image_size=SIDE, patch_size=4, num_labels=3))
    theirs.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="two classifiers"):
        FAMILY.from_source(str(tmp_path), WANTED, VitShape())
    with pytest.raises(UserError, match="WithTeacher"):
        rk.from_transformers(theirs)


def test_a_model_of_another_type_is_refused_by_name(tmp_path: Path) -> None:
    ResNetForImageClassification(ResNetConfig(embedding_size=8, hidden_sizes=[8, 8, 8, 8])).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="type `resnet`") as caught:
        FAMILY.from_source(str(tmp_path), WANTED, VitShape())
    assert "torchvision:vit_b_16" in caught.value.hint


def test_what_computes_something_else_is_refused_by_its_logits() -> None:
    class Averaging(ViTForImageClassification):
        def forward(self, pixel_values: Any, **others: Any) -> Any:
            found = super().forward(pixel_values, **others)
            found.logits = found.logits + self.vit(pixel_values).last_hidden_state.mean((1, 2))[:, None]
            return found

    theirs = of_transformers()
    theirs.__class__ = Averaging
    with pytest.raises(UserError, match="Averaging"):
        FAMILY.from_module(theirs)
    Averaging.__name__ = "ViTForImageClassification"
    with pytest.raises(UserError, match="logits differ by"):
        FAMILY.from_module(theirs)
    other = of_torchvision()
    other.encoder.layers[1].mlp[1] = nn.ReLU()
    with pytest.raises(UserError, match="logits differ by"):
        rk.from_torchvision(other)
    odd = of_torchvision()
    odd.encoder.layers[0].ln_1.eps = 0.5
    with pytest.raises(UserError, match="logits differ by"):
        rk.from_torchvision(odd)


def test_other_stems_and_classifiers_of_torchvision_are_refused(tmp_path: Path) -> None:
    stem = of_torchvision(conv_stem_configs=[ConvStemConfig(8, 4, 4)])
    hidden = of_torchvision(representation_size=12)
    for number, (theirs, part) in enumerate(((stem, "patches.weight"), (hidden, "pre_logits"))):
        with pytest.raises(UserError, match="plain vision transformer") as caught:
            rk.from_torchvision(theirs)
        assert part in caught.value.message
        save_file(theirs.state_dict(), tmp_path / f"{number}.safetensors")
        with pytest.raises(UserError, match="plain vision transformer"):
            FAMILY.from_source(str(tmp_path / f"{number}.safetensors"), WANTED, HEADS)


def test_a_state_dict_does_not_tell_its_heads(tmp_path: Path) -> None:
    save_file(of_torchvision().state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="number of heads") as caught:
        FAMILY.from_source(str(tmp_path), WANTED, VitShape())
    assert "model.shape.heads" in caught.value.hint
    with pytest.raises(UserError, match="no multiple"):
        FAMILY.from_source(str(tmp_path), WANTED, VitShape(heads=6, width=48).model_copy(update={"heads": 5}))
    with pytest.raises(UserError, match=r"model\.shape\.width is 48, that of .* 24"):
        FAMILY.from_source(str(tmp_path), WANTED, VitShape(heads=3, width=48))
    with pytest.raises(UserError, match="never unpickled"):
        FAMILY.from_source(str(tmp_path / "net.pth"), WANTED, HEADS)


def test_normalisation_comes_from_the_source_or_is_asked_for(tmp_path: Path) -> None:
    of_transformers().save_pretrained(tmp_path)

    def asked(**task: Any) -> Any:
        settings = {"kind": "image-classification", "name": "x", **task}
        recipe = parse_recipe({"model": {"family": "vit", "source": str(tmp_path)}, "task": settings}, "x")
        return FAMILY.source_normalisation(recipe)

    with pytest.raises(UserError, match="normalised"):
        asked()
    assert asked(mean=[0.5] * 3, std=[0.5] * 3) is None
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5, 0.4, 0.3], "image_std": [0.25] * 3}), encoding="utf-8"
    )
    assert asked() == ((0.5, 0.4, 0.3), (0.25, 0.25, 0.25))
    with pytest.raises(UserError, match=r"task\.mean"):
        asked(mean=[0.1] * 3, std=[0.25] * 3)


def test_random_weights_need_images_that_part_into_patches() -> None:
    with pytest.raises(UserError, match="patches of 5"):
        FAMILY.from_source("scratch", WANTED, VitShape(patch=5))
    for shape in (VitShape(pool="mean"), VitShape(model_type="deit"), VitShape()):
        model, trained = FAMILY.from_source("scratch", WANTED, shape)
        assert not trained and logits(model, images()).isfinite().all()
        assert model.spec.tokens == (0 if shape.pool == "mean" else 2 if shape.model_type == "deit" else 1)
        assert model.spec.count_parameters() == sum(p.numel() for p in model.parameters())


def test_what_is_said_of_a_modules_images_must_go_with_it() -> None:
    half = (0.5, 0.5, 0.5)
    assert rk.from_transformers(of_transformers(), mean=half, std=half).spec.mean == half
    with pytest.raises(UserError, match="images of 32 pixels"):
        rk.from_torchvision(of_torchvision(), image_size=32)


def test_a_module_with_another_classifier_is_taken_by_its_weights() -> None:
    theirs = of_torchvision()
    theirs.heads.head = nn.Linear(theirs.heads.head.in_features, 7)
    same(rk.from_torchvision(theirs.eval()), theirs)


def test_imagenets_classifier_is_replaced(tmp_path: Path) -> None:
    of_transformers(num_labels=1000).save_pretrained(tmp_path)
    model, trained = FAMILY.from_source(str(tmp_path), WANTED, VitShape())
    assert not trained and model.spec.labels == WANTED.labels


def test_how_images_were_normalised_must_be_said() -> None:
    with pytest.raises(UserError, match="how its images were normalised"):
        rk.from_transformers(of_transformers())
