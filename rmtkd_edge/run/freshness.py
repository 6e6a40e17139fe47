"""Whether the figures of a device are of the files that are in the run now."""

from __future__ import annotations

from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import ProfileRecord


def replaced_files(run: Run, profile: ProfileRecord) -> list[str]:
    """Return the labels of results whose file is no longer in the run, since it was exported again."""
    there = set()
    for role in layout.ROLES.values():
        if run.has(role.record):
            exported = run.read_record(ExportRecord, role.record)
            there |= {variant.sha256 for variant in exported.variants.values()}
    return [result.label for result in profile.results if result.model.sha256 not in there]


def stale_profiles(run: Run) -> list[str]:
    """Return the names of the devices that measured files which are no longer in the run."""
    return [
        name
        for name in layout.profile_names(run)
        if replaced_files(run, run.read_record(ProfileRecord, layout.profile_record(name)))
    ]
