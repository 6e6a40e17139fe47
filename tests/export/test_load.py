"""Exported folders loaded again: backends agree, and what was altered, is missing or was added is refused."""

import json
import shutil

import numpy as np
import pytest
from export.export_sample import image_rows, make_text_run

from rmtkd_edge.errors import ProviderError, RunDirError, UserError
from rmtkd_edge.export.load import load
from rmtkd_edge.export.stage import export_run

PAIRS = [("w1 w2", "w3"), ("w4", "w5 w6 w7"), ("w8 w9 w10 w11", "w12")]


def agree(run, items) -> None:
    """Check that all backends and precisions answer alike."""
    onnx, torch, int8 = load(run.path), load(run.path / "export", backend="torch"), load(run.path, precision="int8")
    assert onnx.model is None and torch.model is not None and onnx.spec == torch.model.spec
    a, b, c = onnx.predict(items), torch.predict(items, batch_size=2), int8.predict(items)
    np.testing.assert_allclose(a.outputs, b.outputs, rtol=1e-4, atol=1e-4 * np.abs(a.outputs).max())
    assert np.abs(c.outputs - a.outputs).max() < 0.3 * np.abs(a.outputs).max()
    assert a.labels == b.labels and set(a.labels) <= set(onnx.record.labels)
    assert onnx.predict([]).outputs.shape == (0, len(onnx.record.labels))


def test_pairs(text_run):
    agree(text_run.run, PAIRS)


def test_single_texts(text_run):
    agree(text_run.run, ["w1", "w2 w3 w4 w5", "w6 w7"])


def test_images(image_run):
    agree(image_run.run, list(image_rows("test", load(image_run.run.path).spec.image_size)[0]))


def folder_of(made, tmp_path):
    folder = tmp_path / "export"
    shutil.copytree(made.run.path / "export", folder)
    return folder, json.loads((folder / "rmtkd.json").read_text())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("onnx/model.onnx", {}),
        ("onnx/model_quantized.onnx", {"precision": "int8"}),
        ("rmtkd.safetensors", {"backend": "torch"}),
        ("config.json", {}),
        ("tokenizer.json", {}),
    ],
)
def test_an_altered_file_is_refused_by_name(text_run, tmp_path, name, options):
    folder, _ = folder_of(text_run, tmp_path)
    load(folder, **options)
    data = (folder / name).read_bytes()
    for damage in (data[: len(data) // 2], data[:-3] + bytes(b ^ 1 for b in data[-3:])):
        (folder / name).write_bytes(damage)
        with pytest.raises(RunDirError, match=name.split("/")[-1]):
            load(folder, **options)
    (folder / name).unlink()
    with pytest.raises(RunDirError, match=name.split("/")[-1]):
        load(folder, **options)


def test_an_altered_preprocessing_of_images_is_refused(image_run, tmp_path):
    folder, _ = folder_of(image_run, tmp_path)
    path = folder / "preprocessor_config.json"
    path.write_text(path.read_text().replace("0.25", "0.5"))
    with pytest.raises(RunDirError, match="preprocessor_config"):
        load(folder)


def test_what_cannot_be_loaded_says_why(text_run, tmp_path):
    run = text_run.run
    with pytest.raises(ProviderError, match="QNNExecutionProvider"):
        load(run.path, provider="QNNExecutionProvider")
    with pytest.raises(RunDirError, match=r"rmtkd\.json"):
        load(tmp_path)
    with pytest.raises(UserError, match="fp32"):
        load(run.path, backend="torch", precision="int8")
    with pytest.raises(UserError, match="int4"):
        load(run.path, precision="int4")
    with pytest.raises(UserError, match="threads"):
        load(run.path, threads=0)
    with pytest.raises(UserError, match="onnxruntime's"):
        load(run.path, backend="torch", provider="CUDAExecutionProvider")
    with pytest.raises(UserError, match="backend"):
        load(run.path, backend="tflite")


def test_a_variant_outside_of_the_folder_is_refused(text_run, tmp_path):
    folder, record = folder_of(text_run, tmp_path)
    shutil.copy(folder / "onnx/model.onnx", tmp_path / "evil.onnx")
    record["variants"]["fp32"]["file"] = "../evil.onnx"
    (folder / "rmtkd.json").write_text(json.dumps(record))
    with pytest.raises(RunDirError, match="outside"):
        load(folder)


def test_a_file_that_a_tokenizer_would_read_unseen_is_refused(text_run, tmp_path):
    folder, _ = folder_of(text_run, tmp_path)
    (folder / "special_tokens_map.json").write_text('{"pad_token": "w9"}')
    with pytest.raises(RunDirError, match=r"special_tokens_map\.json"):
        load(folder)


@pytest.mark.parametrize("key", ["files", "variants", "max_length", "schema"])
def test_a_record_that_lacks_a_key_is_refused_with_the_export_as_the_way_out(text_run, tmp_path, key):
    folder, record = folder_of(text_run, tmp_path)
    del record[key]
    (folder / "rmtkd.json").write_text(json.dumps(record))
    with pytest.raises(RunDirError, match=key) as caught:
        load(folder)
    assert "export" in str(caught.value.hint)


def test_an_export_of_an_earlier_version_is_refused_with_its_schema(text_run, tmp_path):
    folder, record = folder_of(text_run, tmp_path)
    record["schema"] = "rmtkd-edge/export@1"
    (folder / "rmtkd.json").write_text(json.dumps(record))
    with pytest.raises(RunDirError, match="export@1"):
        load(folder)


def test_a_task_of_one_column_answers_single_texts(tmp_path, traced):
    options = make_text_run(tmp_path / "a", pairs=False)
    export_run(options)
    assert load(options.run).predict(["w1", "w2 w3"]).outputs.shape == (2, 3)
