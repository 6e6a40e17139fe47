"""`parallel`: parallel analysis against spectra of sign-flipped data, deflated (after Dobriban and Owen 2019).

For noise of unequal variances, or correlated within blocks, no closed law fits; the flips keep both and destroy what
features share. A strong signal leaks into the null through the features' variances and would hide weaker ones, so the
null is shrunk with the mean eigenvalue of the directions not yet accepted, one at a time. That is their deflation done
on spectra alone, and too little where a very strong signal sits on few features: weaker ones stay hidden (the rank is
too low, not too high).
"""

from __future__ import annotations

import numpy as np

from rmtkd_edge.errors import UserError
from rmtkd_edge.spectral.bulk import Bulk
from rmtkd_edge.spectral.rules.base import Choice, Options

LEVEL = 0.95


def fit(bulk: Bulk, options: Options) -> Choice:
    """Return the edge at which no further direction beats the largest null eigenvalue; level 0.95 unless given.

    Raises UserError without null eigenvalues (R, d) or with ones of another width.
    """
    null = options.null_eigenvalues
    if null is None:
        raise UserError(
            "The edge rule 'parallel' needs the spectra of sign-flipped data.",
            'pass null_eigenvalues, the spectra of sign-flipped rows, or choose rule = "bema"',
        )
    null = np.atleast_2d(np.asarray(null, dtype=np.float64))
    width = len(bulk.values) + bulk.null_directions
    if null.ndim != 2 or null.shape[1] != width or len(null) == 0 or not np.isfinite(null).all():
        raise UserError(f"null_eigenvalues must be finite and of shape (draws, {width}), its shape is {null.shape}.")
    level = LEVEL if options.margin_level is None else options.margin_level
    top = float(np.quantile(null.max(axis=1), level))
    values = bulk.values
    # Mean eigenvalue from direction k on, relative to all. The energy alone would shrink with the width as well,
    # and the null would fall below the noise that is left.
    left = np.cumsum(values[::-1])[::-1] / np.arange(len(values), 0, -1) / values.mean()
    beats = values > top * left
    rank = len(values) if beats.all() else int(np.argmin(beats))
    noise = values[rank:]
    sigma2 = float(noise.mean()) if len(noise) else 0.0
    shrink = float(left[min(rank, len(values) - 1)])
    note = (
        f"largest null eigenvalue {top:.4g} at level {level:g} over {len(null)} draws, deflated to {top * shrink:.4g}"
    )
    return Choice(sigma2, top * shrink, float(null.min()) * shrink, rank=rank, note=note)
