"""compress/prices.json: what cutting each site alone loses and saves, cheapest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from rmtkd_edge.run.records.base import Document


@dataclass(frozen=True)
class SitePrice:
    """The price of one site.

    Attributes:
        lost_kl: mean divergence from the uncut model, the task's own; None where the outputs are not finite.
        kl_per_ms: None where no time is saved.
    """

    site: str
    width_after: int
    lost_kl: float | None
    saved_ms: float
    kl_per_ms: float | None


@dataclass(frozen=True)
class PricesRecord(Document):
    """The prices of all sites, in the order in which they are cut."""

    SCHEMA: ClassVar[str] = "rmtkd-edge/prices@2"

    sites: tuple[SitePrice, ...]
