"""Numbers as text: what is read back is what was written, to the digits shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmtkd_edge.report import text
from rmtkd_edge.run.records.scores import Scores


def read_back(shown: str) -> float:
    return float(shown.split(text.NBSP)[0].replace(",", "").replace(text.MINUS, "-"))


@given(st.floats(-1e12, 1e12, allow_nan=False).filter(lambda v: v == 0 or abs(v) > 1e-12))
def test_numbers_keep_their_digits(value):
    assert read_back(text.number(value)) == pytest.approx(
        value, rel=6e-3 if abs(value) < 1e-4 or abs(value) >= 1e7 else 6e-4
    )


@given(st.floats(1e-9, 1e6), st.sampled_from([text.joules, text.milliseconds]))
def test_small_figures_never_read_zero(value, write):
    assert read_back(write(value)) != 0


@pytest.mark.parametrize(
    ("factor", "shown"),
    [
        (4.737, "4.74× faster"),
        (3.0, "3.00× faster"),
        (0.5, "2.00× slower"),
        (1.001, "no change"),
        (14.91, "14.9× faster"),
    ],
)
def test_gains_say_their_direction(factor, shown):
    assert text.gain(factor, "faster", "slower") == shown


@given(st.floats(1.01, 1e4))
def test_a_gain_turned_over_is_the_same_loss(factor):
    better, worse = text.gain(factor, "less", "more"), text.gain(1 / factor, "less", "more")
    assert better.split()[0] == worse.split()[0]
    assert (better.split()[1], worse.split()[1]) == ("less", "more")


@pytest.mark.parametrize("factor", [0.0, -1.0, float("inf"), float("nan")])
def test_a_gain_that_cannot_be_is_not_shown(factor):
    assert text.gain(factor, "less", "more") == ""


@pytest.mark.parametrize(("value", "shown"), [(0.003, "+0.3"), (-0.0034, "−0.3"), (0.0001, "±0.0"), (-0.0001, "±0.0")])
def test_points_carry_their_sign(value, shown):
    assert text.points(value).startswith(shown)


@pytest.mark.parametrize(
    ("percent", "shown", "moved", "ends"),
    [
        (True, f"63.9{text.NBSP}%", f"+3.7{text.NBSP}points", f"60.0 to 66.0{text.NBSP}%"),
        (False, "0.639", "+0.037", "0.600 to 0.660"),
    ],
)
def test_only_shares_are_written_in_percent(percent: bool, shown: str, moved: str, ends: str) -> None:
    before, after = (Scores("test", 10, "m", {"m": value}, percent=percent) for value in (0.602, 0.639))
    assert (text.score(after), text.change(after, before)) == (shown, moved)
    assert text.score_interval(after, 0.6, 0.66) == ends
    assert text.change(before, before).lstrip("±+").startswith("0.0")


def test_a_negative_correlation_has_a_minus_sign() -> None:
    low = Scores("test", 10, "matthews_corrcoef", {"matthews_corrcoef": -0.25}, percent=False)
    assert text.score(low) == f"{text.MINUS}0.250"
