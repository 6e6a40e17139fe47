"""ResNeXts and wide ResNets: torchvision's logits and parameters, and cuts that leave groups as they are."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest
import torch
import torchvision
from contract_sample import LABELS, recipe_of
from families.resnet.sample import make_batches, small_resnet
from safetensors.torch import save_file
from torch import Tensor, nn

import rmtkd_edge as rk
from rmtkd_edge.compress.stage import compress_run
from rmtkd_edge.config.recipe import Compress, Export
from rmtkd_edge.errors import UserError
from rmtkd_edge.export.audit import audit_emitted, audit_optimised
from rmtkd_edge.export.fold_proof import fold_with_proof
from rmtkd_edge.export.verify import verify_onnx
from rmtkd_edge.families.base import NarrowOptions, QuantiseOptions
from rmtkd_edge.families.resnet import FAMILY, ResNetShape
from rmtkd_edge.families.resnet.checkpoint import NAMES
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.sources import resnet_spec
from rmtkd_edge.families.torchvision_sources import Wanted
from rmtkd_edge.run.directory import Run
from rmtkd_edge.tasks.base import find_task

CLASSES = tuple("abcdefghij")
GROUPED = {"resnext50_32x4d": (50, 32, 4), "wide_resnet50_2": (50, 1, 128), "resnext101_64x4d": (101, 64, 4)}


@pytest.mark.parametrize("name", GROUPED)
def test_parameters_are_those_of_torchvision(name: str) -> None:
    depth, groups, width = GROUPED[name]
    spec = resnet_spec(depth, CLASSES, groups=groups, width_per_group=width)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, num_classes=10)
        ours = ResNet(spec)
    assert name in NAMES
    assert spec.count_parameters() == sum(p.numel() for p in theirs.parameters())
    assert spec.count_parameters() == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("name", ["resnext50_32x4d", "wide_resnet50_2"])
def test_a_module_and_its_state_dict_give_torchvisions_logits(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, num_classes=10).eval()
    ours = rk.from_torchvision(theirs, CLASSES, image_size=64)
    path = tmp_path / "net.safetensors"
    save_file({f"module.{key}": tensor for key, tensor in theirs.state_dict().items()}, path)
    loaded, trained = FAMILY.from_source(str(path), Wanted(CLASSES, 64, 0), ResNetShape(stem="imagenet"))
    assert trained
    for batch in (1, 8):
        x = torch.randn(batch, 3, 64, 64)
        with torch.no_grad():
            wanted = theirs(x)
            for net in (ours, loaded.eval()):
                assert (net(x) - wanted).abs().max() < 1e-4 * wanted.abs().max()


def streams(net: ResNet) -> dict[str, Tensor]:
    return {s.name: torch.eye(s.width)[: s.width // 2] for s in net.spec.sites() if s.kind == "stream"}


def test_a_grouped_net_is_cut_at_its_streams_and_exported(tmp_path: Path) -> None:
    net = small_resnet(50, labels=LABELS, groups=4)
    batches = make_batches(net, 4)
    assert FAMILY.sites_to_cut(net.spec, Compress()) == ["stem", *(f"layer.{i}.stream" for i in range(1, 5))]
    assert "4 groups" in FAMILY.never_cut(net.spec) and not FAMILY.never_cut(small_resnet(50).spec)
    p = streams(net)
    narrow = FAMILY.narrow(net, p, lambda: batches, lambda: batches, NarrowOptions(Compress(), 0)).eval()
    assert narrow.spec.count_parameters() == sum(t.numel() for t in narrow.parameters()) < net.spec.count_parameters()
    assert {block.inner for stage in narrow.spec.stages for block in stage.blocks} == {
        block.inner for stage in net.spec.stages for block in stage.blocks
    }
    folded, proof = fold_with_proof(FAMILY.unfold(narrow, p), batches)
    path, int8 = tmp_path / "model.onnx", tmp_path / "int8.onnx"
    FAMILY.export(folded, path, Export(), {})
    groups = [a.i for node in onnx.load(str(path)).graph.node for a in node.attribute if a.name == "group"]
    audit_emitted(path, folded.spec, Export())
    audit_optimised(path, folded.spec, Export(), "fp32")
    task = find_task("image-classification")
    assert proof.holds and groups.count(4) == 16
    assert verify_onnx(path, folded, task.verification_batches(batches, folded.spec), task, threads=1).relative < 1e-4
    FAMILY.quantise(path, int8, batches, QuantiseOptions(True, 1))
    audit_optimised(int8, folded.spec, Export(), "int8")


def test_a_grouped_convolution_is_fitted_group_by_group() -> None:
    net = small_resnet(50, groups=4).double()
    with torch.no_grad():  # channels of the first stream that nothing needs
        for layer in FAMILY.producers(net)["layer.1.stream"]:
            layer.weight[-4:] = 0.0
        for block in net.stages[0]:
            for layer in (block.convs[-1], block.downsample):
                if layer is not None:
                    layer.norm.running_mean[-4:], layer.norm.bias[-4:] = 0.0, 0.0
    generator = torch.Generator().manual_seed(0)
    batches = [{"pixel_values": torch.randn(32, 3, 16, 16, generator=generator, dtype=torch.float64)} for _ in range(8)]
    p = {"layer.1.stream": torch.eye(32, dtype=torch.float64)[:-4]}
    options = NarrowOptions(Compress(ridge=1e-9), 0)
    narrow = FAMILY.narrow(net, p, lambda: batches, lambda: batches, options).eval()
    with torch.no_grad():
        x = batches[0]["pixel_values"]
        assert (narrow(x) - net(x)).norm() < 1e-3 * net(x).norm()


def test_groups_of_basic_blocks_are_refused() -> None:
    with pytest.raises(UserError, match="has no 4 groups"):
        resnet_spec(18, CLASSES, groups=4)


def test_a_recipe_describes_a_resnext(tmp_path: Path) -> None:
    shape = {"depth": 50, "width": 16, "groups": 8, "width_per_group": 8}
    recipe = recipe_of("resnet", tmp_path, model={"shape": shape})
    assert FAMILY.describe_source(recipe) == "resnet50-16-8x8"
    net, trained = FAMILY.from_source("scratch", Wanted(LABELS, 32, 0), ResNetShape.model_validate(shape))
    assert not trained and net.spec.groups == 8


def test_a_run_says_that_grouped_widths_stay(tmp_path: Path, tiny_images: Path) -> None:
    shape = {"depth": 50, "width": 8, "groups": 2, "width_per_group": 16}
    sections = {"compress": {"one_shot": True}, "train": {"epochs": 6}, "stop": {"target_reduction": 0.2}}
    recipe = recipe_of("resnet", tmp_path, model={"shape": shape}, **sections)
    run = Run.create(tmp_path / "run", recipe.to_toml(), 0)
    result = compress_run(run, recipe, data=tiny_images, reporter=SimpleNamespace(event=lambda *_, **__: None))
    assert result.reduction >= 0.2 and any("2 groups" in note for note in result.notes)


# --- gray images ---


def gray_net() -> torchvision.models.ResNet:
    torch.manual_seed(0)
    net = torchvision.models.resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    return net.eval()


def test_a_stem_of_one_channel_reads_gray_images_as_before(tmp_path: Path) -> None:
    theirs, x = gray_net(), torch.randn(2, 1, 64, 64)
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    save_file({"pixel_values": x, "logits": theirs(x).detach()}, tmp_path / "net.reference.safetensors")
    loaded, _ = FAMILY.from_source(str(tmp_path / "net.safetensors"), Wanted(CLASSES, 64, 0), ResNetShape())
    with torch.no_grad():
        for net in (rk.from_torchvision(theirs, CLASSES), loaded.eval()):
            assert torch.allclose(net(x.expand(-1, 3, -1, -1)), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("widths", [(64, 32), (32, 64)])
def test_uneven_bottlenecks_are_no_groups(widths: tuple[int, int]) -> None:
    first, second = widths
    theirs = torchvision.models.resnet50(num_classes=3)
    block = theirs.layer1[0]
    block.conv1, block.bn1 = nn.Conv2d(64, first, 1, bias=False), nn.BatchNorm2d(first)
    block.conv2, block.bn2 = nn.Conv2d(first, second, 3, padding=1, bias=False), nn.BatchNorm2d(second)
    block.conv3 = nn.Conv2d(second, 256, 1, bias=False)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        own = rk.from_torchvision(theirs.eval(), image_size=64).eval()
        torch.testing.assert_close(own(x), theirs(x), rtol=1e-4, atol=1e-4)
