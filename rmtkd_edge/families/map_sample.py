"""Random places of a layer's output maps, and what a convolution reads there: a least-squares fit needs no more."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from rmtkd_edge.families.convolution import ProjectedConv


@dataclass(frozen=True)
class MapSample:
    """Outputs of a layer for a batch of images, at random places.

    Attributes:
        maps: images, rows and columns.
        places: (n,), numbers below their product; the first m of them are as random.
        values: (n, channels).
    """

    maps: tuple[int, int, int]
    places: Tensor
    values: Tensor

    def first(self, count: int) -> MapSample:
        """Return the first places alone."""
        return replace(self, places=self.places[:count], values=self.values[:count])

    def of(self, maps: Tensor) -> Tensor:
        """Return the values (n, k) of other maps (B, k, H, W) at these places."""
        return _values(maps, self.places)

    def patches(self, conv: ProjectedConv, x: Tensor) -> Tensor:
        """Return the patches (n, in h w) of x (B, in, H', W') that a convolution reads for these places."""
        size, (_, rows, columns) = conv.weight.shape[-1], self.maps
        padded = F.pad(x, (conv.padding,) * 4)
        image, y, z = self.places // (rows * columns), self.places // columns % rows, self.places % columns
        offsets = torch.arange(size)
        up = (y * conv.stride)[:, None, None] + offsets[None, :, None]
        across = (z * conv.stride)[:, None, None] + offsets[None, None, :]
        found = padded[image[:, None, None], :, up, across]  # (n, h, w, in)
        return found.permute(0, 3, 1, 2).reshape(len(self.places), -1)


def sampled(maps: Tensor, count: int, seed: int) -> MapSample:
    """Return a sample of maps (B, channels, H, W) at so many places, all of them where there are no more."""
    images, _, rows, columns = maps.shape
    places = torch.randperm(images * rows * columns, generator=torch.Generator().manual_seed(seed))[:count]
    return MapSample((images, rows, columns), places, _values(maps, places))


def of_images(values: Tensor) -> MapSample:
    """Return the sample of one place an image, in order, of values (B, channels) that images have as a whole."""
    return MapSample((len(values), 1, 1), torch.arange(len(values)), values)


def _values(maps: Tensor, places: Tensor) -> Tensor:
    _, _, rows, columns = maps.shape
    return maps[places // (rows * columns), :, places // columns % rows, places % columns]
