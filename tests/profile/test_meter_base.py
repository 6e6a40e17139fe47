"""What meters that sample share: the trapezium rule, failures that end the energy, the thread."""

from __future__ import annotations

import time

import fake_machines as fake
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmtkd_edge.profile.meters.base import Integral, Sampler


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(-5, 500)), min_size=1, max_size=30))
def test_an_integral_is_the_trapezium_rule_and_never_falls(samples: list[tuple[float, float]]) -> None:
    clock, watts = fake.Clock(), [samples[0][1]]
    integral = Integral(lambda: watts[0], clock)
    true, before, joules = 0.0, max(0.0, samples[0][1]), [0.0]
    for seconds, power in samples:
        clock.now += seconds
        watts[0] = power
        true, before = true + seconds * (before + max(0.0, power)) / 2, max(0.0, power)
        joules.append(integral.advance())
    assert joules == sorted(joules)
    assert joules[-1] == pytest.approx(true, rel=1e-6, abs=1e-6)


def test_a_sample_that_fails_ends_the_energy_for_good() -> None:
    answers = [5.0, 5.0, None, 5.0]

    def read() -> float:
        answer = answers.pop(0)
        if answer is None:
            raise OSError("unplugged")
        return answer

    integral = Integral(read, fake.Clock())
    assert integral.advance() == 0.0
    for _ in range(2):  # and does not come back, though the sensor would answer again
        reading = integral.reading("measured-sampled", "x", "y")
        assert (reading.joules, reading.provenance, reading.why) == (None, "unavailable", "unplugged")


def test_the_sampler_samples_until_it_is_stopped() -> None:
    taken: list[float] = []
    integral = Integral(lambda: taken.append(1.0) or 1.0)
    sampler = Sampler([integral], 0.005)
    sampler.start()
    end = time.monotonic() + 10
    while len(taken) < 5 and time.monotonic() < end:
        time.sleep(0.005)
    sampler.stop()
    count = len(taken)
    assert count >= 5
    assert not sampler.is_alive()
    time.sleep(0.02)
    assert len(taken) == count
