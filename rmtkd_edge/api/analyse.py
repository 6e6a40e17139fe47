"""`analyse`: the spectra of a model's activations, and how many directions lie above the Marchenko-Pastur edge."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rmtkd_edge.api.batches import Loader, first_rows, numbered, settings, task_of
from rmtkd_edge.config.recipe import Analyse, Compress, Recipe
from rmtkd_edge.errors import RecipeError
from rmtkd_edge.families.base import AnalyseOptions, Spec, family_of, list_sites

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from rmtkd_edge.compress.ranks.edge import SiteRank
    from rmtkd_edge.families.model import Model
    from rmtkd_edge.families.spectrum import SiteSpectrum


@dataclass(frozen=True)
class Spectra:
    """The spectra of a model's sites, shallow to deep, and how they were taken."""

    spec: Spec
    sites: tuple[SiteSpectrum, ...]
    settings: Recipe

    def ranks(self, quantile: float | None = None, align: int = 1) -> list[SiteRank]:
        """Return the rank that the edge gives every site.

        Args:
            quantile: where the noise variance starts; higher cuts more. The options' when left out.
            align: widths are rounded up to a multiple of it.
        """
        from rmtkd_edge.compress.ranks.edge import choose_ranks

        at = self.settings.analyse.quantile if quantile is None else quantile
        return choose_ranks(self.sites, self.settings, at, align)

    def plot(self, quantile: float | None = None) -> Figure:
        """Return a matplotlib figure: per site the eigenvalues, the fitted law, and the edge."""
        from rmtkd_edge.report.spectra import Analysed, spectra_figure

        found = []
        for rank in self.ranks(quantile):
            record = rank.record(self.settings.analyse.weighting)
            if record.lambda_plus:
                values = sorted(rank.spectrum.eigenvalues.ravel().tolist(), reverse=True)
                found.append(Analysed(record, tuple(values)))
        return spectra_figure(found)

    def __repr__(self) -> str:
        found = (f"{r.spectrum.site.name} {r.rank} of {r.spectrum.site.width}" for r in self.ranks())
        return f"Spectra(directions above the edge: {', '.join(found)})"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td>{html.escape(r.spectrum.site.name)}</td><td>{r.spectrum.site.width}</td><td>{r.rank}</td>"
            f"<td>{r.fits[0].lambda_plus:.3g}</td><td>{r.fits[0].q:.3g}</td><td>{r.spectrum.n}</td></tr>"
            for r in self.ranks()
        )
        head = "".join(f"<th>{name}</th>" for name in ("site", "width", "above the edge", "λ₊", "q", "samples"))
        return f"<table><tr>{head}</tr>{rows}</table>"


def analyse(
    model: Model,
    loader: Loader,
    *,
    sites: str | Sequence[str] | None = None,
    options: Analyse | None = None,
    compress: Compress | None = None,
    task: str | None = None,
    seed: int = 0,
) -> Spectra:
    """Stream a model's activations over calibration batches and return the spectrum of every site.

    Args:
        model: of `from_transformers` or `from_torchvision`.
        loader: batches as dictionaries of tensors under the model's input names; some thousand rows are enough.
        sites: names or kinds of sites; the family's usual ones when left out.
        options: edge rule, sampling, weighting: the recipe's section `analyse`.
        compress: whether channels are selected or projected, and explicit widths that `plan` keeps whatever its budget
            (`Compress(ranks={"ffn": 256})`): the recipe's section `compress`.
        task: kind of the task, whose outputs weight the spectra; the first of the model's modality when left out.
        seed: of the sampled tokens or pixels.

    Raises:
        DataError: a batch lacks what the model reads, or activations are not finite.
        RecipeError: there is no such site, in `sites` or in `compress`.
        UserError: the model is none of this package, or `task` is not for it.
    """
    from rmtkd_edge.compress.ranks.edge import check_site_names

    recipe = settings(analyse=options, compress=compress, seed=seed)
    sites = [sites] if isinstance(sites, str) else sites
    how, family, kind = recipe.analyse, family_of(model), task_of(model, task)
    folded = family.fold(model).eval()
    check_site_names(folded.spec, "sites", sites or ())
    for key in ("sites", "ranks", "mode"):
        check_site_names(folded.spec, f"compress.{key}", getattr(recipe.compress, key) or ())
    names = family.sites_to_cut(folded.spec, recipe.compress)
    chosen = [s for s in list_sites(folded.spec) if (s.name in names if sites is None else {s.name, s.kind} & {*sites})]
    if not chosen:
        known = dict.fromkeys(site.kind for site in list_sites(folded.spec))
        raise RecipeError("no site is left to analyse", f"the model's kinds of sites: {', '.join(known)}")
    batches = numbered(loader, folded)
    spectra = family.analyse(
        folded,
        chosen,
        batches,
        first_rows(batches, how.weighting_rows),
        AnalyseOptions(
            how, recipe.compress.channels == "select", seed, lambda out, batch: kind.probe(out, dict(batch), seed)
        ),
    )
    return Spectra(folded.spec, tuple(spectra), recipe)
