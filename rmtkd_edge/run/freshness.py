"""Whether the figures of a device are those of the files that lie in the run now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rmtkd_edge.run.directory import Run

FOLDERS = ("export", "baseline")


def replaced_files(run: Run, profile: Mapping[str, Any]) -> list[str]:
    """Return the labels of a profile's results whose file is no longer in the run (it was exported again since)."""
    there = set()
    for folder in FOLDERS:
        if run.has(f"{folder}/rmtkd.json"):
            variants = run.read_json(f"{folder}/rmtkd.json").get("variants", {})
            there |= {variant.get("sha256") for variant in variants.values()}
    results = profile.get("results", [])
    return [str(r.get("label")) for r in results if r.get("model", {}).get("sha256") not in there]


def stale_profiles(run: Run) -> list[str]:
    """Return the names of the devices that measured files which are no longer in the run."""
    rels = [rel for rel in run.manifest["files"] if rel.startswith("profile/") and rel.endswith(".json")]
    return [rel[len("profile/") : -len(".json")] for rel in rels if replaced_files(run, run.read_json(rel))]
