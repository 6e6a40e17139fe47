"""Run directories in, `RunFacts` out: what is there is checked and read, what is not is named with its command."""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rmtkd_edge.errors import RunDirError
from rmtkd_edge.run.freshness import replaced_files, stale_profiles
from rmtkd_edge.report.parse import Table, read_cycle, read_exported, read_profile
from rmtkd_edge.report.records import Compression, Cycle, Exported, Missing, Profile, Quantity, RunFacts

if TYPE_CHECKING:
    from rmtkd_edge.run.directory import Run


def collect(runs: Sequence[Run]) -> tuple[RunFacts, ...]:
    """Return the facts of every run, in the order given.

    Raises RunDirError for a file that is damaged, of another schema, or not the one that the manifest names.
    """
    names = _distinct_names(runs)
    return tuple(_collect_one(run, name) for run, name in zip(runs, names, strict=True))


def _collect_one(run: Run, name: str) -> RunFacts:
    manifest = run.manifest
    text = run.read_text("recipe.toml") if _there(run, "recipe.toml") else ""
    try:
        recipe = tomllib.loads(text)
    except tomllib.TOMLDecodeError as err:
        raise RunDirError(
            f"{run.path}/recipe.toml is not valid TOML: {err}", f"rmtkd-edge compress RECIPE --out {name} --force"
        ) from err
    profiles = _profiles(run)
    where = shlex.quote(str(run.path))
    command = f"rmtkd-edge profile {where} --on PROFILE"
    return RunFacts(
        name=name,
        title=str(recipe.get("title") or ""),
        version=str(manifest.get("version", "")),
        created=str(manifest.get("created", "")),
        seed=int(manifest.get("seed", 0)),
        recipe_text=text,
        recipe_sha256=str(manifest.get("recipe_sha256", "")),
        stages={k: dict(v) for k, v in sorted(manifest.get("stages", {}).items()) if k != "report"},
        compression=_compression(run, recipe, f"rmtkd-edge compress {where}/recipe.toml --out {where}"),
        exported=_exported(run, "export", f"rmtkd-edge export {where}"),
        baseline=_exported(run, "baseline", f"rmtkd-edge export {where}"),
        profiles=profiles,
        no_profile=None if profiles else _no_profile(run, where, command),
    )


def _distinct_names(runs: Sequence[Run]) -> list[str]:
    """Return the folder names, with as many parents as it takes to tell two runs apart."""
    paths = [run.path.resolve() for run in runs]
    for depth in range(1, max(len(p.parts) for p in paths) + 1):
        names = ["/".join(p.parts[-depth:]) for p in paths]
        if len(set(names)) == len(set(paths)):
            break
    return names


def _there(run: Run, rel: str) -> bool:
    return rel in run.manifest.get("files", {})


def _recorded(run: Run, pattern: str) -> list[str]:
    return sorted(rel for rel in run.manifest.get("files", {}) if re.fullmatch(pattern, rel))


def _missing(run: Run, stage: str, command: str) -> Missing:
    state = run.manifest.get("stages", {}).get(stage, {}).get("state")
    why = f"{stage} was begun and did not finish" if state == "running" else f"{stage} has not been run"
    return Missing(stage, why, command)


def _no_profile(run: Run, where: str, command: str) -> Missing:
    stale = stale_profiles(run)
    if not stale:
        return _missing(run, "profile", command)
    why = f"what {', '.join(stale)} measured are files that were exported again since"
    return Missing("profile", why, f"rmtkd-edge profile {where} --on {','.join(stale)}")


def _compression(run: Run, recipe: dict[str, Any], command: str) -> Compression | Missing:
    if _there(run, "compress/result.json"):
        table = Table(run.read_json("compress/result.json"), "compress/result.json")
        table.expect("rmtkd-edge/compress@")
        cycles = tuple(
            _cycle(run, Table(c, f"compress/result.json cycle {i}")) for i, c in enumerate(table.list("cycles"), 1)
        )
        return _finished(table, cycles, recipe)
    rels = _recorded(run, r"compress/cycles/[^/]+/cycle\.json")
    if not rels:
        return _missing(run, "compress", command)
    cycles = tuple(_cycle(run, Table(run.read_json(rel), rel)) for rel in rels)
    return _unfinished(cycles, recipe, _missing(run, "compress", command))


def _finished(table: Table, cycles: tuple[Cycle, ...], recipe: dict[str, Any]) -> Compression:
    teacher, student, task = table.table("teacher"), table.table("student"), table.table("task")
    accuracy = teacher.quantity("accuracy")
    return Compression(
        missing=None,
        task=task.text("name"),
        metric=task.text("metric") or "accuracy",
        train_rows=task.quantity("train_rows"),
        validation_rows=task.quantity("validation_rows"),
        teacher_parameters=teacher.quantity("parameters"),
        teacher_accuracy=accuracy,
        teacher_trained=teacher.data.get("trained"),
        student_parameters=student.quantity("parameters"),
        student_accuracy=student.quantity("accuracy"),
        reduction=table.quantity("reduction"),
        accuracy_drop=table.quantity("accuracy_drop"),
        stop=table.text("stop"),
        one_shot=bool(table.data.get("one_shot", False)),
        seconds=table.quantity("seconds"),
        cycles=cycles,
        floor=_floor(accuracy, recipe),
    )


def _unfinished(cycles: tuple[Cycle, ...], recipe: dict[str, Any], missing: Missing) -> Compression:
    """Return what the cycles alone tell: the first one began with the teacher, the last accepted one is the student."""
    no = Quantity(None, f"{missing.why}; {missing.command}")
    task = recipe.get("task", {})
    kept = [c for c in cycles if c.accepted]
    teacher = cycles[0].accuracy_before
    return Compression(
        missing=missing,
        task=str(task.get("name", "")),
        metric="accuracy",
        train_rows=no,
        validation_rows=no,
        teacher_parameters=Quantity(float(cycles[0].parameters_before)),
        teacher_accuracy=teacher,
        teacher_trained=None,
        student_parameters=Quantity(float(kept[-1].parameters_after)) if kept else no,
        student_accuracy=kept[-1].accuracy_after if kept else no,
        reduction=Quantity(1 - kept[-1].parameters_after / cycles[0].parameters_before) if kept else no,
        accuracy_drop=no,
        stop="",
        one_shot=False,
        seconds=no,
        cycles=cycles,
        floor=_floor(teacher, recipe),
    )


def _floor(teacher: Quantity, recipe: dict[str, Any]) -> Quantity:
    drop = recipe.get("stop", {}).get("max_accuracy_drop")
    if drop is None:
        return Quantity(None, "the recipe names no stop.max_accuracy_drop")
    if teacher.value is None:
        return Quantity(None, teacher.why)
    if float(drop) >= teacher.value:
        return Quantity(None, f"stop.max_accuracy_drop = {float(drop):g} allows any accuracy")
    return Quantity(teacher.value - float(drop), source=f"teacher minus {float(drop):g}")


def _cycle(run: Run, table: Table) -> Cycle:
    rel = f"compress/cycles/{int(table.need('index')):03d}/spectra.safetensors"
    spectra: dict[str, tuple[float, ...]] = {}
    if _there(run, rel):
        suffix = ".eigenvalues"
        for key, tensor in run.read_tensors(rel).items():
            if key.endswith(suffix):
                values = np.sort(np.asarray(tensor, dtype=np.float64).ravel())[::-1]
                if not np.isfinite(values).all():
                    raise RunDirError(f"{rel}: {key} holds values that are not finite", "compress the run again")
                spectra[key.removesuffix(suffix)] = tuple(values.tolist())
    return read_cycle(table, spectra)


def _exported(run: Run, folder: str, command: str) -> Exported | Missing:
    rel = f"{folder}/rmtkd.json"
    if not _there(run, rel):
        missing = _missing(run, "export", command)
        why = missing.why if folder == "export" else f"{missing.why} for the original model"
        return Missing("export", why, command)
    return read_exported(Table(run.read_json(rel), rel))


def _profiles(run: Run) -> tuple[Profile, ...]:
    profiles = []
    for rel in _recorded(run, r"profile/[^/]+\.json"):
        data = run.read_json(rel)
        ours = isinstance(data, dict) and re.match(r"rmtkd-edge/profile@", str(data.get("schema", "")))
        if ours and not replaced_files(run, data):
            profiles.append(read_profile(Table(data, rel)))
    return tuple(sorted(profiles, key=lambda profile: bool(profile.agreement)))  # headlines quote the first one's times
