"""Odd values in documents that come from elsewhere: the command that reads one ends with exit code 0 or 2, in time."""

from __future__ import annotations

import copy
import json
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faults_data
import tomli_w
from faults_trials import Tally, call, refusal

from rmtkd_edge.profile.measuring.store import digest_of

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


def results_of(run: Path, work: Path) -> dict[str, Any]:
    """Return the results.json of a bundle of a run, which then knows the bundle; {} where nothing was exported."""
    if not (run / "export").is_dir():
        return {}
    short = ["--batch-size", "1", "--seq-len", "8", "--quick", "--iterations", "5", "--duration", "0"]
    board, out = faults_data.board(work / "board.toml"), work / "bundle"
    call(["bundle", str(run), "--on", str(board), "--out", str(out), *short], work / "log.txt")
    subprocess.run([sys.executable, str(out / "runner.py")], check=True, capture_output=True)
    return dict(json.loads((out / "results.json").read_text()))


def mutations(case: faults_data.Case, count: int, rng: random.Random, work: Path) -> Iterator[Tally]:
    """Change documents that come from elsewhere, one value each, and run the command that reads them."""
    run, out, log = work / "mutated-run", work / "mutated-out", work / "log.txt"
    profile = tomllib.loads((faults_data.PROFILES / "generic-x86-avx2.toml").read_text(encoding="utf-8"))
    results = results_of(case.whole, work)
    manifest = json.loads((case.whole / "run.json").read_text())
    sources = {"recipe": case.recipe, "profile": {**profile, "threads": 1}, "results": results, "run.json": manifest}
    for kind, document in sources.items():
        tally = Tally(f"mutated {kind}")
        for _ in range(count if document else 0):
            changed, what = mutated(document, rng)
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(case.whole, run)
            file = work / f"mutated.{'toml' if kind in ('recipe', 'profile') else 'json'}"
            if kind == "results":
                changed["digest"] = digest_of(changed)
            text = tomli_w.dumps(without_none(changed)) if file.suffix == ".toml" else json.dumps(changed)
            file.write_text(text, encoding="utf-8")
            if kind == "run.json":
                shutil.copy(file, run / "run.json")
            commands = {
                "recipe": ["compress", str(file), "--dry-run", "--data", str(case.data)],
                "profile": ["bundle", str(run), "--on", str(file), "--out", str(out), "--quick", "--seq-len", "8"],
                "results": ["collect", str(run), str(file), "--force"],
                "run.json": ["report", str(run)],
            }
            shutil.rmtree(out, ignore_errors=True)
            out.with_name(out.name + ".tar.gz").unlink(missing_ok=True)
            code = call(commands[kind], log)
            tally.note(code in (0, 2), f"{kind}: {what}: exit {code}: {log.read_text()[-300:]}")
        yield tally
