"""`load`: an exported folder, or a run, ready to predict."""

from __future__ import annotations

from rmtkd_edge.export.load import Loaded, load

__all__ = ["Loaded", "load"]
