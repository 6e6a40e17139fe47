"""Export of a model in memory: without a run, a recipe, or even data."""

import numpy as np
import pytest
import torch
from export.export_sample import LABELS, image_rows, make_tokenizer, sample_of
from families.encoder.sample import make_batches, make_encoder, make_model, make_spec

from rmtkd_edge.api.export import export
from rmtkd_edge.errors import DataError, Finding, RunDirError, UserError
from rmtkd_edge.export import folder


def test_a_text_model_needs_nothing_but_its_tokenizer(tmp_path):
    model = make_model()
    model.train()
    result = export(model, tmp_path / "out", tokenizer=make_tokenizer())
    assert model.training and result.record.variants.keys() == {"fp32", "int8"}
    assert result.record.variants["int8"].validation is None and result.record.variants["int8"].refused is None
    assert set(result.load().predict(["w1 w2", "w3"]).labels) <= set(LABELS)
    assert "onnx/model.onnx" in result._repr_html_() and "not measured" in result._repr_html_()
    assert {path.name for path in tmp_path.iterdir()} == {"out"}
    with pytest.raises(RunDirError, match="already"):
        export(model, result)


def test_batches_prove_calibrate_and_score(tmp_path, monkeypatch):
    model, batches = make_model(), make_batches(make_model(), 12)
    result = export(model, tmp_path / "out", loader=iter(batches), teacher=make_encoder(make_spec()))
    record = result.record
    assert record.variants["fp32"].validation.rows == 8 * 12 - 64 and record.reduction > 0
    assert record.variants["int8"].quantisation["calibration_rows"] == 64
    assert f"{record.variants['fp32'].validation.value:.4f}" in result._repr_html_()

    def fail(*args, **kwargs):
        raise Finding("differs")

    monkeypatch.setattr(folder, "verify_onnx", fail)
    with pytest.raises(Finding):
        export(model, tmp_path / "out", loader=batches, precision=("fp32",), force=True)
    assert (tmp_path / "out/rmtkd.json").is_file() and {p.name for p in tmp_path.iterdir()} == {"out"}


def test_an_image_model_says_itself_how_images_are_prepared(tmp_path):
    net = sample_of("resnet").make_model(0)
    images = image_rows("test", net.spec.image_size)[0]
    with pytest.raises(DataError, match="calibrate"):
        export(net, tmp_path / "out")
    result = export(net, tmp_path / "out", precision=("fp32",))
    mean, std = (np.array(v, np.float32) for v in (net.spec.mean, net.spec.std))
    with torch.no_grad():
        wanted = net(torch.from_numpy((images / 255 - mean) / std).float().permute(0, 3, 1, 2))
    found = result.load().predict(list(images)).outputs
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_exported_says_why(tmp_path):
    model, batch = make_model(), make_batches(make_model(), 1)[0]
    with pytest.raises(UserError, match="int4"):
        export(model, tmp_path / "out", precision=("int4",))
    with pytest.raises(DataError, match="attention_mask"):
        export(model, tmp_path / "out", loader=[{"input_ids": batch["input_ids"]}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("")
    with pytest.raises(RunDirError, match="no exported folder"):
        export(model, tmp_path / "mine", force=True)
