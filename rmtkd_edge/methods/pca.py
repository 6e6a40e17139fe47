"""PCA: as many directions as explain one share of the variance at every site, in place of the Marchenko-Pastur edge.

Closed form and fine-tuning are RMT-KD's, in one cycle, so that the two differ in the ranks and the directions alone.
`compress.ranks` gives both the same widths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.families.base import Batches, Family, NarrowOptions, Spec
from rmtkd_edge.methods.base import Cut, Method
from rmtkd_edge.methods.students import OneCycle

if TYPE_CHECKING:
    from rmtkd_edge.families.model import Model


class Pca(OneCycle):
    """Ranks by explained variance; the share is the one that meets `stop.target_reduction`."""

    name = "pca"
    title = "PCA"
    needs_labels = False

    def settings(self, recipe: Recipe) -> Recipe:
        """Return the recipe with plain variances and the rule of the explained share."""
        fixed = {"rule": "explained-variance", "weighting": "none"}
        return recipe.model_copy(update={"analyse": recipe.analyse.model_copy(update=fixed)})

    def widths(self, spec: Spec, family: Family, recipe: Recipe, multiple: int) -> None:
        """Leave the widths to the spectra."""

    def initial_student(
        self, family: Family, teacher: Model, cut: Cut, warm: Batches, effect: Batches, recipe: Recipe
    ) -> Model:
        """Return the family's closed form of the projected teacher."""
        return family.narrow(teacher, cut.projections, warm, effect, NarrowOptions.of(recipe))


METHOD: Method = Pca()
