"""tools/null_models.py: planted directions are found, also in noise of unequal variances."""

from __future__ import annotations

import numpy as np
import pytest
from null_models import gamma_bema_rank, screenot_rank, shared_rank

PLANTED, WIDTH, ROWS = 6, 120, 1200


def planted(seed: int, spread: float) -> np.ndarray:
    """Return rows of noise, whose variances differ by factors of e^spread, with six strong directions of their own."""
    rng = np.random.default_rng(0)
    directions = np.linalg.qr(rng.standard_normal((WIDTH, PLANTED)))[0].T
    scales = np.exp(spread * rng.standard_normal(WIDTH) / 2)
    own = np.random.default_rng(seed)
    return 6 * own.standard_normal((ROWS, PLANTED)) @ directions + own.standard_normal((ROWS, WIDTH)) * scales


def spectrum(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.eigh(rows.T @ rows / len(rows))
    return values[::-1].copy(), vectors.T[::-1].copy()


@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_nulls_of_the_spectrum_find_what_is_planted(spread):
    values, _ = spectrum(planted(1, spread))
    beyond = 2 if spread else 0  # columns of much noise stand out too
    for rank in (screenot_rank(values, ROWS), gamma_bema_rank(values, ROWS, 0)):
        assert PLANTED <= rank <= PLANTED + beyond


def test_screenot_is_the_optimal_threshold_of_square_white_noise():
    values, _ = spectrum(np.random.default_rng(0).standard_normal((600, 600)))
    high = np.concatenate([[(4 / np.sqrt(3)) ** 2 * 1.05], values[1:]])
    low = np.concatenate([[(4 / np.sqrt(3)) ** 2 * 0.95], values[1:]])
    assert screenot_rank(high, 600) == 1 and screenot_rank(low, 600) == 0


def test_halves_share_what_is_planted():
    (_, first), (_, second) = (spectrum(planted(seed, 0.0)) for seed in (1, 2))
    assert abs(shared_rank(first, second) - PLANTED) <= 1
    rng = np.random.default_rng(0)
    unrelated = [np.linalg.qr(rng.standard_normal((WIDTH, WIDTH)))[0] for _ in range(2)]
    assert shared_rank(*unrelated) <= 2
