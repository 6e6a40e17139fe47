"""ResNets as ONNX: the same logits and the same values at every tap as torch's, static int8 close by."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from families.resnet.sample import random_resnet, small_resnet
from torch import Tensor

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.errors import DataError
from rmtkd_edge.families.base import QuantiseOptions
from rmtkd_edge.families.resnet import FAMILY
from rmtkd_edge.families.resnet.graph import FusedNet
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.sessions import open_session, run_session

UNEVEN = {"layer.1.block.0.conv1": 5, "layer.2.stream": 13, "layer.4.block.1.conv1": 31}
UNEVEN |= {"layer.3.block.0.conv1.factor": 6, "layer.2.block.0.downsample.factor": 5}
Exported = tuple[ResNet, Path]


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "imagenet")])
def test_norms_fold_into_convolutions(depth: int, stem: str) -> None:
    net = small_resnet(depth, stem, ranks=UNEVEN)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(FusedNet(net)(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=[(18, "cifar"), (50, "imagenet")], ids=["basic", "bottleneck"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    net, path = small_resnet(*request.param, ranks=UNEVEN), tmp_path_factory.mktemp("onnx") / "model.onnx"
    assert FAMILY.export(net, path, Export(), {"rmtkd_task": "toy"}) == [path]
    return net, path


def test_onnx_computes_what_torch_computes_at_every_batch_size(exported: Exported) -> None:
    net, path = exported
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            wanted = net(x).numpy()
        found = run_session(open_session(path, threads=1), {"pixel_values": x})
        assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()
    assert {p.key: p.value for p in onnx.load(str(path)).metadata_props}["rmtkd_task"] == "toy"


def values_at_taps(net: ResNet, model: onnx.ModelProto, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return what torch and the graph hold at every tap that has a value in the graph."""
    places = FAMILY.graph_values(model, net.spec)
    taps: dict[str, Tensor] = {}
    with torch.no_grad():
        taps["logits"] = net(x, tap=taps.__setitem__)
    present = {output.name for output in model.graph.output}
    for value in dict.fromkeys(places.values()):
        if value not in present:
            model.graph.output.append(onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None))
    import onnxruntime as ort

    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(list(places.values()), {"pixel_values": x.numpy()})
    return {tap: (taps[tap], torch.from_numpy(value)) for tap, value in zip(places, found, strict=True)}


@pytest.mark.parametrize("seed", range(4))
def test_every_tap_has_the_same_value_in_torch_and_in_the_graph(seed: int, tmp_path: Path) -> None:
    net = random_resnet(seed)
    FAMILY.export(net, tmp_path / "model.onnx", Export(), {})
    pairs = values_at_taps(net, onnx.load(str(tmp_path / "model.onnx")), torch.randn(3, 3, 16, 16))
    spec = net.spec
    wanted = {site.name for site in spec.sites() if not site.latent and site.kind != "stream"}
    wanted |= {f"layer.{i}.block.{j}.sum" for i, s in enumerate(spec.stages, 1) for j in range(len(s.blocks))}
    assert set(pairs) == wanted | {"stem.sum", "pooled", "logits"}
    sites = {site.name for site in spec.sites()} | {"stem", "pooled", "logits"}
    for tap, (ours, theirs) in pairs.items():
        scale = float(ours.abs().max())
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-5 * scale, msg=tap)
        assert FAMILY.site_of(tap) in sites


def test_an_altered_weight_shows_first_at_its_own_site(exported: Exported) -> None:
    net, path = exported
    model = onnx.load(str(path))
    weight = next(t for t in model.graph.initializer if t.name == "blocks.3.convs.0.weight")
    altered = onnx.numpy_helper.to_array(weight) * 1.5
    weight.CopyFrom(onnx.numpy_helper.from_array(altered, weight.name))
    pairs = values_at_taps(net, model, torch.randn(2, 3, 16, 16))
    order = [tap for tap in _order(net) if tap in pairs]
    first = next(tap for tap in order if not torch.allclose(*pairs[tap], rtol=1e-3, atol=1e-4))
    blocks = [block.name for stage in net.stages for block in stage]
    assert first == f"{blocks[3]}.conv1"


def _order(net: ResNet) -> list[str]:
    seen: list[str] = []
    with torch.no_grad():
        net(torch.zeros(1, 3, 16, 16), tap=lambda name, _: seen.append(name))
    return [*seen, "logits"]


def test_static_int8_is_close_and_small(exported: Exported, tmp_path: Path) -> None:
    net, path = exported
    batches = [
        {"pixel_values": torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(i))} for i in range(4)
    ]
    facts = FAMILY.quantise(path, tmp_path / "int8.onnx", batches, QuantiseOptions(reduce_range=True, threads=1))
    assert facts == {"format": "QDQ", "per_channel": True, "reduce_range": True, "calibration_rows": 32}
    assert (tmp_path / "int8.onnx").stat().st_size < 0.5 * path.stat().st_size
    with torch.no_grad():
        wanted = net(batches[0]["pixel_values"]).numpy()
    found = run_session(open_session(tmp_path / "int8.onnx", threads=1), batches[0])
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.98


def test_the_range_of_weights_is_halved_where_asked(exported: Exported, tmp_path: Path) -> None:
    batches = [{"pixel_values": torch.randn(4, 3, 16, 16)}]
    largest = {}
    for narrow in (True, False):
        FAMILY.quantise(exported[1], tmp_path / "int8.onnx", batches, QuantiseOptions(narrow, 1))
        tensors = onnx.load(str(tmp_path / "int8.onnx")).graph.initializer
        weights = [onnx.numpy_helper.to_array(t) for t in tensors if t.data_type == onnx.TensorProto.INT8]
        largest[narrow] = max(int(np.abs(w.astype(int)).max()) for w in weights)
    assert largest[True] <= 64 < largest[False]


def test_int8_without_images_is_refused(exported: Exported, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows to calibrate"):
        FAMILY.quantise(exported[1], tmp_path / "int8.onnx", [], QuantiseOptions(reduce_range=True, threads=1))
