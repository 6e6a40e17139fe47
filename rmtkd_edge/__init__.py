"""Compress encoders by random-matrix-guided self-distillation, export them to ONNX, measure them on devices."""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"
__all__ = ["__version__", "load"]


def load(folder: Any, **options: Any) -> Any:
    """Return the classifier of an exported folder or a run, on onnxruntime or torch; see export.load.load."""
    from rmtkd_edge.export.load import load as load_exported  # torch and onnxruntime only when they are needed

    return load_exported(folder, **options)
