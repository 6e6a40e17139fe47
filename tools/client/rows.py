"""Held-out rows of a run as a client gets them: texts, pairs of texts, or pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import PREPROCESSING, read_recipe
from rmtkd_edge.tasks.base import find_task
from rmtkd_edge.tasks.reading.splits import share_out
from rmtkd_edge.tasks.reading.tables import load_tables

HELD_OUT = ("test", "validation")  # the first that the data have


def rows_of_run(run: Run, data: Path | None, count: int, work: Path) -> tuple[str, list[Any]]:
    """Return the split and its first rows: texts, pairs, or paths of pictures that are written to `work`.

    Args:
        data: where they are read from; None: where compress read them.
    """
    recipe, known = read_recipe(run), run.stage("compress").get("data")
    found = data or (Path(known) if known else None)
    return READERS[find_task(recipe.task.kind).modality](run, recipe, found, count, work)


def _texts(run: Run, recipe: Recipe, data: Path | None, count: int, work: Path) -> tuple[str, list[Any]]:
    task: Any = find_task(recipe.task.kind)  # one on texts
    source = load_tables(recipe.task, data)
    names = task.names(recipe.task, source.parts["train"])
    labels = task.shared_labels(names, task.values(recipe.task, source.parts["train"], "train", names))
    parts = share_out(recipe.task, source, recipe.seed, labels).parts
    role = next(name for name in HELD_OUT if name in parts)
    rows = parts[role].select(list(recipe.task.text)).slice(0, count).to_pylist()
    return role, [next(iter(row.values())) if len(row) == 1 else tuple(row.values()) for row in rows]


def _pictures(run: Run, recipe: Recipe, data: Path | None, count: int, work: Path) -> tuple[str, list[Any]]:
    dataset = find_task(recipe.task.kind).load(recipe, data, kept=run.path_of(PREPROCESSING))
    role = next(name for name in HELD_OUT if name in dataset.splits)
    paths = []
    for i, image in enumerate(dataset.splits[role].images[:count]):
        paths.append(str(work / f"picture-{i}.png"))
        Image.fromarray(image).save(paths[-1])
    return role, paths


READERS: dict[str, Callable[[Run, Recipe, Path | None, int, Path], tuple[str, list[Any]]]] = {
    "text": _texts,
    "image": _pictures,
}
