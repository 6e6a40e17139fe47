"""MobileNets: the same logits and parameters as torchvision's, exact folding, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families.mobilenet.sample import LABELS, small_mobilenet, torchvision_net
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import mobilenet_v3_small

import rmtkd_edge as rk
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.convolution import ProjectedConv
from rmtkd_edge.families.layers import ProjectedLinear
from rmtkd_edge.families.mobilenet import FAMILY, MobileNetShape
from rmtkd_edge.families.mobilenet.layouts import NAMES
from rmtkd_edge.families.mobilenet.module import MobileNet
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, Wanted

VERSIONS = sorted(NAMES)


def same(ours: nn.Module, theirs: nn.Module, batch: int = 2) -> bool:
    x = torch.randn(batch, 3, 64, 64)
    with torch.no_grad():
        return torch.allclose(ours(x), theirs(x), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_module_of_torchvision_gives_its_own_outputs(version: str) -> None:
    theirs = torchvision_net(version)
    ours = rk.from_torchvision(theirs, LABELS, image_size=64)
    assert isinstance(ours, MobileNet) and ours.spec.image_size == 64 and ours.spec.mean == IMAGENET_MEAN
    assert all(same(ours, theirs, batch) for batch in (1, 8))
    assert ours.spec.count_parameters() == sum(p.numel() for p in theirs.parameters())
    with torch.no_grad():
        theirs.classifier[-1].weight.zero_()  # type: ignore[index, union-attr, operator]
        assert not same(ours, theirs), "weights are copied"


def test_other_modules_are_not_taken() -> None:
    assert FAMILY.from_module(nn.Linear(2, 2)) is None and FAMILY.from_module(small_mobilenet("v2")) is None


def altered(what: str) -> Any:
    if what == "dilated":
        return torchvision_net("v3-small", dilated=True)
    net: Any = torchvision_net("v2")
    if what == "padding":
        net.features[3].conv[1][0].padding = (0, 0)
    elif what == "activation":
        net.features[0][2] = nn.SiLU()
    elif what == "eps":
        net.features[5].conv[3].eps = 0.1
    elif what == "head":
        net.classifier = nn.Sequential(nn.Linear(1280, 8), nn.Tanh(), nn.Linear(8, 3))
    return net


@pytest.mark.parametrize("what", ["dilated", "padding", "activation", "eps", "head"])
def test_a_module_that_computes_something_else_is_refused(what: str) -> None:
    with pytest.raises(UserError, match=r"something else than a MobileNet|built of other parts|cannot be run"):
        FAMILY.from_module(altered(what))


def test_a_stem_of_stride_1_is_of_small_images() -> None:
    theirs: Any = torchvision_net("v2")
    theirs.features[0][0].stride = theirs.features[2].conv[1][0].stride = (1, 1)
    ours = FAMILY.from_module(theirs)
    assert ours is not None and ours.spec.image_size == 32 and ours.spec.stem_stride == 1 and same(ours.eval(), theirs)


def test_a_classifier_of_one_layer_may_stand_alone(tmp_path: Path) -> None:
    theirs: Any = torchvision_net("v2")
    theirs.classifier = theirs.classifier[1]
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    ours = FAMILY.from_module(theirs, LABELS)
    assert ours is not None and same(ours.eval(), theirs) and ours.spec.dropout == 0
    assert same(built(str(tmp_path / "net.safetensors"), stem="imagenet"), theirs)


# --- state dicts ---


def built(source: str, **shape: Any) -> MobileNet:
    net, trained = FAMILY.from_source(source, Wanted(LABELS, 64, 0), MobileNetShape.model_validate(shape))
    assert trained
    return net.eval()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.model."])
def test_a_state_dict_gives_torchvisions_logits(version: str, prefix: str, tmp_path: Path) -> None:
    theirs, path = torchvision_net(version), tmp_path / "net.safetensors"
    save_file({f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()}, path)
    with pytest.raises(UserError, match="do not tell what the model computes") as caught:
        built(str(path))
    assert "--set model.shape.stem=imagenet" in caught.value.hint
    assert same(built(str(path), stem="imagenet"), theirs)


def test_a_reference_proves_what_is_the_same_and_refuses_what_is_not(tmp_path: Path) -> None:
    theirs, path, x = torchvision_net("v2"), tmp_path / "net.safetensors", torch.randn(2, 3, 64, 64)
    save_file(theirs.state_dict(), path)
    reference = {"pixel_values": x, "logits": theirs(x).detach()}
    save_file(reference, tmp_path / "net.reference.safetensors")
    assert same(built(str(path), stem="imagenet"), theirs)
    for wrong in ({"stem": "cifar"}, {"stem": "imagenet", "eps": 0.1}):
        with pytest.raises(UserError, match="computes something else"):
            built(str(path), **wrong)


@pytest.mark.parametrize("version", ["v2", "v3-small"])
@pytest.mark.parametrize("made", [True, False], ids=["made with stride 1", "stride changed later"])
def test_a_reference_proves_which_blocks_of_a_small_stem_add_their_input(
    version: str, made: bool, tmp_path: Path
) -> None:
    theirs, path, x = torchvision_net(version), tmp_path / "net.safetensors", torch.randn(2, 3, 64, 64)
    first = next(block for block in theirs.features[1:] if 2 in {m.stride[0] for m in convolutions(block)})  # type: ignore[index]
    for layer in (*convolutions(theirs.features[0]), *convolutions(first)):  # type: ignore[index]
        layer.stride = (1, 1)
    first.use_res_connect = made and version == "v3-small"  # that of V2 changes the width
    save_file(theirs.state_dict(), path)
    save_file({"pixel_values": x, "logits": theirs(x).detach()}, tmp_path / "net.reference.safetensors")
    for shape in ({}, {"stem": "cifar"}):
        net = built(str(path), **shape)
        assert same(net, theirs) and net.spec.stem_stride == 1
    (tmp_path / "net.reference.safetensors").unlink()
    if version == "v3-small":
        with pytest.raises(UserError, match=r"whether the block 0, with stride 1, adds its input"):
            built(str(path), stem="cifar")


def convolutions(part: Any) -> list[nn.Conv2d]:
    return [module for module in part.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("state", [{"weight": torch.zeros(2)}, {"features.0.0.weight": torch.zeros(4, 3, 3, 3)}])
def test_what_is_no_mobilenet_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="no state dict of a MobileNet"):
        built(str(tmp_path / "net.safetensors"), stem="imagenet")


# --- widths ---


@pytest.mark.parametrize("version", VERSIONS)
def test_folding_is_exact_for_every_site_at_once(version: str) -> None:
    wide = {site.name: site.width for site in small_mobilenet(version).spec.sites()}
    ranks = {name: max(2, width // 2) for name, width in wide.items()}
    folded = small_mobilenet(version, ranks).double()
    generator = torch.Generator().manual_seed(0)
    p = {
        name: torch.linalg.qr(torch.randn(wide[name], k, generator=generator, dtype=torch.float64))[0].T
        for name, k in ranks.items()
    }
    projected = FAMILY.unfold(folded, p)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    assert set(FAMILY.projections(projected)) == set(p)
    with torch.no_grad():
        torch.testing.assert_close(projected(x), folded(x), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(FAMILY.fold(projected)(x), folded(x), rtol=1e-9, atol=1e-12)
    assert folded.spec.count_parameters() == sum(parameter.numel() for parameter in folded.parameters())


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_convolutions_are_listed_as_they_run(version: str, stem: str) -> None:
    net = small_mobilenet(version, {"stream.1": 3, "block.2.inner": 7}, stem=stem)
    seen: list[tuple[int, ...]] = []
    for name, module in net.named_modules():
        if isinstance(module, ProjectedConv):
            module.register_forward_hook(
                lambda m, given, out: seen.append((m.weight.shape[1], *out.shape[1:3], m.weight.shape[-1]))
            )
        elif isinstance(module, ProjectedLinear) and ".gates." in name:
            module.register_forward_hook(lambda m, given, out: seen.append((given[0].shape[1], out.shape[1], 1, 1)))
    net(torch.randn(1, 3, 16, 16))
    listed = [(c.inputs, c.outputs, c.side, c.kernel) for c in net.spec.convolutions()]
    assert sorted(seen) == sorted(listed)


def test_blocks_that_a_skip_joins_share_one_width() -> None:
    spec = small_mobilenet("v2").spec
    cut = spec.with_ranks({"stream.3": 2})
    blocks = [j for j in range(len(spec.blocks)) if spec.stream_of(j) == 3]
    assert len(blocks) > 2 and [cut.blocks[j].skip for j in blocks] == [False] + [True] * (len(blocks) - 1)
    assert [layer.weight.shape[0] for layer in FAMILY.producers(MobileNet(cut))["stream.3"]] == [2] * len(blocks)


def test_a_head_that_is_not_torchvisions_must_be_proved(tmp_path: Path) -> None:
    theirs = mobilenet_v3_small(num_classes=len(LABELS))
    width = theirs.classifier[0].in_features
    theirs.classifier = nn.Sequential(nn.Linear(width, 24), nn.ReLU(), nn.Dropout(), nn.Linear(24, len(LABELS)))
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="do not tell the function between the classifier's layers"):
        built(str(tmp_path / "net.safetensors"), stem="imagenet")


def test_a_head_of_one_layer_is_read(tmp_path: Path) -> None:
    theirs = torchvision_net("v3-small")
    width = theirs.classifier[0].in_features
    theirs.classifier = nn.Sequential(nn.Dropout(), nn.Linear(width, len(LABELS)))
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    assert same(built(str(tmp_path / "net.safetensors"), stem="imagenet"), theirs.eval())
