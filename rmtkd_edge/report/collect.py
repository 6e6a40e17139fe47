"""Run directories in, `RunFacts` out: what is there is checked and read, what is not is named with its command."""

from __future__ import annotations

import shlex
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tomli_w

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.report.records import Compression, Missing, Profile, RunFacts, Spectra
from rmtkd_edge.run import layout
from rmtkd_edge.run.freshness import exported_files, replaced_files, stale_profiles
from rmtkd_edge.run.records.compress import CompressRecord
from rmtkd_edge.run.records.cycle import CycleRecord
from rmtkd_edge.run.records.data import DataSummary
from rmtkd_edge.run.records.explain import ExplainRecord
from rmtkd_edge.run.records.export import ExportRecord
from rmtkd_edge.run.records.profile import ProfileRecord
from rmtkd_edge.run.records.teacher import TeacherRecord

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


def collect(runs: Sequence[Run]) -> tuple[RunFacts, ...]:
    """Return the facts of every run, in the order given.

    Raises:
        RunDirError: a file is damaged, of another schema, or not the one that the manifest names.
    """
    names = _distinct_names(runs)
    return tuple(_collect_one(run, name) for run, name in zip(runs, names, strict=True))


def _shown(recipe_text: str) -> str:
    """Return a run's recipe as others may see it: files of rows by their names, not by where they are here."""
    recipe = tomllib.loads(recipe_text)
    files = {key: Path(path).name for key in ("unlabelled", "pairs") if (path := recipe.get("task", {}).get(key))}
    return tomli_w.dumps(recipe | {"task": recipe["task"] | files}) if files else recipe_text


def _collect_one(run: Run, name: str) -> RunFacts:
    manifest, where = run.manifest, shlex.quote(str(run.path))
    compression = _compression(run, f"rmtkd-edge compress {where}/recipe.toml --out {where}")
    profiles = _profiles(run)
    return RunFacts(
        name=name,
        title=compression.record.title if isinstance(compression, Compression) and compression.record else "",
        version=str(manifest.get("version", "")),
        created=str(manifest.get("created", "")),
        seed=manifest["seed"],
        recipe_text=_shown(run.read_text(layout.RECIPE)) if run.has(layout.RECIPE) else "",
        recipe_sha256=str(manifest.get("recipe_sha256", "")),
        stages={stage: dict(facts) for stage, facts in sorted(manifest["stages"].items()) if stage != "report"},
        data=run.read_record(DataSummary, layout.DATA) if run.has(layout.DATA) else None,
        compression=compression,
        exported=_exported(run, layout.ROLES["candidate"], where),
        larger={role.student: _exported(run, role, where) for role in layout.roles_of(run) if role.student},
        baseline=_exported(run, layout.ROLES["baseline"], where),
        profiles=profiles,
        no_profile=None if profiles else _no_profile(run, where),
        explained=_explained(run, where),
    )


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Return the folder names, with as many parents as it takes to tell two runs apart."""
    paths = [run.path.resolve() for run in runs]
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-depth:]) for p in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def _missing(run: Run, stage: str, command: str) -> Missing:
    begun = run.stage(stage).get("state") == "running"
    return Missing(stage, f"{stage} was begun and did not finish" if begun else f"{stage} has not been run", command)


def _no_profile(run: Run, where: str) -> Missing:
    stale = stale_profiles(run)
    if not stale:
        return _missing(run, "profile", f"rmtkd-edge profile {where} --on PROFILE")
    why = f"what {', '.join(stale)} measured are files that were exported again since"
    return Missing("profile", why, f"rmtkd-edge profile {where} --on {','.join(stale)}")


def _compression(run: Run, command: str) -> Compression | Missing:
    if run.has(layout.RESULT):
        record = run.read_record(CompressRecord, layout.RESULT)
        return Compression(None, record, record.teacher, record.cycles, _spectra(run, record.cycles))
    missing = _missing(run, "compress", command)
    numbers = layout.cycle_numbers(run)
    if not numbers:
        return missing
    cycles = tuple(run.read_record(CycleRecord, layout.cycle_record(number)) for number in numbers)
    teacher = run.read_record(TeacherRecord, layout.TEACHER_RECORD)
    return Compression(missing, None, teacher, cycles, _spectra(run, cycles))


def _spectra(run: Run, cycles: Sequence[CycleRecord]) -> Spectra:
    found: dict[tuple[int, str], tuple[float, ...]] = {}
    for cycle in cycles:
        rel = layout.cycle_spectra(cycle.index)
        for key, values in run.read_arrays(rel).items() if run.has(rel) else ():
            if not np.isfinite(values).all():
                raise RunDirError(f"{rel}: {key} holds values that are not finite", "compress the run again")
            ordered = np.sort(values.ravel().astype(np.float64))[::-1]
            found[cycle.index, key.removesuffix(".eigenvalues")] = tuple(ordered.tolist())
    return found


def _exported(run: Run, role: layout.Role, where: str) -> ExportRecord | Missing:
    if run.has(role.record):
        return run.read_record(ExportRecord, role.record)
    missing = _missing(run, "export", f"rmtkd-edge export {where}")
    why = missing.why if role.kind == "candidate" else f"{missing.why} for the original model"
    return Missing("export", why, missing.command)


def _profiles(run: Run) -> tuple[Profile, ...]:
    records = [run.read_record(ProfileRecord, layout.profile_record(name)) for name in layout.profile_names(run)]
    fresh = [Profile(record) for record in records if not replaced_files(run, record)]
    return tuple(sorted(fresh, key=lambda profile: profile.record.emulated))


def _explained(run: Run, where: str) -> ExplainRecord | Missing | None:
    """Return the operators of the exported files, None where nobody asked for them."""
    if not run.has(layout.EXPLAIN):
        return None
    record, there = run.read_record(ExplainRecord, layout.EXPLAIN), exported_files(run)
    if all(file.sha256 in there for file in record.files):
        return record
    why = "the operators that were measured are those of files that were exported again since"
    return Missing("explain", why, f"rmtkd-edge export {where} --explain")
