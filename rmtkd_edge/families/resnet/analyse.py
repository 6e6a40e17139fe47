"""Analyse a ResNet: one random pixel of each image (or its mean) at every site, after the ReLU.

Neighbouring pixels are strongly correlated, so pixels are subsampled: q = d / n then depends on the number of images,
which is fixed. The edge belongs to what the next convolution reads, after the ReLU; the effect is the logits' gradient
before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.base import AnalyseOptions, Site
from rmtkd_edge.families.resnet.module import ResNet
from rmtkd_edge.families.sampled import Rows
from rmtkd_edge.spectral.seeded import row_uniform


@dataclass(frozen=True)
class Pixels:
    """Where the sites of a net are looked at, as families/sampled.py asks.

    `analyse.sample` is `pixel`: `pixels_per_image` random pixels of each image; or `image`: the mean over pixels, taken
    after the ReLU where one follows.
    """

    net: ResNet
    options: AnalyseOptions

    def taps(self, site: Site) -> list[str]:
        """Return the places of a site: of a stream every sum before a ReLU, of any other its own."""
        if site.kind in ("inner", "factor"):
            return [site.name]
        if site.name == "stem":
            return ["stem.sum"]
        assert site.layer is not None, "a stream belongs to a stage"
        names = [f"{block.name}.sum" for block in self.net.stages[site.layer - 1]]
        return ["stem.sum", *names] if site.layer == 1 and self.net.spec.stem_is_shared else names

    def sample(self, taps: Mapping[str, Tensor], site: Site, index: np.ndarray) -> Rows:
        """Return activations (n, channels) at random places, of a stream at a random depth."""
        names, analyse, seed, relu = self.taps(site), self.options.analyse, self.options.seed, site.selectable
        depth = (row_uniform(seed + 1, index, 1)[:, 0] * len(names)).astype(np.int64)
        if analyse.sample == "image":
            pooled = torch.stack([(F.relu(taps[name]) if relu else taps[name]).mean((2, 3)) for name in names])
            mean = pooled[depth, np.arange(len(index))]
            return mean, mean, index
        count = analyse.pixels_per_image
        drawn = row_uniform(seed, index, 2 * count)
        parts = []
        for row in range(len(index)):
            place = taps[names[depth[row]]][row]
            y = (drawn[row, :count] * place.shape[1]).astype(np.int64)
            x = (drawn[row, count:] * place.shape[2]).astype(np.int64)
            parts.append(place[:, y, x].T)
        linear = torch.cat(parts)
        return linear, F.relu(linear) if relu else linear, np.repeat(index, count)

    def as_rows(self, gradient: Tensor) -> Tensor:
        """Return a gradient (B, C, H, W) as one row a pixel."""
        return gradient.permute(0, 2, 3, 1).reshape(-1, gradient.shape[1])
