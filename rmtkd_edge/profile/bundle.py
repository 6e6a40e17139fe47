"""The folder transport: a bundle that measures itself anywhere, and its results brought back into the run.

rmtkd-edge bundle RUN --on raspberry-pi-5     ->  RUN-raspberry-pi-5/ and .tar.gz
(on the device)  python3 runner.py            ->  results.json beside it; onnxruntime and numpy are enough
rmtkd-edge collect RUN results.json           ->  profile/raspberry-pi-5.json in the run
"""

from __future__ import annotations

import json
import shutil
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmtkd_edge.errors import RunDirError, UserError
from rmtkd_edge.config.hardware import HardwareProfile
from rmtkd_edge.profile.document import read_document
from rmtkd_edge.profile.identity import refuse_other_machine, refuse_runtime, refuse_unknown_threads
from rmtkd_edge.profile.measuring.basics import RESULTS_SCHEMA, workload_key
from rmtkd_edge.profile.measuring.store import digest_of
from rmtkd_edge.profile.plan import Arrays, Workload, ModelFile, build_bundle, choose_workloads, find_models
from rmtkd_edge.profile.stage import assemble, choose_effort
from rmtkd_edge.run.directory import Run, sha256_file

SCHEMA = "rmtkd-edge/bundle@2"
README = """Measures {models} on this device. It needs Python 3.9 or later, onnxruntime and numpy, and no network:

    pip install onnxruntime numpy
    python3 runner.py

A run that was stopped goes on with the same command. Bring results.json back, and file it on the other machine:

    rmtkd-edge collect {run} results.json
"""


def write_bundle(
    run: Run, profile: HardwareProfile, out: Path, *, quick: bool = False, workloads: Sequence[Workload] | None = None,
    min_runs: int | None = None, min_duration_s: float | None = None, meter: str = "auto", inputs: Arrays | None = None,
    force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Write the folder `out` and `out`.tar.gz for a device, and return where they are and their size_bytes.

    The options are profile_run's. The run keeps what `collect` needs (bundles/<profile>.json). Raises UserError where
    the profile leaves the number of threads to the machine, RunDirError where `out` is there and not `force`.
    """
    refuse_runtime(profile)
    refuse_unknown_threads(profile)
    if profile.emulated:
        raise UserError(
            f"{profile.name} is emulated on this machine and needs no bundle", f"rmtkd-edge profile {run.path}"
        )
    archive = out.with_name(out.name + ".tar.gz")
    for path in (out, archive):
        if path.exists() and not force:
            raise RunDirError(f"{path} is there already", "add --force to replace it, or choose another --out")
    if out.is_symlink() or (out.exists() and not (out / "plan.json").is_file()):
        raise RunDirError(f"{out} is no bundle, and is not replaced", "choose another --out")
    effort = choose_effort(quick, min_runs, min_duration_s)
    models, notes = find_models(run)
    chosen, cut = choose_workloads(run, profile, workloads)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary) / out.name
        folder.mkdir()
        plan = build_bundle(
            run, profile, folder, models=models, workloads=chosen, effort=effort, meter=meter,
            seed=run.manifest["seed"], inputs=inputs, copy=True,
        )  # fmt: skip
        text = README.format(models=", ".join(model.label for model in models), run=run.path)
        (folder / "README.txt").write_text(text, encoding="utf-8")
        packed = Path(temporary) / archive.name
        with tarfile.open(packed, "w:gz") as tar:
            tar.add(folder, arcname=out.name, filter=_anonymous)
        described = {
            "schema": SCHEMA, "profile": profile.model_dump(mode="json"), "quick": quick, "notes": [*notes, *cut],
            "synthetic": inputs is None, "plan_sha256": sha256_file(plan), "plan": json.loads(plan.read_text()),
        }  # fmt: skip
        if out.exists():
            shutil.rmtree(out)
        folder.rename(out)
        packed.replace(archive)
    run.write_json(f"bundles/{profile.name}.json", described)
    return {"folder": str(out), "archive": str(archive), "size_bytes": archive.stat().st_size, "profile": profile.name,
            "models": [model.label for model in models]}  # fmt: skip


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Leave out who packed it, and when."""
    member.uid = member.gid = member.mtime = 0
    member.uname = member.gname = ""
    return member


def collect(run: Run, file: Path, *, force: bool = False) -> dict[str, Any]:
    """Check a bundle's results.json, write profile/<name>.json into the run and return it.

    Raises UserError naming the file where it is unreadable, unfinished, altered, of another bundle, or of a machine
    that the profile does not describe; RunDirError where the device was measured already and not `force`.
    """
    document = read_results(file)
    name = str(document.get("profile"))
    rel = f"bundles/{name}.json"
    known = run.read_json(rel) if name.replace("-", "").isalnum() and run.has(rel) else None
    if known is None:
        raise UserError(
            f"{file} is of a bundle for `{name}`, and {run.path} made none", f"rmtkd-edge bundle {run.path}"
        )
    if document.get("plan_sha256") != known["plan_sha256"]:
        raise UserError(
            f"{file} was measured with another plan than the last bundle of {run.path} for {name}",
            "measure with that bundle, unchanged",
        )
    profile = HardwareProfile.model_validate(known["profile"])
    refuse_other_machine(document["env"], profile, str(file))
    models = _same_models(run, known["plan"], file)
    _check_cells(document, known["plan"], file)
    target = f"profile/{name}.json"
    if run.has(target) and not force:
        raise RunDirError(f"{run.path} was measured on {name} already", "add --force to replace those figures")
    seed = int(known["plan"]["seed"])
    out = assemble(document, profile, models, known["notes"], seed, known["quick"], synthetic=known["synthetic"])
    run.write_json(target, out)
    run.mark("profile", "done", on=name, results=len(out["results"]))
    return out


def read_results(file: Path) -> dict[str, Any]:
    """Return the runner's finished document; raise UserError naming the file and what is wrong with it."""
    document = read_document(file, "give the results.json of a bundle, copied whole from the device")
    if not isinstance(document, dict) or document.get("schema") != RESULTS_SCHEMA:
        raise UserError(f"{file} holds no results of runner.py", "give the results.json of a bundle")
    if not document.get("complete"):
        refused = document.get("error") or {}
        why = f": {refused['message']}" if isinstance(refused, dict) and refused.get("message") else ""
        raise UserError(f"{file} is not finished{why}", "python3 runner.py on the device goes on where it stopped")
    if document.get("digest") != digest_of(document):
        raise UserError(f"{file} was altered after it was measured: its digest does not fit", "copy it again")
    return document


def _same_models(run: Run, plan: dict[str, Any], file: Path) -> list[ModelFile]:
    """Return the run's models; raise UserError where they are no longer those of the plan."""
    models, _ = find_models(run)
    if {m.label: m.sha256 for m in models} != {m["label"]: m["sha256"] for m in plan["models"]}:
        raise UserError(
            f"{run.path} was exported again since the bundle of {file} was made", f"rmtkd-edge bundle {run.path}"
        )
    return models


def _check_cells(document: dict[str, Any], plan: dict[str, Any], file: Path) -> None:
    """Raise UserError unless there is one result for every model and workload of the plan, with the plan's hashes."""
    wanted = {(m["label"], m["sha256"], workload_key(workload)) for m in plan["models"] for workload in plan["workloads"]}
    try:
        found = {(r["label"], r["model"]["sha256"], workload_key(r["workload"])) for r in document["results"]}
    except (KeyError, TypeError) as err:
        raise UserError(f"{file}: a result lacks {err}", "copy it again from the device") from err
    if found != wanted or len(document["results"]) != len(wanted):
        raise UserError(f"{file} has other results than its plan asks for", "measure with the bundle, unchanged")
