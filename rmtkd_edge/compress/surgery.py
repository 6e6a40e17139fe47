"""What differs between the families when a model is cut: how it is analysed and how the narrow one starts."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rmtkd_edge.families.resnet.sources import plain_fold as conv_plain_fold
from rmtkd_edge.families.resnet.sources import warm_start as conv_warm_start
from rmtkd_edge.families.encoder.module import plain_fold
from rmtkd_edge.families.encoder.module import warm_start
from rmtkd_edge.families.encoder.analyse import SiteSpectrum, analyse_sites
from rmtkd_edge.families.resnet.analyse import analyse_convnet
from rmtkd_edge.compress.data import Data
from rmtkd_edge.compress.parallel import own_rows
from rmtkd_edge.families.encoder.token_weights import token_weights
from rmtkd_edge.families.resnet.module import ConvNet
from rmtkd_edge.families.ops import Model
from rmtkd_edge.families.encoder.spec import Site
from rmtkd_edge.config.recipe import Recipe

WEIGHED = 4  # every fourth row tells what tokens count: three kinds of token need few


def spectra(model: Model, sites: list[Site], data: Data, recipe: Recipe, accelerator: Any) -> list[SiteSpectrum]:
    """Return the spectra of the sites of a folded model."""
    batches = lambda: own_rows(data.calibration(), accelerator)  # noqa: E731
    effect = lambda: own_rows(data.effect(), accelerator)  # noqa: E731
    if isinstance(model, ConvNet):
        select = recipe.compress.conv == "select"
        return analyse_convnet(model, sites, batches, effect, recipe.analyse, recipe.seed, select)
    activated = recipe.compress.ffn == "select"
    return analyse_sites(
        model, sites, batches, effect, recipe.analyse, data.special_ids, recipe.seed, activated=activated
    )


def narrowed(teacher: Model, new: dict[str, Tensor], data: Data, recipe: Recipe, accelerator: Any) -> Any:
    """Return the narrowed folded model for new projections by site, without any training."""
    options = recipe.compress
    batches = own_rows(data.warm(), accelerator)
    if isinstance(teacher, ConvNet):
        if options.warm_start == "least-squares":
            return conv_warm_start.warm_start(teacher, new, batches, ridge=options.ridge, seed=recipe.seed)
        if options.warm_start == "fold":
            return conv_plain_fold.plain_fold(teacher, new)
        return conv_plain_fold.fresh(teacher, new, recipe.seed)
    if options.warm_start == "least-squares":
        few = ({k: rows[::WEIGHED] for k, rows in b.items()} for b in own_rows(data.effect(), accelerator))
        weights = token_weights(teacher, few, data.special_ids, options.token_blend)
        return warm_start.warm_start(teacher, new, batches, ridge=options.ridge, weights=weights)
    if options.warm_start == "fold":
        return plain_fold.plain_fold(teacher, new)
    return plain_fold.fresh(teacher, new, recipe.seed)
