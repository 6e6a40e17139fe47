"""`load`: an exported folder, or a run, ready to answer."""

from __future__ import annotations

from rmtkd_edge.export.load import load

__all__ = ["load"]
