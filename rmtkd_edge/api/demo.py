"""`demo`: all four stages on data and a model that Python packages ship."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmtkd_edge.errors import UserError
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import MANIFEST, Run
from rmtkd_edge.run.freshness import stale_profiles
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.reporter import Reporter

if TYPE_CHECKING:
    from rmtkd_edge.report.stage import Written

DEVICE = "local-cpu"
HUB_RECIPE = (
    'title="Demo: MiniLM-L6 on SST-2"',
    'task.name="sst2"',
    'task.hub="nyu-mll/glue"',
    'task.hub_config="sst2"',
    'task.text=["sentence"]',
    'task.labels=["negative", "positive"]',
    'task.test_split="validation"',
    'task.validation_split=""',
)


@dataclass(frozen=True)
class DemoOptions:
    """What the demo runs on: packaged sentences, packaged digits (`images`), or SST-2 from the hub or a copy of it."""

    images: bool = False
    hub: bool = False
    out: Path | None = None
    data: Path | None = None
    force: bool = False


@dataclass(frozen=True)
class DemoResult:
    """What the four stages found, and where the report is."""

    compression: CompressRecord
    baseline: ExportRecord
    exported: ExportRecord
    measured: ProfileRecord
    report: Written


def run_demo(options: DemoOptions, reporter: Reporter) -> DemoResult:
    """Run what is left of the four stages of the demo.

    Raises:
        UserError: the options do not go together.
    """
    if options.data is not None and not options.hub:
        raise UserError(
            "--data goes with --hub: it is a copy of that data set", "rmtkd-edge compress RECIPE --data ... takes yours"
        )
    if options.hub and options.images:
        raise UserError("--hub goes with --task text", "rmtkd-edge compress resnet18-cifar10 --out DIR reads the hub")
    path = options.out or Path("runs/demo-images" if options.images else "runs/demo")
    force = options.force
    for name, step in _stages(options, path, reporter).items():
        run = Run.open(path) if (path / MANIFEST).is_file() and not force else None
        done = run is not None and run.stage(name).get("state") == "done"
        done = done and not (run is not None and name == "profile" and stale_profiles(run))
        reporter.event("stage", name=f"{name} (done before)" if done else name)
        if not done:
            step(force)
        force = False  # the first stage has started the run again
    return _result(path)


def _stages(options: DemoOptions, path: Path, reporter: Reporter) -> dict[str, Callable[[bool], Any]]:
    from rmtkd_edge.api.compress import CompressOptions, compress_run
    from rmtkd_edge.api.export import ExportOptions, export_run
    from rmtkd_edge.api.profile import ProfileOptions, profile_run

    recipe, changes = ("demo-images", ()) if options.images else ("demo", HUB_RECIPE if options.hub else ())
    to_compress = CompressOptions(recipe=recipe, out=path, overrides=changes, data=options.data)

    def compress(force: bool) -> None:
        from dataclasses import replace

        compress_run(replace(to_compress, force=force), reporter)

    def export(force: bool) -> None:
        export_run(ExportOptions(run=path, data=options.data, force=True), reporter)

    def profile(force: bool) -> None:
        length = layout.read_recipe(Run.open(path)).task.max_length
        lengths = () if options.images else (length,)
        profile_run(
            ProfileOptions(run=path, on=(DEVICE,), quick=True, batch_sizes=(1,), lengths=lengths, force=True), reporter
        )

    return {"compress": compress, "export": export, "profile": profile}


def _result(path: Path) -> DemoResult:
    from rmtkd_edge.api.report import report

    run = Run.open(path)
    return DemoResult(
        compression=run.read_record(CompressRecord, layout.RESULT),
        baseline=run.read_record(ExportRecord, layout.ROLES["baseline"].record),
        exported=run.read_record(ExportRecord, layout.ROLES["candidate"].record),
        measured=run.read_record(ProfileRecord, layout.profile_record(DEVICE)),
        report=report(path),
    )
