"""Structured magnitude pruning: at every site the channels stay whose weights have the largest group norm.

The group of a channel is every weight that it goes through: rows of what makes it, columns of what reads it, scales of
norms (Fang et al. 2023, DepGraph, arXiv 2301.12900; Torch-Pruning's GroupMagnitudeImportance with p = 2). Which those
are is read off the shapes of the family's model with that one site narrower.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import Batches, Family, NarrowOptions, Spec, list_sites
from rmtkd_edge.methods.base import Cut, Method, Widths
from rmtkd_edge.methods.students import Scaled

if TYPE_CHECKING:
    from torch import Tensor

    from rmtkd_edge.families.model import Model


class Magnitude(Scaled):
    """Channels by group norm, every width scaled by one factor; the weights that stay are not changed.

    `compress.warm_start = "least-squares"` fits them to the teacher instead.
    """

    name = "magnitude"
    title = "magnitude pruning"
    needs_labels = False

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> Widths:
        """Return the widths of `Scaled`; raise RecipeError for sites whose channels are not there yet."""
        names = family.sites_to_cut(spec, recipe.compress)
        if latent := [site.name for site in list_sites(spec) if site.latent and site.name in names]:
            raise RecipeError(
                f"magnitude keeps channels, and {', '.join(latent[:3])} has none until it is cut",
                f"--set 'compress.sites={json.dumps(family.default_sites)}' --set 'compress.mode={{}}'",
            )
        return super().widths(spec, family, recipe, multiple)

    def initial_student(
        self, family: Family, teacher: Model, cut: Cut, warm: Batches, effect: Batches, recipe: Recipe
    ) -> Model:
        """Return the teacher without the channels of the smallest group norms."""
        options = recipe.compress.model_copy(update={"warm_start": recipe.compress.warm_start or "fold"})
        kept = largest_channels(family, teacher, cut.widths)
        return family.narrow(teacher, kept, warm, effect, replace(NarrowOptions.of(recipe), compress=options))


def largest_channels(family: Family, model: Model, widths: Mapping[str, int]) -> dict[str, Tensor]:
    """Return, for every site that gets narrower, rows of the identity (k, d) for its channels of largest norm.

    Of a site with heads every head keeps as many, and the matrix is block-diagonal.
    """
    import torch

    found = {}
    for site in list_sites(model.spec):
        width = widths.get(site.name, site.width)
        if width < site.width:
            norms = group_norms(family, model, site.name).view(site.heads, -1)
            order = norms.argsort(dim=1, descending=True, stable=True)
            eye = torch.eye(site.width, dtype=torch.float64)
            found[site.name] = torch.block_diag(*(eye[kept[:width].sort()[0]] for kept in order))
    return found


def group_norms(family: Family, model: Model, name: str) -> Tensor:
    """Return the sum of squares of all weights (no biases) that go with each channel of a site, head after head."""
    import torch

    (site,) = (site for site in list_sites(model.spec) if site.name == name)
    with torch.device("meta"):  # shapes alone
        narrow = family.build(model.spec.with_ranks({name: site.width - 1}))
    shapes = {key: value.shape for key, value in narrow.named_parameters()}
    total = torch.zeros(site.heads * site.width, dtype=torch.float64)
    for key, value in model.named_parameters():
        if key.endswith("bias") or key not in shapes:
            continue
        for axis, (now, then) in enumerate(zip(value.shape, shapes[key], strict=True)):
            if now != then:
                total += value.detach().double().cpu().square().movedim(axis, 0).reshape(now, -1).sum(1)
    return total


METHOD: Method = Magnitude()
