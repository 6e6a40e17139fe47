"""The edge rules, one a file: each takes a Bulk and Options and returns a Choice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from rmtkd_edge.spectral.bulk import Bulk
from rmtkd_edge.spectral.rules import bema, explained, paper, parallel, window
from rmtkd_edge.spectral.rules.base import Choice, Options

Rule = Callable[[Bulk, Options], Choice]

RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "window": window.fit,
        "paper": paper.fit,
        "bema": bema.fit,
        "parallel": parallel.fit,
        "explained-variance": explained.fit,
    }
)

__all__ = ["RULES", "Choice", "Options", "Rule"]
