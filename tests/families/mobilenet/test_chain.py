"""The Python API's chain for a MobileNet of torchvision: cut, taught, exported, and loaded from the folder again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from api.own_sample import SIDE, accuracy, image_batches, logits
from families.mobilenet.sample import calibrated
from torchvision.models import get_model

import rmtkd_edge as rk


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_a_student_answers_from_its_folder_as_in_torch(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, batches = calibrated(get_model(name, num_classes=2, width_mult=0.25), SIDE), image_batches(8)
    model = rk.from_torchvision(module, ["dark", "bright"], image_size=SIDE)
    plan = rk.plan(rk.analyse(model, batches), reduction=0.4, align=2)
    student = rk.compress(model, plan, batches[:4])
    student = rk.distil(student, model, batches[:4], evaluate=lambda net: accuracy(net, batches[4:]), steps=2)
    folder = rk.export(student, tmp_path / "out", precision="fp32", loader=batches, teacher=model)
    assert folder.record.reduction == pytest.approx(plan.reduction) and plan.reduction >= 0.4

    pixels = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    mean, std = (np.array(values, np.float32) for values in (student.spec.mean, student.spec.std))
    inputs = torch.from_numpy((pixels / np.float32(255) - mean) / std).permute(0, 3, 1, 2)
    expected = logits(student, {"pixel_values": inputs}).numpy()
    for backend in ("onnx", "torch"):
        found = rk.load(folder, backend=backend).predict(list(pixels)).outputs
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
