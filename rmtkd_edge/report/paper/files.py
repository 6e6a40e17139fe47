"""Exported files and what they cost on devices: what runs that were exported and profiled say of int8 and graphs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.report.collect import collect
from rmtkd_edge.report.paper.find import Skipped
from rmtkd_edge.report.paper.record import FileRecord
from rmtkd_edge.report.records import Profile, RunFacts
from rmtkd_edge.report.summary import Model, gain_of, headline_workload, models
from rmtkd_edge.run import layout
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.records.export import ExportRecord


def read_files(runs: Sequence[str]) -> tuple[list[FileRecord], list[Skipped]]:
    """Return the files of the runs that were exported, and of which runs they cannot be read."""
    found: list[FileRecord] = []
    skipped = []
    for name in runs:
        try:
            run = Run.open(Path(name))
            if run.has(layout.ROLES["candidate"].record):
                (facts,) = collect([run])
                found += _files(facts, name)
        except RmtkdError as err:
            skipped.append(Skipped(name, f"its exported files are left out: {err.message}", err.hint))
    return found, skipped


def _files(facts: RunFacts, run: str) -> Iterator[FileRecord]:
    shown = [model for model in models(facts) if model.variant and not model.variant.refused]
    for model in shown:
        file, places = _file(model, shown, run), [profile for profile in facts.timed if _measured(profile, model)]
        yield from (_on(file, profile) for profile in places) if places else (file,)


def _measured(profile: Profile, model: Model) -> bool:
    workload = headline_workload(profile)
    return workload is not None and profile.find(model.label, workload) is not None


def _file(model: Model, shown: Sequence[Model], run: str) -> FileRecord:
    assert model.variant is not None and isinstance(model.exported, ExportRecord), "only exported files are shown"
    precision = model.label.split()[-1]
    whole = next((m.scores for m in shown if m.label == f"{layout.model_of(model.label)} fp32"), None)
    scores = model.scores
    change = scores.value - whole.value if scores and whole and precision != "fp32" else None
    return FileRecord(
        run=run,
        label=model.label,
        precision=precision,
        graph=str(model.exported.graph.get("name", "")),
        disk_bytes=model.variant.size_bytes,
        value=scores.value if scores else None,
        change=change,
        percent=scores.percent if scores else False,
    )


def _on(facts: FileRecord, profile: Profile) -> FileRecord:
    """Return a file with its cost on a device, under the workload that headlines quote."""
    workload = headline_workload(profile)
    assert workload is not None, "the file was measured"
    result = profile.find(facts.label, workload)
    assert result is not None, "the file was measured"
    gain = gain_of(profile, facts.label, workload)
    energy = result.energy.j_per_inf_gross if result.energy.kind.startswith("measured") else None
    mean = result.latency.mean
    return replace(
        facts,
        device=profile.name,
        workload=str(workload),
        p50_ms=result.latency.p50,
        speedup=gain[0] if gain else None,
        memory_bytes=result.memory.peak_rss_bytes,
        joules=energy,
        watts=energy / (mean / 1e3) if energy is not None and mean else None,
    )
