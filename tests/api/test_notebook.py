"""The README's chain in Python, from a library's module to a measured folder, for a text and an image model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from api.own_sample import SIDE, Own, accuracy, logits

import rmtkd_edge as rk
from rmtkd_edge.errors import DataError, RunDirError, UserError

TEXTS = ["great film", "a dull plot with some music", "the cast was very fine"]
EFFORT: dict[str, Any] = {"quick": True, "min_runs": 5, "min_duration_s": 0.0, "batch_sizes": [1], "threads": 1}


def chain(own: Own, out: Path, precision: Any) -> tuple[Any, Any]:
    """Return the student and the exported folder, by the lines of the README."""
    train, validation = own.batches[:-4], own.batches[-4:]
    spectra = rk.analyse(own.model, train)
    plan = rk.plan(spectra, reduction=0.4, align=2)
    student = rk.compress(own.model, plan, train)
    student = rk.distil(student, own.model, train, evaluate=lambda model: accuracy(model, validation), steps=6)
    folder = rk.export(student, out, precision=precision, loader=own.batches, teacher=own.model, **own.extra)
    assert folder.record.reduction == pytest.approx(plan.reduction) and plan.reduction >= 0.4
    return student, folder


@pytest.fixture(scope="module")
def text(bert: Own, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return chain(bert, tmp_path_factory.mktemp("text") / "out", ("fp32", "int8"))


@pytest.fixture(scope="module")
def image(resnet: Own, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return chain(resnet, tmp_path_factory.mktemp("image") / "out", "fp32")


def test_texts_are_answered_as_torch_answers_them(bert: Own, text: tuple[Any, Any]) -> None:
    student, folder = text
    encoded = bert.extra["tokenizer"](TEXTS, padding=True, return_tensors="pt")
    expected = logits(student, dict(encoded)).numpy()
    for answers in (rk.load(folder).predict(TEXTS), rk.load(folder, backend="torch").predict(TEXTS)):
        np.testing.assert_allclose(answers.outputs, expected, rtol=1e-4, atol=1e-4)
        assert answers.labels == [student.spec.labels[i] for i in expected.argmax(1)]
    assert rk.load(os.fspath(folder)).predict([]).outputs.shape == (0, 2)
    small = rk.load(folder, precision="int8").predict(TEXTS)
    assert small.outputs.shape == (3, 2) and np.isfinite(small.outputs).all()


def test_images_are_answered_as_torch_answers_them(resnet: Own, image: tuple[Any, Any]) -> None:
    student, folder = image
    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    mean, std = (np.array(values, np.float32) for values in (student.spec.mean, student.spec.std))
    inputs = torch.from_numpy((pixels / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    expected = logits(student, {"pixel_values": inputs}).numpy()
    answers = rk.load(folder).predict(list(pixels))
    np.testing.assert_allclose(answers.outputs, expected, rtol=1e-4, atol=1e-4)
    assert set(answers.labels) <= {"dark", "bright"}


def test_plain_onnxruntime_opens_the_folder(bert: Own, text: tuple[Any, Any]) -> None:
    import onnxruntime

    student, folder = text
    session = onnxruntime.InferenceSession(folder.folder / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    batch = bert.batches[0]
    zeros = torch.zeros_like(batch["input_ids"])
    fed = {item.name: batch.get(item.name, zeros).numpy() for item in session.get_inputs()}
    (found,) = session.run(None, fed)
    np.testing.assert_allclose(found, logits(student, batch).numpy(), rtol=1e-4, atol=1e-4)


def test_the_folder_is_measured_here(text: tuple[Any, Any], image: tuple[Any, Any]) -> None:
    for (_, folder), more in ((text, {"lengths": [8]}), (image, {})):
        result = rk.profile(folder, on="local-cpu", **EFFORT, **more)
        (record,) = result.records
        assert {r.model.precision for r in record.results} == {*folder.record.variants}
        assert all((r.latency.p50 or 0) > 0 for r in record.results)
        assert "p50" in result._repr_html_() and "local-cpu" in repr(result)
        assert len(repr(result).splitlines()) >= 1 + len(record.results)
        assert not (folder.folder / "profile").exists()


def test_an_export_shows_itself_and_is_not_written_over(bert: Own, text: tuple[Any, Any]) -> None:
    student, folder = text
    assert "onnx/model.onnx" in folder._repr_html_() and "fewer parameters" in repr(folder)
    with pytest.raises(RunDirError, match="holds an export"):
        rk.export(student, folder, **bert.extra)
    with pytest.raises(RunDirError):
        rk.report(folder.folder)
    with pytest.raises(UserError, match="no precision 'int4'"):
        rk.export(student, folder.folder / "other", precision="int4")  # type: ignore[arg-type]


def test_texts_need_the_tokenizer(bert: Own, tmp_path: Path) -> None:
    """transformers makes up an empty tokenizer for a folder without one: every text would be unknown words."""
    folder = rk.export(bert.model, tmp_path / "out", precision="fp32")
    with pytest.raises(UserError, match="holds no tokenizer") as caught:
        rk.load(folder)
    assert "tokenizer=" in caught.value.hint


def test_int8_of_an_image_model_needs_rows(resnet: Own, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="calibrate"):
        rk.export(resnet.model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
