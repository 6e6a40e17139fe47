"""`paper`: the rule as printed (arXiv 2509.15724, section II), kept for comparison.

sigma2 starts at the quantile of the eigenvalues and is refined by a free local search (Nelder-Mead on log sigma2) of
the l2 distance between a histogram with equal linear bins and the Marchenko-Pastur law. What it does: it is not
monotone in the quantile; as q -> 0 the law falls into one bin, the loss is flat and the search mostly stays where it
starts; with large spikes the linear bins are wider than the bulk, with the same effect; where it does move it may
forget the quantile altogether.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize

from rmtkd_edge.spectral.bulk import Bulk, distance
from rmtkd_edge.spectral.rules.base import Choice, Options, law_choice, order_statistic


def fit(bulk: Bulk, options: Options) -> Choice:
    """Return the edge at the local minimum that a search from the quantile reaches; the note says how far it moved."""
    values = bulk.scaled
    start = float(values[order_statistic(options.quantile, len(values))])
    bin_edges = np.linspace(0.0, values[-1], _bins(values) + 1)[
        1:
    ]  # the first bin starts at 0: it is the lower open one
    histogram = np.append(np.histogram(values, np.append(0.0, bin_edges))[0] / len(values), 0.0)

    def loss(log_s: np.ndarray) -> float:
        return float(distance(histogram, bin_edges, np.exp(np.atleast_1d(log_s)), bulk.ratio)[0])

    x0 = np.log(start)
    found = minimize(loss, [x0], method="Nelder-Mead", options={"initial_simplex": [[x0], [x0 + 0.05]], "maxiter": 200})
    # Outside the spectrum every law has the same loss: no minimum there is worth more than the start.
    sigma2 = float(np.clip(np.exp(found.x[0]), values[0], values[-1]))
    note = f"local search moved sigma2 from {start:.4g} to {sigma2:.4g}" + ("" if found.success else ", not converged")
    return law_choice(bulk, sigma2, options.margin_level, options.quantile, note)


def _bins(values: np.ndarray) -> int:
    """Return the Freedman-Diaconis number of bins, at most 512 (a spike would ask for millions)."""
    first, third = np.quantile(values, [0.25, 0.75])
    width = 2 * (third - first) * len(values) ** (-1 / 3)
    return 10 if width <= 0 else int(np.clip(np.ceil(values[-1] / width), 10, 512))
