"""Model cards of a run's exported folders, written anew with what was measured since."""

from __future__ import annotations

from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.layout import read_recipe, roles_of
from rmtkd_edge.run.records.export import ExportRecord


def refresh_cards(run: Run) -> None:
    """Write the model card of every exported folder of a run anew; one that somebody changed stays as it is."""
    from rmtkd_edge.export.card import card
    from rmtkd_edge.export.origin import edited_card, origin_of

    recipe = read_recipe(run)
    for role in roles_of(run):
        if run.has(role.record) and edited_card(run, role) is None:
            record = run.read_record(ExportRecord, role.record)
            run.write_text(role.card, card(record, origin_of(run, recipe, role)))
