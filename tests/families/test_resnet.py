"""ResNets: the same logits and parameters as torchvision's, exact folding, and clear refusals."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from convnet_sample import small_resnet
from safetensors.torch import save_file

from rmtkd_edge.errors import UserError
from rmtkd_edge.families.resnet.sources import module as convnet
from rmtkd_edge.families.resnet.sources import sources as resnet
from rmtkd_edge.families.resnet.module import ConvNet
from rmtkd_edge.families.resnet.spec import ConvNetSpec
from rmtkd_edge.families.encoder.spec import ranks_of
from rmtkd_edge.families.store import save_folder

LABELS = tuple("abcdefghij")


def torchvision_net(depth: int) -> torch.nn.Module:
    """A ResNet with running statistics that are not the ones a new norm has."""
    torch.manual_seed(depth)
    net = getattr(torchvision.models, f"resnet{depth}")(num_classes=len(LABELS))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.running_mean.uniform_(-0.1, 0.1)
                module.running_var.uniform_(0.5, 1.5)
                module.weight.uniform_(0.5, 1.5)
    return net.eval()


@pytest.mark.parametrize("depth", [18, 50])
def test_a_state_dict_gives_torchvisions_logits(depth: int, tmp_path: Path) -> None:
    theirs = torchvision_net(depth)
    save_file(theirs.state_dict(), tmp_path / "net.safetensors")
    ours, trained = resnet.build(str(tmp_path / "net.safetensors"), LABELS, 0, None, 64)
    x = torch.randn(2, 3, 64, 64)
    assert trained
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", sorted(resnet.DEPTHS))
def test_parameters_are_those_of_torchvision(depth: int) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    spec = resnet.resnet_spec(depth, LABELS)
    assert spec.count_parameters() == sum(p.numel() for p in theirs.parameters())
    with torch.device("meta"):
        assert spec.count_parameters() == sum(p.numel() for p in ConvNet(spec).parameters())


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "cifar"), (50, "imagenet")])
def test_folding_is_exact_for_every_site_at_once(depth: int, stem: str) -> None:
    net = small_resnet(depth, stem).double()
    narrow = {s.name: max(2, s.width // (4 if s.kind == "factor" else 2)) for s in net.spec.sites()}
    folded = resnet.initialise(convnet.narrow_like(net, narrow)).double().eval()
    projections = {}
    for site in net.spec.sites():
        square = torch.linalg.qr(torch.randn(site.width, site.width, dtype=torch.float64))[0]
        projections[site.name] = square[: narrow[site.name]]
    projected = convnet.unfold(folded, projections)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    assert set(convnet.projections_of(projected)) == {s.name for s in net.spec.sites()}
    assert sum(p.numel() for p in projected.parameters()) > folded.parameter_count()
    assert sum(p.numel() for p in folded.parameters()) == folded.parameter_count()
    with torch.no_grad():
        wanted = projected(x)
        assert torch.allclose(folded(x), wanted, rtol=1e-9)
        assert torch.allclose(convnet.fold(projected)(x), wanted, rtol=1e-9)


def test_every_weight_and_activation_of_a_projected_net_is_contiguous() -> None:
    # torch 2.14's CPU convolutions corrupt the heap in backward for channels-last weights and uneven channel counts
    folded = small_resnet(50, ranks={"layer.1.block.0.conv2.factor": 3, "layer.2.stream": 21})
    present = [site for site in folded.spec.sites() if not site.latent]
    p = {s.name: torch.linalg.qr(torch.randn(2 * s.width, 2 * s.width))[0][: s.width] for s in present}
    net, odd = convnet.unfold(folded, p), []

    def look(module, given, out) -> None:
        odd.extend(t.shape for t in (given[0], out, module.folded()) if not t.is_contiguous())

    for module in net.modules():
        if isinstance(module, convnet.ProjectedConv):
            module.register_forward_hook(look)
    net(torch.randn(2, 3, 16, 16))
    assert not odd


def test_the_spec_survives_json() -> None:
    spec = small_resnet(50).spec.with_ranks({"layer.1.block.0.conv2.factor": 3, "layer.2.stream": 20})
    assert spec.factors == {"layer.1.block.0.conv2": 3}
    assert ConvNetSpec.from_dict(spec.to_dict()) == spec
    older = {key: value for key, value in small_resnet(50).spec.to_dict().items() if key != "factors"}
    assert ConvNetSpec.from_dict(older) == small_resnet(50).spec


def test_a_factor_as_wide_as_what_it_writes_is_none() -> None:
    spec = small_resnet(18).spec
    assert spec.with_ranks({"layer.2.block.0.conv1.factor": 16}).factors == {}
    thin = spec.with_ranks({"layer.2.block.0.conv1.factor": 8})
    assert thin.factors and thin.with_ranks({"layer.2.block.0.conv1": 8}).factors == {}
    assert ranks_of(thin)["layer.2.block.0.conv1.factor"] == 8
    assert "layer.2.block.1.conv1.factor" not in ranks_of(thin)


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "imagenet")])
def test_convolutions_are_listed_as_they_run(depth: int, stem: str) -> None:
    ranks = {"layer.1.block.0.conv2.factor": 3, "layer.3.stream": 20, "layer.2.block.0.downsample.factor": 2}
    net = small_resnet(depth, stem, ranks=ranks)
    seen = []
    for module in net.modules():
        if isinstance(module, convnet.ProjectedConv):
            module.register_forward_hook(
                lambda m, given, out: seen.append((given[0].shape[1], *out.shape[1:3], m.weight.shape[-1]))
            )
    net(torch.randn(1, 3, 16, 16))
    listed = [(c.inputs, c.outputs, c.side, c.kernel) for c in net.spec.convolutions()]
    assert sorted(seen) == sorted(listed)


@pytest.mark.parametrize("depth", [18, 50])
def test_every_convolution_makes_exactly_one_site(depth: int) -> None:
    spec = small_resnet(depth).spec
    made = [place for site in spec.sites() if site.kind != "factor" for place in spec.producers(site.name)]
    assert sorted(made) == sorted(spec.places())


def test_a_basic_net_shares_its_stem_with_the_first_stream() -> None:
    assert "stem" not in {s.name for s in small_resnet(18).spec.sites()}
    assert "stem" in {s.name for s in small_resnet(50).spec.sites()}


def test_other_classes_are_refused(tmp_path: Path) -> None:
    save_file(torchvision_net(18).state_dict(), tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="classifies 10 labels, the data have 3"):
        resnet.build(str(tmp_path / "net.safetensors"), ("a", "b", "c"), 0, None, 64)


@pytest.mark.parametrize("state", [{"weight": torch.zeros(2)}, {"conv1.weight": torch.zeros(4, 3, 3, 3)}])
def test_what_is_no_resnet_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="no state dict of a ResNet"):
        resnet.build(str(tmp_path / "net.safetensors"), LABELS, 0, None, 64)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="never unpickled"):
        resnet.build(str(tmp_path / "net.pth"), LABELS, 0, None, 64)


def test_a_folder_of_ours_gives_the_same_net(tmp_path: Path) -> None:
    net = small_resnet(18, labels=LABELS)
    save_folder(tmp_path, net)
    found, trained = resnet.build(str(tmp_path), LABELS, 0, None, net.spec.image_size)
    x = torch.randn(2, 3, 16, 16)
    assert trained and torch.equal(found(x), net(x))
    with pytest.raises(UserError, match="labels"):
        resnet.build(str(tmp_path), LABELS[::-1], 0, None, net.spec.image_size)
    with pytest.raises(UserError, match="pixels"):
        resnet.build(str(tmp_path), LABELS, 0, None, 32)
