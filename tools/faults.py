"""Kill the stages at random moments and change their inputs at random: does a run end as if nothing had happened?

    python tools/faults.py [--seed 0] [--kills 5] [--mutations 50] [--cases text,images] [--stages compress,export]

Every kill (SIGKILL, SIGTERM, SIGINT in turn) falls at a uniform moment of the stage's own duration; the same command is
given again until it is done. The run must then have the ranks, metrics and files of one that was left alone, and no
leftovers. Every mutation puts an odd value or a flipped byte somewhere into a recipe, a hardware profile, a
results.json whose digest is remade, or a run.json; the command must end with exit code 0 or 2, in time. Stages run in
forks of this process, which has imported what they need. Exit code 1 where anything failed.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from rmtkd_edge.cli.app import main as rmtkd_edge
from rmtkd_edge.errors import RmtkdError
from rmtkd_edge.profile.measuring.store import digest_of
from rmtkd_edge.run.directory import Run
from rmtkd_edge.run.folders import files_of

sys.path.insert(0, str(Path(__file__).resolve().parent))
import faults_data

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
STAGES = ("compress", "export", "profile", "report")
PATIENCE_S = 300.0  # after which a command counts as hung
AGAIN = 5  # times that a command is given until it must be done
VOLATILE = {"seconds", "created", "finished", "version", "time", "threads"}
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


@dataclass
class Tally:
    """What was tried of one kind, and what went wrong."""

    kind: str
    tried: int = 0
    failures: list[str] = field(default_factory=list)

    def note(self, ok: bool, what: str) -> None:
        """Count a trial."""
        self.tried += 1
        self.failures += [] if ok else [what]


def started(argv: list[str], log: Path) -> int:
    """Run a command of the program in a fork; return its process id."""
    pid = os.fork()
    if pid:
        return pid
    code: Any = 3
    try:
        with open(log, "w", encoding="utf-8") as file:
            for number in (1, 2):
                os.dup2(file.fileno(), number)
        for number in SIGNALS[1:]:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        rmtkd_edge(argv)
    except SystemExit as left:
        code = left.code
    finally:
        sys.stdout.flush()
        os._exit(code if isinstance(code, int) else 0)


def ended(pid: int, patience_s: float = PATIENCE_S) -> int | None:
    """Return the exit code of a fork (negative: the signal), None where it had to be killed."""
    end = time.monotonic() + patience_s
    while time.monotonic() < end:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def call(argv: list[str], log: Path) -> int | None:
    """Run a command to its end and return its exit code, None where it hung."""
    return ended(started(argv, log))


def plain(value: Any) -> Any:
    """Return JSON without what differs between two equal runs."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VOLATILE}
    return [plain(item) for item in value] if isinstance(value, list) else value


def outcome(run: Path, stage: str) -> Any:
    """Return what a stage left that must not depend on how often it was killed."""
    if stage == "compress":
        opened = Run.open(run)
        weights = {k: v for k, v in opened.manifest["files"].items() if k.endswith(".safetensors")}
        return plain(opened.read_json("compress/result.json")), weights
    if stage == "export":
        return [plain(json.loads((run / folder / "rmtkd.json").read_text())) for folder in ("export", "baseline")]
    if stage == "profile":
        results = json.loads((run / "profile/local-cpu.json").read_text())["results"]
        return [(r["label"], r["model"]["sha256"], r["workload"]) for r in results]
    return [(name, (run / "report" / name).read_bytes()) for name in files_of(run / "report")]


def faults_of(run: Path) -> str:
    """Return what is wrong with the files of a run: damaged ones, and those that no stage should leave."""
    opened = Run.open(run)
    stray = [n for n in files_of(run) if n not in opened.manifest["files"] and n != "run.json"]
    return "; ".join([*(f"{rel} {why}" for rel, why in opened.damaged().items()), *(f"{n} is left" for n in stray)])


def kill(case: faults_data.Case, stage: str, before: Path, duration: float, rng: random.Random, work: Path) -> str:
    """Kill a stage at a random moment, give its command again until it is done; return "" or how it ended otherwise."""
    run, log, name = work / "killed" / case.whole.name, work / "log.txt", rng.choice(SIGNALS)
    shutil.rmtree(run, ignore_errors=True)
    if before.exists():
        shutil.copytree(before, run)
    argv, wait = case.command(stage, run), rng.uniform(0, duration)
    pid = started(argv, log)
    time.sleep(wait)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, name)
    what, code = f"{case.name} {stage}, {name.name} after {wait:.2f} s", ended(pid)
    if code not in (0, 130, -int(name)):
        return f"{what}: exit {code}: {log.read_text()[-400:]}"
    for _ in range(AGAIN):
        code = call(argv, log)
        text = log.read_text()
        if code == 0 or (code == 2 and ("--force" in text or "finished run" in text)):
            return (
                ""
                if outcome(run, stage) == outcome(case.whole, stage) and not faults_of(run)
                else (f"{what}: not what it would have been: {faults_of(run) or 'other results'}")
            )
    return f"{what}: exit {code} when repeated: {log.read_text()[-400:]}"


def kills(case: faults_data.Case, stages: list[str], count: int, rng: random.Random, work: Path) -> Iterator[Tally]:
    """Run a case whole, stage by stage, and kill every stage `count` times from where it begins."""
    for stage in STAGES[: max(STAGES.index(name) for name in stages) + 1]:
        before = work / f"{case.name}-before-{stage}"
        if case.whole.exists():
            shutil.copytree(case.whole, before)
        begin = time.monotonic()
        code = call(case.command(stage, case.whole), work / "log.txt")
        if code != 0:
            raise SystemExit(f"{case.name} {stage}: exit {code}: {(work / 'log.txt').read_text()[-1000:]}")
        duration, tally = time.monotonic() - begin, Tally(f"{case.name}: kills of {stage}")
        for _ in range(count if stage in stages else 0):
            fault = kill(case, stage, before, duration, rng, work)
            tally.note(not fault, fault)
        yield tally


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


def main() -> None:
    """Run the campaign and print its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kills", type=int, default=5, help="of every stage of every case")
    parser.add_argument("--mutations", type=int, default=50, help="of every kind of document")
    parser.add_argument("--cases", default="text,images")
    parser.add_argument("--stages", default=",".join(STAGES))
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    faults_data.warm_up()
    tallies: list[Tally] = []
    with tempfile.TemporaryDirectory(prefix="rmtkd-faults-") as folder:
        work, rng = Path(folder), random.Random(asked.seed)
        for name in asked.cases.split(","):
            case = faults_data.make_case(name, work)
            tallies += kills(case, asked.stages.split(","), asked.kills, rng, work)
            if name == "text" and asked.mutations:
                tallies += mutations(case, asked.mutations, rng, work)
    for t in tallies if not asked.json else ():
        print(f"{t.kind:28} {t.tried:4} tried, {t.tried - len(t.failures):4} survived")
        print(*(f"    {failure}" for failure in t.failures), sep="\n", end="\n" if t.failures else "")
    if asked.json:
        print(json.dumps([vars(t) for t in tallies], indent=1))
    sys.exit(1 if any(t.failures for t in tallies) else 0)


if __name__ == "__main__":
    try:
        main()
    except RmtkdError as error:
        sys.exit(f"{error.message}; {error.hint}")
