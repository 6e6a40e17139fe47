"""From a folded vision transformer and calibration images to narrowed ones, for as many cuts as are asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor

from rmtkd_edge.families.base import Batches, NarrowOptions
from rmtkd_edge.families.vit.fold import plain_fold
from rmtkd_edge.families.vit.module import VisionTransformer
from rmtkd_edge.families.vit.positions import position_weights
from rmtkd_edge.families.vit.warm_start import warm_start

WEIGHED = 4  # every fourth row of the effect batches tells what positions count


def narrower(
    model: VisionTransformer, batches: Batches, effect: Batches, options: NarrowOptions
) -> Callable[[Mapping[str, Tensor]], VisionTransformer]:
    """Return what narrows a folded model by its projections: by least squares, or by algebra alone."""
    if options.compress.warm_start == "fold":
        return partial(plain_fold, model)
    few = ({name: rows[::WEIGHED] for name, rows in batch.items()} for batch in effect())
    weights = position_weights(model, few, options.compress.token_blend)
    device = next(model.parameters()).device
    images = [batch["pixel_values"].to(device) for batch in batches()]
    return lambda projections: warm_start(
        model, projections, images, weights, ridge=options.compress.ridge, seed=options.seed
    )
