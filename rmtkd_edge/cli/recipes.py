"""`rmtkd-edge recipes`."""

from __future__ import annotations

from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import show, show_json


def command(
    keys: Annotated[bool, typer.Option("--keys", help="List every recipe key with its default and meaning.")] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the JSON schema of recipes, for editors.")] = False,
    as_json: JsonOption = False,
) -> None:
    """List the recipes that ship, or every recipe key; or print the JSON schema of recipes."""
    from rmtkd_edge.cli.tables import table_of
    from rmtkd_edge.config.recipes import describe_keys, list_recipes, load_recipe, schema_of_recipes

    if schema:
        show_json(schema_of_recipes())
        return
    rows = describe_keys() if keys else [{"recipe": name, "title": load_recipe(name).title} for name in list_recipes()]
    if as_json:
        show_json(rows)
    else:
        show(table_of(list(rows[0]), [list(row.values()) for row in rows]))
