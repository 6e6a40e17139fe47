"""ResNets as ONNX: the same logits as torch's, every batch size, static int8 close by."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from convnet_sample import small_resnet

from rmtkd_edge.errors import DataError
from rmtkd_edge.families.resnet.quantise import quantise_convnet
from rmtkd_edge.families.resnet.graph import FusedNet, export_convnet
from rmtkd_edge.families.resnet.sources import module as convnet

UNEVEN = {"layer.1.block.0.conv1": 5, "layer.2.stream": 13, "layer.4.block.1.conv1": 31}
UNEVEN |= {"layer.3.block.0.conv1.factor": 6, "layer.2.block.0.downsample.factor": 5}


def run(path, x: torch.Tensor) -> np.ndarray:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": x.numpy()})[0]


@pytest.mark.parametrize(("depth", "stem"), [(18, "cifar"), (50, "imagenet")])
def test_norms_fold_into_convolutions(depth, stem):
    net = small_resnet(depth, stem, ranks=UNEVEN)
    x = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(FusedNet(net)(x), net(x), rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module", params=[(18, "cifar"), (50, "imagenet")], ids=["basic", "bottleneck"])
def exported(request, tmp_path_factory):
    net, path = small_resnet(*request.param, ranks=UNEVEN), tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_convnet(net, path, metadata={"rmtkd_task": "toy"})
    return net, path


def test_onnx_computes_what_torch_computes_at_every_batch_size(exported):
    net, path = exported
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 16, 16)
        with torch.no_grad():
            wanted = net(x).numpy()
        assert np.abs(run(path, x) - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_the_graph_holds_convolutions_and_no_norms(exported):
    net, path = exported
    model = onnx.load(str(path))
    ops = [node.op_type for node in model.graph.node]
    assert "BatchNormalization" not in ops
    assert ops.count("Conv") == sum(1 for m in net.modules() if isinstance(m, convnet.ProjectedConv))
    assert {p.key: p.value for p in model.metadata_props}["rmtkd_task"] == "toy"


def test_static_int8_is_close_and_small(exported, tmp_path):
    net, path = exported
    batches = [torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(i)).numpy() for i in range(4)]
    counts = quantise_convnet(path, tmp_path / "int8.onnx", batches, reduce_range=True)
    assert counts["DequantizeLinear"] and (tmp_path / "int8.onnx").stat().st_size < 0.5 * path.stat().st_size
    x = torch.from_numpy(batches[0])
    with torch.no_grad():
        wanted = net(x).numpy()
    found = run(tmp_path / "int8.onnx", x)
    assert np.corrcoef(found.ravel(), wanted.ravel())[0, 1] > 0.98


def test_int8_without_images_is_refused(exported, tmp_path):
    with pytest.raises(DataError, match="no images"):
        quantise_convnet(exported[1], tmp_path / "int8.onnx", [], reduce_range=True)
