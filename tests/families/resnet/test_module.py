"""ResNets: the same logits and parameters as torchvision's, exact folding, and clear refusals."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torchvision
from families.resnet.sample import small_resnet
from safetensors.torch import save_file
from torch import Tensor, nn

from rmtkd_edge import plugins
from rmtkd_edge.errors import UserError
from rmtkd_edge.families.base import ranks_of
from rmtkd_edge.families.convolution import ProjectedConv
from rmtkd_edge.families.resnet import FAMILY, ResNetShape
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.resnet.sources import DEPTHS, resnet_spec
from rmtkd_edge.families.resnet.spec import ResNetSpec
from rmtkd_edge.families.store import save_folder
from rmtkd_edge.families.torchvision_sources import IMAGENET_MEAN, IMAGENET_STD, Wanted

LABELS = tuple("abcdefghij")


def built(source: str, labels: tuple[str, ...] = LABELS) -> tuple[ResNet, bool]:
    return FAMILY.from_source(source, Wanted(labels, 64, 0), ResNetShape(stem="imagenet"))


def torchvision_net(depth: int) -> torchvision.models.ResNet:
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
    ours, trained = built(str(tmp_path / "net.safetensors"))
    x = torch.randn(2, 3, 64, 64)
    assert trained
    with torch.no_grad():
        assert torch.allclose(ours.eval()(x), theirs(x), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("depth", sorted(DEPTHS))
def test_parameters_are_those_of_torchvision(depth: int) -> None:
    with torch.device("meta"):
        theirs = getattr(torchvision.models, f"resnet{depth}")(num_classes=10)
    spec = resnet_spec(depth, LABELS)
    assert spec.count_parameters() == sum(p.numel() for p in theirs.parameters())
    with torch.device("meta"):
        assert spec.count_parameters() == sum(p.numel() for p in ResNet(spec).parameters())


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "cifar"), (50, "imagenet")])
def test_folding_is_exact_for_every_site_at_once(depth: int, stem: str) -> None:
    net = small_resnet(depth, stem).double()
    narrow = {s.name: max(2, s.width // (4 if s.kind == "factor" else 2)) for s in net.spec.sites()}
    folded = FAMILY.initialise(FAMILY.build(net.spec.with_ranks(narrow)), 0).double().eval()
    projections = {}
    for site in net.spec.sites():
        square = torch.linalg.qr(torch.randn(site.width, site.width, dtype=torch.float64))[0]
        projections[site.name] = square[: narrow[site.name]]
    projected = FAMILY.unfold(folded, projections)
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    assert set(FAMILY.projections(projected)) == {s.name for s in net.spec.sites()}
    assert sum(p.numel() for p in projected.parameters()) > folded.spec.count_parameters()
    assert sum(p.numel() for p in folded.parameters()) == folded.spec.count_parameters()
    with torch.no_grad():
        wanted = projected(x)
        assert torch.allclose(folded(x), wanted, rtol=1e-9)
        assert torch.allclose(FAMILY.fold(projected)(x), wanted, rtol=1e-9)


def test_every_weight_and_activation_of_a_projected_net_is_contiguous() -> None:
    # torch 2.14's CPU convolutions corrupt the heap in backward for channels-last weights and uneven channel counts
    folded = small_resnet(50, ranks={"layer.1.block.0.conv2.factor": 3, "layer.2.stream": 21})
    present = [site for site in folded.spec.sites() if not site.latent]
    p = {s.name: torch.linalg.qr(torch.randn(2 * s.width, 2 * s.width))[0][: s.width] for s in present}
    net = FAMILY.unfold(folded, p)
    odd: list[torch.Size] = []

    def look(module: ProjectedConv, given: tuple[Tensor, ...], out: Tensor) -> None:
        odd.extend(t.shape for t in (given[0], out, module.folded()) if not t.is_contiguous())

    for module in net.modules():
        if isinstance(module, ProjectedConv):
            module.register_forward_hook(look)
    net(torch.randn(2, 3, 16, 16))
    assert not odd


def test_the_spec_survives_json() -> None:
    spec = small_resnet(50).spec.with_ranks({"layer.1.block.0.conv2.factor": 3, "layer.2.stream": 20})
    assert spec.factors == {"layer.1.block.0.conv2": 3}
    assert ResNetSpec.from_dict(spec.to_dict()) == spec
    assert spec.to_dict()["family"] == "resnet"


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
    seen: list[tuple[int, ...]] = []
    for module in net.modules():
        if isinstance(module, ProjectedConv):
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
        built(str(tmp_path / "net.safetensors"), ("a", "b", "c"))


@pytest.mark.parametrize("state", [{"weight": torch.zeros(2)}, {"conv1.weight": torch.zeros(4, 3, 3, 3)}])
def test_what_is_no_resnet_is_refused(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(UserError, match="no state dict of a ResNet"):
        built(str(tmp_path / "net.safetensors"))


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "net.pth")
    with pytest.raises(UserError, match="never unpickled"):
        built(str(tmp_path / "net.pth"))


@pytest.mark.parametrize("depth", [18, 50])
def test_a_module_of_torchvision_gives_its_own_outputs(depth: int) -> None:
    theirs = torchvision_net(depth)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.Identity()  # type: ignore[assignment]
    ours = FAMILY.from_module(theirs, LABELS)
    assert ours is not None and ours.spec.stem == "cifar" and ours.spec.image_size == 32
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(ours(x), theirs(x), atol=1e-4, rtol=1e-4)
        theirs.fc.weight.zero_()
        assert not torch.allclose(ours(x), theirs(x)), "weights are copied"


def test_other_modules_are_not_taken() -> None:
    assert FAMILY.from_module(nn.Linear(2, 2)) is None
    assert FAMILY.from_module(small_resnet(18)) is None


def test_a_resnet_that_computes_something_else_is_refused() -> None:
    strided = torchvision_net(18)
    strided.layer2[0].conv1.stride = strided.layer2[0].downsample[0].stride = (1, 1)  # type: ignore[index, union-attr]
    with pytest.raises(UserError, match="something else than a plain ResNet"):
        FAMILY.from_module(strided)
    head = torchvision_net(18)
    head.fc = nn.Sequential(nn.Dropout(), nn.Linear(512, 10))  # type: ignore[assignment]
    with pytest.raises(UserError, match="stem or classifier"):
        FAMILY.from_module(head)


def test_normalisation_comes_from_the_source(tmp_path: Path) -> None:
    net = small_resnet(18)
    save_folder(tmp_path, net)

    def found(source: str) -> object:
        task = SimpleNamespace(mean=None)
        return FAMILY.source_normalisation(SimpleNamespace(model=SimpleNamespace(source=source), task=task))

    assert found("torchvision:resnet50") == (IMAGENET_MEAN, IMAGENET_STD)
    assert found(str(tmp_path)) == (net.spec.mean, net.spec.std) and found("scratch") is None
    assert net.spec.mean == IMAGENET_MEAN


def test_the_family_is_found_by_name_and_its_inputs_are_those_of_the_net() -> None:
    assert plugins.find("families", "resnet") is FAMILY
    spec = small_resnet(18).spec
    (item,) = spec.inputs
    made = spec.example_inputs(3, None, 0)
    assert made[item.name].shape == (3, *item.shape[1:]) and made[item.name].dtype == item.dtype
