"""The run directory: where its files are, how they are written, and what is in them."""

from rmtkd_edge.run.directory import Run

__all__ = ["Run"]
