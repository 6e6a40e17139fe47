"""Recipes as files: those that ship and your own, overrides of their keys, and every fault at once."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.json_schema import GenerateJsonSchema

from rmtkd_edge.config.recipe import Recipe
from rmtkd_edge.config.renamed import renamed
from rmtkd_edge.config.settings import describe_faults, did_you_mean, shipped_folder
from rmtkd_edge.config.toml import read_toml
from rmtkd_edge.errors import RecipeError


def recipes_folder() -> Path:
    """Return the folder of the recipes that ship: inside the wheel, or models/ of a checkout."""
    return shipped_folder("models")


def list_recipes() -> list[str]:
    """Return the names of the recipes that ship, sorted."""
    return sorted(path.stem for path in recipes_folder().glob("*.toml"))


def find_recipe(name: str) -> Path:
    """Return the file of a recipe given by path, or by the name of one that ships (`demo`, `models/demo.toml`).

    Raises RecipeError where there is none: a path that is not there never becomes a recipe that ships.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = recipes_folder() / f"{path.stem}.toml"
    if shipped.is_file() and name in (path.stem, path.name, f"models/{path.name}") and path.suffix in ("", ".toml"):
        return shipped
    names = list_recipes()
    raise RecipeError(
        f"there is no recipe `{name}`{did_you_mean(path.stem, names)}", f"recipes that ship: {', '.join(names)}"
    )


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe by path or name and apply `key=value` overrides.

    Raises RecipeError listing all faults at once, each with its key and a near match where one exists.
    """
    path = find_recipe(name)
    data = read_toml(path)
    for item in overrides or []:
        apply_override(data, item)
    return parse_recipe(data, str(path))


def parse_recipe(data: dict[str, Any], where: str) -> Recipe:
    """Return the recipe that `data` describes; raise RecipeError with all faults of it."""
    if old := renamed(data):
        raise RecipeError(f"{where}:\n" + "\n".join(old), "rmtkd-edge recipes --keys lists every key")
    try:
        return Recipe.model_validate(data)
    except ValidationError as err:
        raise RecipeError(
            f"{where}:\n" + describe_faults(err, Recipe), "rmtkd-edge recipes --keys lists every key"
        ) from err


def apply_override(data: dict[str, Any], item: str) -> None:
    """Set one `a.b=value` in nested tables; the value is read as TOML, else as a plain string."""
    key, sep, text = item.partition("=")
    if not sep or not key.strip():
        raise RecipeError(f"--set {item!r} is not of the form key=value", "for example --set distil.alpha=0.7")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    except RecursionError as err:
        raise RecipeError(f"the value of --set {key.strip()} is nested too deep", "give it fewer brackets") from err
    *tables, last = key.strip().split(".")
    for name in tables:
        data = data.setdefault(name, {})
        if not isinstance(data, dict):
            raise RecipeError(f"--set {item!r}: `{name}` is a value, not a table")
    data[last] = value


def schema_of_recipes() -> dict[str, Any]:
    """Return the JSON schema of recipes, by which editors complete keys and mark what is wrong."""
    return {"$schema": GenerateJsonSchema.schema_dialect, **Recipe.model_json_schema()}


def describe_keys(model: type[BaseModel] = Recipe, prefix: str = "") -> list[dict[str, str]]:
    """Return every recipe key with its default and meaning, in the order of the file."""
    rows = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            rows += describe_keys(inner, f"{prefix}{name}.")
        else:
            default = "(required)" if field.is_required() else repr(field.get_default(call_default_factory=True))
            rows.append({"key": prefix + name, "default": default, "meaning": field.description or ""})
    return rows
