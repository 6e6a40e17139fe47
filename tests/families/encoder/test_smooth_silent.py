"""Smoothing where calibration does not see a channel at all, as happens after a ReLU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from random_shapes import model_of
from shapes import encoder_spec, tensors

from rmtkd_edge.config.recipe import Export
from rmtkd_edge.families.base import QuantiseOptions, family_of
from rmtkd_edge.families.smooth import smoothing_scale
from rmtkd_edge.sessions import open_session, run_session


def test_a_channel_that_calibration_did_not_see_is_left_as_it_is() -> None:
    channels, columns = np.array([0.0, 2.0, 0.5, 0.0], np.float32), np.array([0.3, 0.1, 0.2, 4.0], np.float32)
    scale = smoothing_scale(channels, columns, 0.85)
    assert scale[0] == scale[3] == 1
    assert np.isclose(np.log(scale[1:3]).mean(), 0, atol=1e-6) and scale[1] > scale[2]


def test_rows_that_wake_silent_channels_do_not_drown_the_others(tmp_path: Path) -> None:
    small = {"num_hidden_layers": 2, "hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    spec = encoder_spec(**small, vocab_size=300, max_position_embeddings=32, hidden_act="relu")
    family, model, rows = family_of(spec), model_of(spec, 0), spec.example_inputs(64, 8, 1)
    path = tmp_path / "model.onnx"
    family.export(family.standardise(model), path, Export(), {})
    wanted, errors = run_session(open_session(path, threads=1), rows), {}
    for name, batches in (("smoothed", [tensors(spec.example_inputs(1, 4, 0))]), ("not", [])):
        family.quantise(path, tmp_path / f"{name}.onnx", batches, QuantiseOptions(True, 1))
        found = run_session(open_session(tmp_path / f"{name}.onnx", threads=1), rows)
        errors[name] = float(np.square(found - wanted).mean() ** 0.5)
    assert errors["smoothed"] < 10 * errors["not"], errors  # four tokens calibrate little; it was 38 times as much
