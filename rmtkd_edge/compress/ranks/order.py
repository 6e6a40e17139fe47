"""Which sites to cut first under a latency budget: those whose answers change least for each millisecond saved.

Every site is cut alone, to the rank that the edge gives it, in closed form; what it loses is how far the logits move
from those of the uncut model (KL divergence on calibration rows: the accuracy of a few hundred rows is too coarse),
what it saves is read off the device's curves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from rmtkd_edge.compress import cycle as steps
from rmtkd_edge.compress.cycle import State
from rmtkd_edge.compress.data import Data
from rmtkd_edge.families.encoder.cost import Predict
from rmtkd_edge.compress.parallel import agreed, own_rows
from rmtkd_edge.compress.ranks.edge import choose_ranks
from rmtkd_edge.families import ops
from rmtkd_edge.families.encoder.spec import list_sites
from rmtkd_edge.config.recipe import Recipe

LEAST_SAVED_MS = 1e-9  # ms; a site that saves less comes last, whatever it loses


@dataclass(frozen=True)
class Price:
    """What cutting one site alone loses, as mean KL divergence of the answers, and what it saves in ms."""

    site: str
    width_after: int
    lost_kl: float
    saved_ms: float

    @property
    def per_ms(self) -> float:
        """Return what a millisecond costs here, infinite where none is saved."""
        return self.lost_kl / self.saved_ms if self.saved_ms > LEAST_SAVED_MS else float("inf")

    def facts(self) -> dict[str, Any]:
        """Return the price for JSON; a site that saves nothing has no `kl_per_ms`."""
        per_ms = self.per_ms if self.saved_ms > LEAST_SAVED_MS else None
        return {"site": self.site, "width_after": self.width_after, "lost_kl": self.lost_kl,
                "saved_ms": self.saved_ms, "kl_per_ms": per_ms}  # fmt: skip


def prices(
    state: State, names: list[str], data: Data, recipe: Recipe, accelerator: Any, multiple: int, predict: Predict,
    report: Callable[..., None],
) -> list[Price]:  # fmt: skip
    """Return the price of every site of `names`, cheapest first; ties keep the order of `names`."""
    model = state.folded
    sites = [site for site in list_sites(model.spec) if site.name in names]
    spectra = steps.spectra_of(state, sites, data, recipe, accelerator)
    chosen = choose_ranks(spectra, recipe.analyse, recipe.compress, recipe.analyse.quantile, multiple)
    before, now = log_answers(model.to(accelerator.device), data, accelerator), predict(model.spec)
    found = []
    for choice in chosen:
        name = choice.spectrum.site.name
        if choice.width_after >= choice.spectrum.site.width:
            found.append(Price(name, choice.width_after, 0.0, 0.0))
            continue
        student, _ = steps.closed_form(state, [choice], data, recipe, accelerator)
        after = log_answers(student, data, accelerator)
        lost = kl_divergence(before, after, accelerator)
        found.append(Price(name, choice.width_after, lost, now - predict(student.spec)))
        report("note", text=f"{name}: {found[-1].lost_kl:.2e} nats lost, {found[-1].saved_ms:.3f} ms saved")
    return sorted(found, key=lambda price: price.per_ms)


def kl_divergence(before: torch.Tensor, after: torch.Tensor, accelerator: Any) -> float:
    """Return the mean over rows, in nats and agreed on by all processes, of KL(before || after) of log-probabilities.

    Roundoff below zero counts as zero; a model whose answers are not finite is infinitely far.
    """
    mean = float((before.exp() * (before - after)).sum(1).mean())
    return agreed(max(mean, 0.0) if math.isfinite(mean) else math.inf, accelerator)


@torch.no_grad()
def log_answers(model: Any, data: Data, accelerator: Any) -> torch.Tensor:
    """Return the log-probabilities (rows, labels), float64, of the rows that effects are measured on."""
    model.eval()
    rows = []
    for batch in own_rows(data.effect(), accelerator):
        rows.append(torch.log_softmax(ops.logits(model, batch, model.inputs).double(), 1).cpu())
    return torch.cat(rows)
