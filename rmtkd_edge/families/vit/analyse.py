"""Analyse a vision transformer: a few tokens of each image at every site.

Of the stream a sample is what a norm gives, before its scale and shift, at one random norm of an image: all that
consumers read, at the same length at every depth. The gradient there is the effect of taking a direction off the stream
at all depths at once. Tokens of an image are alike, so few are taken: the class token, where it is classified, and
random other ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from rmtkd_edge.families.base import AnalyseOptions, Site
from rmtkd_edge.families.sampled import Rows
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.spectral.seeded import row_uniform


@dataclass(frozen=True)
class Tokens:
    """Where the sites of a vision transformer are looked at, as families/sampled.py asks.

    `analyse.sample` is `token`: `tokens_per_sequence` tokens of each image; or `image`: one, of which no other depends.
    """

    model: VisionTransformer
    options: AnalyseOptions

    def taps(self, site: Site) -> list[str]:
        """Return the places of a site: of the stream what every norm gives, of query and key the queries."""
        if site.kind == "stream":
            layers = [f"{layer.name}.{norm}" for layer in self.model.layers for norm in ("norm1", "norm2")]
            return [*layers, "norm"]
        return [site.name[:-1] if site.kind == "qk" else site.name]

    def sample(self, taps: Mapping[str, Tensor], site: Site, index: np.ndarray) -> Rows:
        """Return activations (n, channels) of a few tokens of each image, of the stream at a random depth."""
        names, places = self.taps(site), self._places(index)
        depth = (row_uniform(self.options.seed + 1, index, 1)[:, 0] * len(names)).astype(np.int64)
        found = []
        for number, name in enumerate(names):
            rows = np.flatnonzero(depth == number)
            found.append((taps[name][rows[:, None], places[rows]].flatten(0, 1), index[rows]))
        linear = torch.cat([states for states, _ in found])
        numbers = np.repeat(np.concatenate([rows for _, rows in found]), places.shape[1])
        if not site.selectable:
            return linear, linear, numbers
        return linear, self.model.layers[site.layer or 0].activation(linear), numbers

    def as_rows(self, gradient: Tensor) -> Tensor:
        """Return a gradient (B, T, C) as one row a token."""
        return gradient.flatten(0, 1)

    def _places(self, index: np.ndarray) -> np.ndarray:
        """Return the positions (B, tokens) that are looked at, drawn by the image's own number."""
        spec, analyse = self.model.spec, self.options.analyse
        count = 1 if analyse.sample == "image" else min(analyse.tokens_per_sequence, spec.positions)
        keys = row_uniform(self.options.seed, index, spec.positions)
        if spec.pool == "class":
            keys[:, 0] = 2.0  # above all others
        return np.argsort(-keys, axis=1)[:, :count]
