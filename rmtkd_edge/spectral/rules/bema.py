"""`bema`: bulk eigenvalue matching analysis (Ke, Ma and Lin, arXiv 2006.00436), for homogeneous noise.

Over the middle 60 % of ranks, sigma2 = sum(q_k lambda_k) / sum(q_k^2), q_k the quantiles of the law at sigma2 = 1:
least squares through the origin of a Q-Q plot. Spikes sit outside the middle. The margin is part of the rule: 90 %
unless given.
"""

from __future__ import annotations

import numpy as np

from rmtkd_edge.spectral.bulk import Bulk
from rmtkd_edge.spectral.law import quantile
from rmtkd_edge.spectral.rules.base import Choice, Options, law_choice

TRIM = 0.2
LEVEL = 0.90


def fit(bulk: Bulk, options: Options) -> Choice:
    """Return the edge of the law matched to the middle of the spectrum."""
    values = bulk.scaled
    m = len(values)
    levels = (np.arange(m) + 0.5) / m
    middle = slice(int(np.floor(TRIM * m)), max(int(np.ceil((1 - TRIM) * m)), int(np.floor(TRIM * m)) + 1))
    expected = quantile(levels[middle], 1.0, bulk.ratio)
    sigma2 = float((expected * values[middle]).sum() / (expected**2).sum())
    level = LEVEL if options.margin_level is None else options.margin_level
    return law_choice(bulk, sigma2, level, None)
