"""`rmtkd-edge push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rmtkd_edge.cli.arguments import JsonOption
from rmtkd_edge.cli.output import say, show, show_json


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or an exported folder.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="OWNER/NAME on the Hugging Face hub.")],
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    pull_request: Annotated[bool, typer.Option("--pull-request", help="Propose the files only.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go, and send nothing.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Send an exported folder with its model card to the Hugging Face hub."""
    from rmtkd_edge.api.push import PushOptions, push
    from rmtkd_edge.cli.tables import table_of

    options = PushOptions(run=run, repo=repo, private=private, pull_request=pull_request, dry_run=dry_run)
    found = push(options)
    if as_json:
        show_json({"repo": found.repo, "url": found.url or None, "files": found.files, "notes": list(found.notes)})
        return
    if dry_run:
        say(found.card)
    show(table_of(["file", "bytes"], [[name, f"{size:,}"] for name, size in found.files.items()]))
    say(*(f"note: {note}" for note in found.notes))
    say(f"{'would go to' if dry_run else 'sent to'} {found.repo}" + (f": {found.url}" if found.url else ""))
