"""`export --explain`: time by operator of what a run exported, against what this machine reaches."""

from __future__ import annotations

from rmtkd_edge.api.profile import refuse_unexported
from rmtkd_edge.export.options import ExportOptions
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.lock import open_to_write
from rmtkd_edge.run.records.explain import ExplainRecord
from rmtkd_edge.run.reporter import Reporter, SilentReporter


def asks_for_export(options: ExportOptions) -> bool:
    """Return whether options with --explain ask for an export too: nothing was exported, or something is to change."""
    exported = Run.open(options.run).stage("export").get("state") == "done"
    return not exported or options != ExportOptions(run=options.run)


def explain_exported(options: ExportOptions, reporter: Reporter | None = None) -> ExplainRecord:
    """Measure every exported file of a run operator by operator, on one thread of this machine, and keep it in the run.

    Raises:
        RunDirError: nothing was exported, or a file is not the one that was.
    """
    from rmtkd_edge.profile.explain.stage import explain_run

    with open_to_write(options.run) as run:
        refuse_unexported(run)
        return explain_run(run, reporter or SilentReporter())
