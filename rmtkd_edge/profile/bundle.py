"""The folder transport: a bundle that measures itself anywhere, and its results brought back into the run.

rmtkd-edge bundle RUN --on raspberry-pi-5     ->  RUN-raspberry-pi-5/ and .tar.gz
(on the device)  python3 runner.py            ->  results.json next to it; onnxruntime and numpy are enough
rmtkd-edge collect RUN results.json           ->  profile/raspberry-pi-5.json in the run
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.hashing import sha256_file
from rmtkd_edge.profile.assemble import assemble
from rmtkd_edge.profile.bundle_place import LIST, read_list, refuse_place, write_list
from rmtkd_edge.profile.foreign import check_measurement
from rmtkd_edge.profile.identity import refuse_other_machine, refuse_runtime, refuse_unknown_threads
from rmtkd_edge.profile.measuring.basics import RESULTS_SCHEMA, workload_key
from rmtkd_edge.profile.measuring.store import digest_of
from rmtkd_edge.profile.models import Exported, find_models
from rmtkd_edge.profile.options import BundleOptions, profile_of
from rmtkd_edge.profile.plan import Measurement, build_bundle, prepare
from rmtkd_edge.profile.workload import Effort, Workload
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.folders import replace_folder, sweep_builds
from rmtkd_edge.run.layout import bundle_record, profile_record
from rmtkd_edge.run.records.base import read_json_file
from rmtkd_edge.run.records.bundle import BundleRecord
from rmtkd_edge.run.records.profile import ProfileRecord

README = """Measures {models} on this device. It needs Python 3.9, onnxruntime 1.18 (or later ones) and
numpy, and no network:

    pip install onnxruntime numpy
    python3 runner.py

A run that was stopped continues with the same command. Bring results.json back, and file it on the other machine:

    rmtkd-edge collect {run} results.json
"""


@dataclass(frozen=True)
class Bundle:
    """What was written: the folder, the same as an archive, and the labels of the models in it."""

    folder: Path
    archive: Path
    size_bytes: int
    profile: str
    models: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the bundle for JSON."""
        return {**vars(self), "folder": str(self.folder), "archive": str(self.archive), "models": list(self.models)}


def write_bundle(run: Run, options: BundleOptions) -> Bundle:
    """Write a folder and its .tar.gz for a device; the run keeps what `collect` needs (bundles/NAME.json).

    Raises:
        UserError: the profile leaves the number of threads to the machine, or needs no bundle.
        RunDirError: the folder is there already and not `force`, or is no bundle.
    """
    profile = profile_of(options.on, options.threads)
    _refuse_profile(run, profile)
    here = run.path.resolve()
    out = options.out or here.with_name(f"{here.name}-{profile.name}")
    if out.name in ("", ".."):
        raise RunDirError(f"{out} names no folder for a bundle", f"--out {here.name}-{profile.name}")
    try:
        return _write(run, options, profile, out)
    except OSError as err:
        where = err.filename or out
        raise RunDirError(
            f"cannot write {where}: {err.strerror or err}", "free space, or choose another --out"
        ) from err


def _write(run: Run, options: BundleOptions, profile: HardwareProfile, out: Path) -> Bundle:
    archive = out.with_name(out.name + ".tar.gz")
    refuse_place(out, archive, options.force)
    measurement = prepare(find_models(run), profile, options, run.manifest["seed"])
    models = tuple(model.label for model in measurement.exported.models)
    out.parent.mkdir(parents=True, exist_ok=True)
    sweep_builds(out, (out.name, archive.name))
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        plan = build_bundle(folder, measurement, copy=True)
        text = README.format(models=", ".join(models), run=run.path)
        (folder / "README.txt").write_text(text, encoding="utf-8")
        write_list(folder)
        packed = Path(temporary) / archive.name
        with tarfile.open(packed, "w:gz") as tar:
            tar.add(folder, arcname=out.name, filter=_anonymous)
        record = BundleRecord(
            profile=profile.model_dump(mode="json"),
            quick=options.quick,
            notes=measurement.notes,
            plan_sha256=sha256_file(plan),
            plan=json.loads(plan.read_text(encoding="utf-8")),
        )
        replace_folder(folder, out, read_list(out), LIST)
        packed.replace(archive)
    run.write_record(bundle_record(profile.name), record)
    return Bundle(out, archive, archive.stat().st_size, profile.name, models)


def _refuse_profile(run: Run, profile: HardwareProfile) -> None:
    refuse_runtime(profile)
    refuse_unknown_threads(profile)
    if profile.emulated:
        raise UserError(
            f"{profile.name} is emulated on this machine and needs no bundle", f"rmtkd-edge profile {run.path}"
        )


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who packed it, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def collect(run: Run, file: Path, force: bool = False) -> ProfileRecord:
    """Check a bundle's results.json, write profile/NAME.json into the run and return it.

    Raises:
        UserError: naming the file where it is unreadable, unfinished, altered, of another bundle, or of a machine that
            the profile does not describe.
        RunDirError: the device was measured already and not `force`.
    """
    document = read_results(file)
    known = _bundle_of(run, document, file)
    profile = HardwareProfile.model_validate(known.profile)
    refuse_other_machine(document["env"], profile, str(file))
    exported = _same_models(run, known.plan, file)
    _check_cells(document, known.plan, file)
    if run.has(profile_record(profile.name)) and not force:
        raise RunDirError(f"{run.path} was measured on {profile.name} already", "add --force to replace those figures")
    record = assemble(document, _measurement(known, profile, exported), file)
    run.write_record(profile_record(profile.name), record)
    run.mark("profile", "done", on=profile.name, results=len(record.results))
    return record


def _bundle_of(run: Run, document: Mapping[str, Any], file: Path) -> BundleRecord:
    """Return what the run knows of the bundle that a document is from; raise UserError for another one."""
    name = str(document.get("profile"))
    rel = bundle_record(name)
    if not name.replace("-", "").isalnum() or not run.has(rel):
        raise UserError(
            f"{file} is of a bundle for `{name}`, and {run.path} made none", f"rmtkd-edge bundle {run.path}"
        )
    known = run.read_record(BundleRecord, rel)
    if document.get("plan_sha256") != known.plan_sha256:
        raise UserError(
            f"{file} was measured with another plan than the last bundle of {run.path} for {name}",
            "measure with that bundle, unchanged",
        )
    return known


def _measurement(known: BundleRecord, profile: HardwareProfile, exported: Exported) -> Measurement:
    plan = known.plan
    workloads = tuple(Workload(item["batch"], item["seq"]) for item in plan["workloads"])
    effort = Effort(**{name: plan[name] for name in Effort.__dataclass_fields__})
    return Measurement(exported, profile, workloads, effort, "auto", plan["seed"], known.quick, known.notes)


def read_results(file: Path) -> dict[str, Any]:
    """Return the runner's finished document; raise UserError naming the file and what is wrong with it."""
    document = read_json_file(file, "give the results.json of a bundle, copied whole from the device")
    if not isinstance(document, dict) or document.get("schema") != RESULTS_SCHEMA:
        found = document.get("schema") if isinstance(document, dict) else None
        why = f" (schema {found}, {RESULTS_SCHEMA} is read)" if found else ""
        raise UserError(f"{file} holds no results of runner.py{why}", "give the results.json of a bundle")
    if not document.get("complete"):
        refused = document.get("error") or {}
        why = f": {refused['message']}" if isinstance(refused, dict) and refused.get("message") else ""
        raise UserError(f"{file} is not finished{why}", "python3 runner.py on the device continues where it stopped")
    if document.get("digest") != digest_of(document):
        raise UserError(f"{file} was altered after it was measured: its digest does not fit", "copy it again")
    check_measurement(document, file, "measure again on the device with the bundle, unchanged", finished=True)
    return document


def _same_models(run: Run, plan: Mapping[str, Any], file: Path) -> Exported:
    """Return the run's models; raise UserError where they are no longer those of the plan."""
    exported = find_models(run)
    if {m.label: m.sha256 for m in exported.models} != {m["label"]: m["sha256"] for m in plan["models"]}:
        raise UserError(
            f"{run.path} was exported again since the bundle of {file} was made", f"rmtkd-edge bundle {run.path}"
        )
    return exported


def _check_cells(document: Mapping[str, Any], plan: Mapping[str, Any], file: Path) -> None:
    """Raise UserError unless there is one result for every model and workload of the plan, with the plan's hashes."""
    wanted = {(m["label"], m["sha256"], workload_key(w)) for m in plan["models"] for w in plan["workloads"]}
    try:
        found = {(r["label"], r["model"]["sha256"], workload_key(r["workload"])) for r in document["results"]}
    except (KeyError, TypeError) as err:
        raise UserError(f"{file}: a result lacks {err}", "copy it again from the device") from err
    if found != wanted or len(document["results"]) != len(wanted):
        raise UserError(f"{file} has other results than its plan asks for", "measure with the bundle, unchanged")
