"""Families, tasks, methods and meters by name: what lies in the package's own folders, and what entry points add."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from rmtkd_edge.errors import RecipeError

ATTRIBUTES = {"families": "FAMILY", "tasks": "TASK", "methods": "METHOD"}
NOT_PLUGINS = {
    *(
        "base",
        "classification",
        "contrast",
        "dataset",
        "embedding_metrics",
        "entity_metrics",
        "label_set_metrics",
        "labelled",
        "matching",
    ),
    *("metrics", "number_metrics", "reading", "scoring", "students", "subsets", "texts"),
}


@cache
def names(group: str) -> tuple[str, ...]:
    """Return the names of everything that a group (`families`, `tasks`, `methods`) holds, sorted."""
    return tuple(sorted({*_own(group), *_entry_points(group)}))


@cache
def find(group: str, name: str) -> Any:
    """Return the family, task or method of a name.

    A module's underscores are dashes in its name: `plain_kd.py` is `plain-kd`. What ships comes before an entry point
    of the same name.

    Raises:
        RecipeError: there is none of that name, or an entry point does not load.
    """
    attribute = ATTRIBUTES[group]
    own = _own(group)
    if name in own:
        return getattr(importlib.import_module(own[name]), attribute)
    point = _entry_points(group).get(name)
    if point is None:
        near = difflib.get_close_matches(name, names(group), n=1, cutoff=0.4)
        guess = f"; did you mean `{near[0]}`?" if near else ""
        raise RecipeError(f"there is no `{name}` among the {group}{guess}", f"known: {', '.join(names(group))}")
    try:
        loaded = point.load()
    except Exception as err:  # a third party's module may fail in any way
        raise RecipeError(f"the entry point {point.value} of `{name}` does not load: {err}", "update it") from err
    return getattr(loaded, attribute, loaded)


def _own(group: str) -> dict[str, str]:
    package = importlib.import_module(f"rmtkd_edge.{group}")
    modules = pkgutil.iter_modules(package.__path__)
    found = (m.name for m in modules if m.ispkg or group != "families")  # a family is a folder
    return {name.replace("_", "-"): f"{package.__name__}.{name}" for name in found if name not in NOT_PLUGINS}


@cache
def _entry_points(group: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"rmtkd_edge.{group}")}
