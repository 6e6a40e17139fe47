"""compress/cycles/NNN/plan.json and cycle.json: what one cycle cuts, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rmtkd_edge.run.records.base import Document
from rmtkd_edge.run.records.scores import Scores


@dataclass(frozen=True)
class SiteRecord:
    """One site of a cycle: its widths (of a head, where there are several) and the edge of its spectrum.

    Attributes:
        rank: directions above the edge, mean over heads.
        aligned_rank: `rank` rounded up to the device's multiple.
        quantile: where the noise variance starts; None for rules without one.
        q: d / n, from `n` sampled columns worth `n_eff` independent ones.
        note: what the fit says of itself, empty where it has nothing to say.
    """

    name: str
    kind: str
    heads: int
    width_before: int
    width_after: int
    rule: str
    quantile: float | None
    weighting: str
    lambda_plus: float
    lambda_minus: float
    sigma2: float
    q: float
    n: int
    n_eff: float
    rank: int
    aligned_rank: int
    note: str


@dataclass(frozen=True)
class WidthRecord:
    """One site of a cycle whose method chose the width without a spectrum."""

    name: str
    kind: str
    heads: int
    width_before: int
    width_after: int


@dataclass(frozen=True)
class JobRecord:
    """The sites that a cycle was asked to cut, and the quantile that it started from.

    Attributes:
        target: of a size family, the share of the parameters that was aimed at.
        layers: how many stay, of a cycle that leaves whole layers out.
    """

    round: int
    sites: tuple[str, ...]
    quantile: float
    retry: bool
    target: float | None = None
    layers: int | None = None


@dataclass(frozen=True)
class PlanRecord(Document):
    """A cycle whose closed form is there and whose fine-tuning is not finished.

    Attributes:
        layers: numbers of the layers that stay, None where all do.
    """

    SCHEMA: ClassVar[str] = "rmtkd-edge/cycle-plan@2"

    job: JobRecord
    sites: tuple[SiteRecord | WidthRecord, ...]
    quantile: float
    closed_form: Scores
    seconds: dict[str, float]
    layers: tuple[int, ...] | None = None


@dataclass(frozen=True)
class CycleRecord(Document):
    """A finished cycle; scores are of the validation split, `seconds` by step.

    Attributes:
        target: of a size family, the share of the parameters that was aimed at.
    """

    SCHEMA: ClassVar[str] = "rmtkd-edge/cycle@2"

    index: int
    round: int
    retry: bool
    sites: tuple[SiteRecord | WidthRecord, ...]
    quantile: float
    parameters_before: int
    parameters_after: int
    before: Scores
    closed_form: Scores
    after: Scores
    chosen: Literal["closed_form", "fine_tuned"]
    accepted: bool
    reason: str
    steps: int
    seconds: dict[str, float]
    target: float | None = None

    @property
    def analysed(self) -> tuple[SiteRecord, ...]:
        """Return the sites whose width their spectra gave."""
        return tuple(site for site in self.sites if isinstance(site, SiteRecord))
