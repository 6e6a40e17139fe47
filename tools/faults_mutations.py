"""Odd values and damaged bytes in documents that come from elsewhere: the command that reads one ends with 0 or 2."""

from __future__ import annotations

import copy
import json
import random
import shutil
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults_data
import tomli_w
from faults_trials import Tally, call, refusal, rmtkd_edge

from rmtkd_edge.profile.measuring.command import main as runner
from rmtkd_edge.profile.measuring.store import digest_of

BYTES = 0.25  # of the trials change bytes in place of a value
ODD: list[Any] = [
    None,
    -1,
    0,
    2**31,
    10**30,
    1e308,
    float("nan"),
    "",
    "x" * 300,
    "<script>",
    [],
    [[]],
    {},
    True,
    "../..",
]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in nested tables; of lists the first three."""
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def mutated(value: Any, rng: random.Random) -> tuple[Any, str]:
    """Return a copy with one odd value in it, and what was changed."""
    changed = copy.deepcopy(value)
    path = rng.choice(list(places(value)))
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = rng.choice(ODD)
    return changed, f"{'.'.join(map(str, path))} = {str(part[path[-1]])[:40]}"


def without_none(value: Any) -> Any:
    """Return tables for TOML, which has no null."""
    if isinstance(value, dict):
        return {key: without_none(item) for key, item in value.items() if item is not None}
    return [without_none(item) for item in value if item is not None] if isinstance(value, list) else value


def damaged(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Return bytes of which one is another, or of which the end is cut off, and what was changed."""
    place = rng.randrange(len(data))
    if rng.random() < 0.3:
        return data[:place], f"cut off at byte {place}"
    return data[:place] + bytes([data[place] ^ rng.randrange(1, 256)]) + data[place + 1 :], f"byte {place} changed"


@dataclass(frozen=True)
class Kind:
    """A document that is changed, where it is put, and the command that reads it there."""

    name: str
    document: dict[str, Any]
    place: Path
    argv: list[str]

    def put(self, rng: random.Random) -> str:
        """Write a changed copy to its place; return what was changed."""
        changed, what = mutated(self.document, rng)
        if "digest" in self.document:
            changed["digest"] = digest_of(changed)
        toml = self.place.suffix == ".toml"
        data = (tomli_w.dumps(without_none(changed)) if toml else json.dumps(changed)).encode()
        if rng.random() < BYTES:
            data, what = damaged(data, rng)
        self.place.write_bytes(data)
        return what


def kinds(case: faults_data.Case, run: Path, bundle: Path, work: Path) -> list[Kind]:
    """Return what is mutated: `run` and `bundle` are copies that are made anew for every trial."""
    profile = tomllib.loads((faults_data.PROFILES / "generic-x86-avx2.toml").read_text(encoding="utf-8"))
    results = json.loads((case.bundle / "results.json").read_text())
    manifest, plan = (json.loads(p.read_text()) for p in (case.whole / "run.json", case.bundle / "plan.json"))
    recipe, device, measured = work / "mutated-recipe.toml", work / "mutated-profile.toml", work / "mutated.json"
    out = ["--out", str(work / "mutated-out"), "--quick", "--seq-len", "8"]
    return [
        Kind("recipe", case.recipe, recipe, ["compress", str(recipe), "--dry-run", "--data", str(case.data)]),
        Kind("profile", {**profile, "threads": 1}, device, ["bundle", str(run), "--on", str(device), *out]),
        Kind("results", results, measured, ["collect", str(run), str(measured), "--force"]),
        Kind("run.json", manifest, run / "run.json", ["report", str(run)]),
        Kind("plan", plan, bundle / "plan.json", [str(bundle / "plan.json"), str(bundle / "results.json")]),
    ]


def mutations(case: faults_data.Case, count: int, seed: int, work: Path) -> Iterator[Tally]:
    """Change documents that come from elsewhere, one value or byte each, and run the command that reads them."""
    run, bundle, log = work / "mutated-run", work / "mutated-bundle", work / "log.txt"
    for kind in kinds(case, run, bundle, work):
        tally, rng = Tally(f"{case.name}: mutated {kind.name}"), random.Random(f"{seed} {kind.name}")
        for _ in range(count):
            for place, source in ((run, case.whole), (bundle, case.bundle)):
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(source, place)
            (bundle / "results.json").unlink()
            shutil.rmtree(work / "mutated-out", ignore_errors=True)
            (work / "mutated-out.tar.gz").unlink(missing_ok=True)
            what = kind.put(rng)
            code = call(kind.argv, log, program=runner if kind.name == "plan" else rmtkd_edge)
            fault = refusal(code, log, (0, 2))
            tally.note(fault and f"{what}: {fault}")
        yield tally
