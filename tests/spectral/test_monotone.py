"""A higher quantile never keeps more directions, whatever the spectrum."""

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rmtkd_edge.spectral import fit_edge

positive = st.floats(1e-12, 1e12, allow_nan=False)
plain = st.lists(positive, min_size=1, max_size=60)
ties = st.lists(st.sampled_from([0.0, 1e-3, 1.0, 1.0000000000000002, 7.0, 1e9]), min_size=1, max_size=60)


@st.composite
def bulk_and_spikes(draw):
    """A Marchenko-Pastur bulk (or several) with zeros, ties and spikes."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    parts = []
    for _ in range(draw(st.integers(1, 3))):
        d, n = draw(st.integers(2, 80)), draw(st.integers(2, 200))
        x = rng.standard_normal((d, n)) * draw(st.floats(1e-3, 1e3))
        parts.append(np.linalg.eigvalsh(x @ x.T / n).clip(0))
    parts.append(10 ** rng.uniform(-6, 8, draw(st.integers(0, 10))))
    values = np.concatenate(parts)
    return list(np.round(values, draw(st.sampled_from([1, 3, 17]))))


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(plain, ties, bulk_and_spikes()),
    st.integers(2, 5000),
    st.sampled_from([0.0, 0.01, 0.05, 0.2, 1.0]),
    st.sampled_from([None, 0.5, 0.99]),
    st.floats(0.05, 1.0),
)
@example([1.0] * 30, 100, 0.05, None, 1.0)
def test_window_is_monotone_in_the_quantile(values, n, delta, level, share):
    if max(values) <= 0:
        values = [*values, 1.0]
    grid = np.unique(np.append(np.linspace(0, 1, 24), [0.05, 0.1, 0.4500000001, 0.55, 0.95]))
    n_eff = max(1.0, share * n)
    fits = [fit_edge(values, n, quantile=float(t), delta=delta, margin_level=level, n_eff=n_eff) for t in grid]
    ranks = [fit.rank for fit in fits]
    assert ranks == sorted(ranks, reverse=True)
    assert [f.sigma2 for f in fits] == sorted(f.sigma2 for f in fits)


@settings(max_examples=30, deadline=None)
@given(bulk_and_spikes(), st.integers(2, 500), st.lists(st.floats(0.01, 1), min_size=2, max_size=6).map(sorted))
def test_more_explained_variance_never_keeps_less(values, n, shares):
    values = [*values, 1.0]
    ranks = [fit_edge(values, n, rule="explained-variance", explained=s).rank for s in shares]
    assert ranks == sorted(ranks)
