"""Calibration: the multiple that a curve asks for, and a copy of the profile that everything else can read."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmtkd_edge.api import calibrate as api_calibrate
from rmtkd_edge.cli.app import main
from rmtkd_edge.config.hardware import find_profile, load_profile
from rmtkd_edge.errors import UserError
from rmtkd_edge.profile import calibrate as module
from rmtkd_edge.profile import layers
from rmtkd_edge.profile.calibrate import MULTIPLES, CurveOptions, MeasuredCurves, best_multiple, calibrate, mean_latency
from rmtkd_edge.profile.profile_copy import refuse_target
from rmtkd_edge.run.reporter import SilentReporter

FACTS = {
    "providers_actual": ["CPUExecutionProvider"],
    "cpu_model": None,
    "onnxruntime": "1.31.1",
    "threads": 1,
}


def stairs(block: int, slope: float = 1.0) -> dict[int, float]:
    """The curve of a kernel that computes whole blocks only."""
    return {width: slope * (-(-width // block) * block) for width in range(33, 65)}


@pytest.mark.parametrize("multiple", MULTIPLES)
def test_a_kernel_of_whole_blocks_asks_for_no_more_than_its_block(multiple: int) -> None:
    # rounding up to the block costs nothing there, and neither does not rounding: the smallest multiple is enough
    assert best_multiple(stairs(multiple)) == 1


@pytest.mark.parametrize("block", [4, 8, 16])
def test_slow_widths_between_blocks_are_avoided(block: int) -> None:
    curve = {width: width if width % block == 0 else 3.0 * width for width in range(33, 65)}
    assert best_multiple(curve) == block


@given(st.lists(st.floats(0.1, 10), min_size=32, max_size=32))
def test_the_choice_is_never_much_slower_than_any_other(values: list[float]) -> None:
    curve = dict(zip(range(33, 65), values, strict=True))
    chosen = mean_latency(curve, best_multiple(curve))
    assert chosen <= module.CLOSE * min(mean_latency(curve, m) for m in MULTIPLES)


@pytest.mark.parametrize("widths", [range(33, 60), [*range(33, 50), *range(51, 65)]])
def test_a_curve_with_gaps_is_refused(widths) -> None:
    with pytest.raises(ValueError, match="every width"):
        best_multiple(dict.fromkeys(widths, 1.0))


@pytest.mark.parametrize("kind", list(layers.GRAPHS))
def test_the_layers_run_and_stay_finite(kind: str, tmp_path: Path) -> None:
    for width in (layers.ELEMENTS,) if kind in layers.OPERATORS else (1, 7, 16):
        session = onnxruntime.InferenceSession(str(layers.write(kind, width, tmp_path / "m.onnx")))
        name = session.get_inputs()[0].name
        out = session.run(None, {name: layers.inputs()[name]})[0]
        assert out.shape[1] == width and np.isfinite(out).all()


def test_the_operators_are_what_they_are_called(tmp_path: Path) -> None:
    x = torch.from_numpy(layers.inputs()["elements"])
    scale, shift = (layers._weight(np.random.default_rng(0), name, (layers.ELEMENTS,)) for name in ("scale", "shift"))
    weights = [torch.from_numpy(onnx.numpy_helper.to_array(w).copy()) for w in (scale, shift)]
    once = {
        "gelu": torch.nn.functional.gelu,
        "softmax": lambda v: v.softmax(-1),
        "norm": lambda v: torch.nn.functional.layer_norm(v, (layers.ELEMENTS,), *weights),
    }
    for kind, operator in once.items():
        session = onnxruntime.InferenceSession(str(layers.write(kind, layers.ELEMENTS, tmp_path / f"{kind}.onnx")))
        expected = x
        for _ in range(layers.DEPTH):
            expected = operator(expected)
        found = session.run(None, {"elements": x.numpy()})[0]
        np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-5)


def test_a_calibrated_profile_is_a_profile(tmp_path: Path, capsys, monkeypatch) -> None:
    slow_between = {width: width if width % 4 == 0 else 3.0 * width for width in range(33, 65)}
    found = MeasuredCurves({"conv": slow_between, "gemm": stairs(8)}, {"conv": 4, "gemm": 1}, FACTS, ("conv 40",))
    monkeypatch.setattr(api_calibrate, "calibrate", lambda profile, reporter, host: found)
    target = tmp_path / "mine.toml"
    with pytest.raises(SystemExit) as code:
        main(["calibrate", "--out", str(target), "--json"])
    assert code.value.code == 0
    shown, profile = json.loads(capsys.readouterr().out), load_profile(target)
    assert shown["path"] == str(target) and profile.name == "mine"
    assert (profile.alignment.conv, profile.alignment.gemm) == (4, 1)
    assert profile.calibration is not None and profile.calibration.conv == slow_between
    assert profile.calibration.contended == 1 and "measured" in profile.whys["alignment"]
    original = tomllib.loads(find_profile("local-cpu").read_text())
    kept = tomllib.loads(target.read_text())
    assert all(kept[key] == value for key, value in original.items() if key not in ("name", "comparable", "whys"))
    with pytest.raises(SystemExit) as code:
        main(["calibrate", "--out", str(target)])
    assert code.value.code == 2 and "--force" in capsys.readouterr().err


def test_another_device_is_not_calibrated_here_and_a_file_name_is_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="another device"):
        calibrate(load_profile("raspberry-pi-5"), SilentReporter())
    with pytest.raises(UserError, match=r"no \.toml"):
        refuse_target(tmp_path / "x.json", False, "calibration")
    mine = tmp_path / "mine.toml"
    for text in ("[project]\n", find_profile("raspberry-pi-5").read_text()):
        mine.write_text(text)
        with pytest.raises(UserError, match="mine"):
            refuse_target(mine, True, "calibration")
        assert mine.read_text() == text


def test_the_device_is_really_measured() -> None:
    widths = {"conv": range(1, 33), "gemm": range(1, 33)}
    options = CurveOptions(widths=widths, min_runs=3, min_seconds=0.0)
    found = calibrate(load_profile("local-cpu"), SilentReporter(), options=options)
    for kind, these in widths.items():
        assert list(found.curves[kind]) == list(these) and min(found.curves[kind].values()) > 0
        assert found.multiples[kind] in MULTIPLES
    assert list(found.sizes["conv_few"]) == list(module.FEW) and min(found.sizes["conv_few"].values()) > 0
    assert set(found.ns_per_element) == set(layers.OPERATORS) and min(found.ns_per_element.values()) > 0
