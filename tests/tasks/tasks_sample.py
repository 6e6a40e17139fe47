"""Recipes for tasks alone, without a family."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from rmtkd_edge.config.recipe import Analyse, Compress
from rmtkd_edge.config.task import Task


def recipe_of(task: Task, tokenizer: str = "scratch", seed: int = 0, **sections: Any) -> Any:
    """Return what a task reads of a recipe; `tokenizer` is the model's source too."""
    parts: dict[str, Any] = {"analyse": Analyse(), "compress": Compress()} | sections
    return SimpleNamespace(seed=seed, task=task, model=SimpleNamespace(source=tokenizer, tokenizer=None), **parts)
