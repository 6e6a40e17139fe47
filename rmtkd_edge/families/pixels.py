"""Spectra of channels over pixels: one random pixel of each image (or its mean) at every site.

Neighbouring pixels are strongly correlated, so pixels are subsampled: q = d / n then depends on the number of images,
which is fixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.families.base import AnalyseOptions, Site
from rmtkd_edge.families.sampled import Rows
from rmtkd_edge.spectral.seeded import row_uniform


@dataclass(frozen=True)
class Pixels:
    """Samples of sites whose taps see (B, C, H, W), as families/sampled.py asks; one that sees (B, C) has one pixel.

    `analyse.sample` is `pixel`: `pixels_per_image` random pixels of each image; or `image`: the mean over pixels, taken
    of what the next layer reads.
    """

    options: AnalyseOptions

    def taps(self, site: Site) -> list[str]:
        """Return the places of a site."""
        raise NotImplementedError

    def read(self, site: Site, tap: str, activation: Tensor) -> Tensor:
        """Return what the next layer reads of what a tap of a site sees: the same where no function follows."""
        raise NotImplementedError

    def sample(self, taps: Mapping[str, Tensor], site: Site, index: np.ndarray) -> Rows:
        """Return activations (n, channels) at random places, of several taps at one drawn for every image."""
        names, analyse, seed = self.taps(site), self.options.analyse, self.options.seed
        drawn_tap = (row_uniform(seed + 1, index, 1)[:, 0] * len(names)).astype(np.int64)
        seen = {name: taps[name] if taps[name].ndim == 4 else taps[name][..., None, None] for name in names}
        if analyse.sample == "image":
            pooled = torch.stack([self.read(site, name, seen[name]).mean((2, 3)) for name in names])
            mean = pooled[drawn_tap, np.arange(len(index))]
            return mean, mean, index
        count = analyse.pixels_per_image
        drawn = row_uniform(seed, index, 2 * count)
        linear, activated = [], []
        for row in range(len(index)):
            name = names[drawn_tap[row]]
            place = seen[name][row]
            y = (drawn[row, :count] * place.shape[1]).astype(np.int64)
            x = (drawn[row, count:] * place.shape[2]).astype(np.int64)
            linear.append(place[:, y, x].T)
            activated.append(self.read(site, name, linear[-1]))
        return torch.cat(linear), torch.cat(activated), np.repeat(index, count)

    def as_rows(self, gradient: Tensor) -> Tensor:
        """Return a gradient (B, C, H, W) as one row a pixel, one (B, C) as it is."""
        return gradient if gradient.ndim == 2 else gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])
