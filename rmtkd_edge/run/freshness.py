"""Whether what a run is continued with is what it was begun with: rows of data, files of models."""

from __future__ import annotations

from collections.abc import Mapping

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import ProfileRecord


def replaced_files(run: Run, profile: ProfileRecord) -> list[str]:
    """Return the labels of results whose file is no longer in the run, since it was exported again."""
    there = exported_files(run)
    return [result.label for result in profile.results if result.model.sha256 not in there]


def exported_files(run: Run) -> set[str]:
    """Return the sha256 of every ONNX file that a run holds."""
    records = [run.read_record(ExportRecord, role.record) for role in layout.roles_of(run) if run.has(role.record)]
    return {variant.sha256 for record in records for variant in record.variants.values()}


def stale_profiles(run: Run) -> list[str]:
    """Return the names of the devices that measured files which are no longer in the run."""
    return [
        name
        for name in layout.profile_names(run)
        if replaced_files(run, run.read_record(ProfileRecord, layout.profile_record(name)))
    ]


def refuse_other_rows(run: Run, digests: Mapping[str, str], told: str, hint: str) -> None:
    """Raise RunDirError, naming the splits, where compress was begun with other rows than there are now.

    Args:
        digests: hashes of the rows that were read now, by split.
        told: which file or split became what.
        hint: what the user can do.
    """
    known = run.stage("compress").get("rows")
    if not isinstance(known, dict) or not known or not digests or known == digests:
        return
    changed = [role for role in dict.fromkeys((*known, *digests)) if known.get(role) != digests.get(role)]
    raise RunDirError(
        f"the data are not those that {run.path} was begun with: {' and '.join(changed)} changed ({told})", hint
    )
