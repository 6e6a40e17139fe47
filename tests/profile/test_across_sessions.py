"""Two measurements next to each other: the ratio of what is the same, and the name of whatever is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.errors import UserError
from rmtkd_edge.profile.across_sessions import compare_files, compare_results, rounds_of
from rmtkd_edge.profile.ratios import ratio_of_sessions


def result(ms: float = 2.0, rounds: int = 10, *, seed: int = 0, label: str = "a", **env: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    blocks = [(ms * rng.lognormal(0, 0.05, 20)).tolist() for _ in range(rounds)]
    values = [x for block in blocks for x in block]
    return {
        "label": label,
        "workload": {"batch": 1, "seq": 8},
        "model": {"sha256": "x", "disk_bytes": 10},
        "latency": {"p50": float(np.median(values)), "values": values, "round_sizes": [20] * rounds},
        "memory": {"peak_rss_bytes": 100},
        "energy": {"meter": "m", "kind": "k", "j_per_inf_gross": 1.0},
        "quality": {"verdict": "clean"},
        "env": {"cpu_model": "c", "threads": 1, **env},
    }


def write(path: Path, *results: dict[str, Any], schema: str = "rmtkd-edge/profile@2") -> Path:
    path.write_text(json.dumps({"schema": schema, "results": list(results)}))
    return path


def test_twice_as_slow_is_two_and_clear() -> None:
    found = compare_results(result(2.0), result(4.0, seed=1))
    assert found.latency_ratio == pytest.approx(2.0, rel=0.05)
    assert found.clear
    assert found.memory_ratio == found.disk_ratio == found.energy_ratio == 1.0
    assert found.differences == ()


def test_the_interval_covers_equality_about_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = (np.exp(rng.normal(0, 0.1, (8, 1)) + rng.normal(0, 0.02, (8, 9))).tolist() for _ in range(2))
        _, ends = ratio_of_sessions(a, b, seed)
        assert ends is not None
        covered += ends[0] <= 1.0 <= ends[1]
    assert covered >= 180


@settings(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(1, 12), st.integers(1, 12))
def test_swapping_the_files_inverts_the_ratio(a: float, b: float, m: int, n: int) -> None:
    left, right = [[a, 2 * a]] * m, [[b, 2 * b]] * n
    one, ends = ratio_of_sessions(left, right, 0)
    other, _ = ratio_of_sessions(right, left, 0)
    assert one * other == pytest.approx(1.0)
    assert (ends is None) == (min(m, n) < 5)


def test_both_forms_of_rounds_are_read() -> None:
    mine = result()
    runner = {**mine, "latency": {"p50": 2.0, "rounds_ns": [[x * 1e6 for x in r] for r in rounds_of(mine)]}}
    np.testing.assert_allclose(rounds_of(runner), rounds_of(mine))


def test_what_differs_is_named_and_meters_are_not_divided() -> None:
    other = result(cpu_model="d", limits={"cores": [0]})
    other["energy"]["meter"] = "n"
    other["model"]["sha256"] = "y"
    found = compare_results(result(), other)
    assert found.differences == ("cpu_model: c -> d", "limits: None -> {'cores': [0]}")
    assert found.energy_ratio is None
    assert not found.same_file


def test_files_are_matched_by_model_and_load(tmp_path: Path) -> None:
    a = write(tmp_path / "a.json", result(label="x"), result(label="y"))
    b = write(tmp_path / "b.json", result(label="y"), schema="rmtkd-edge/results@2")
    assert [c.label for c in compare_files(a, b)] == ["y"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "cannot be read"),
        ("{", "not valid JSON"),
        ("[]", "no finished"),
        ('{"schema": "rmtkd-edge/profile@2"}', "no"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, text: str | None, says: str) -> None:
    good, bad = write(tmp_path / "a.json", result()), tmp_path / "bad.json"
    if text is not None:
        bad.write_text(text)
    with pytest.raises(UserError, match=rf"bad\.json.*{says}"):
        compare_files(good, bad)


def test_nothing_in_common_is_said_with_what_there_is(tmp_path: Path) -> None:
    a, b = write(tmp_path / "a.json", result(label="x")), write(tmp_path / "b.json", result(label="y"))
    with pytest.raises(UserError, match="x b1s8"):
        compare_files(a, b)


def test_a_result_that_lacks_a_key_is_the_files_fault(tmp_path: Path) -> None:
    broken = result()
    del broken["quality"]
    a, b = write(tmp_path / "a.json", result()), write(tmp_path / "b.json", broken)
    with pytest.raises(UserError, match="quality"):
        compare_files(a, b)


def test_emulated_times_are_compared_with_nothing(tmp_path: Path) -> None:
    emulated = {**result(), "quality": {"verdict": "emulated"}}
    a, b = write(tmp_path / "a.json", result()), write(tmp_path / "b.json", emulated)
    with pytest.raises(UserError, match=r"b\.json was measured under emulation"):
        compare_files(a, b)
